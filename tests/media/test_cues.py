"""The headers of WAV files that grow by cue points."""

import struct

import pytest

from audio.media import cues, wav
from audio.media.cues import Cue
from audio.media.samples import PcmFormat

PCM = PcmFormat("s16le", 48000, 2)


def test_the_rate_is_that_of_the_header():
    assert cues.sample_rate(wav.header(PCM, 0)) == 48000
    assert cues.sample_rate(b"RIFF") == cues.sample_rate(bytes(80)) == 0


@pytest.mark.parametrize("data_bytes", [0, 4000, 6_000_000_000])
def test_a_header_says_the_new_size(data_bytes):
    head = wav.header(PCM, data_bytes)
    grown = cues.grown_head(head, len(head) + data_bytes, 100)
    assert grown is not None
    assert len(grown) == len(head)
    (size,) = struct.unpack_from("<Q", grown, 20) if data_bytes > 2**32 else struct.unpack_from("<I", grown, 4)
    assert size == len(head) + data_bytes + 100 - 8


def test_a_file_that_would_be_too_large_for_its_header():
    head = wav.header(PCM, 0xFFFFFFFF - 76 - 20)
    assert head[:4] == b"RIFF"
    assert cues.grown_head(head, 0xFFFFFFFF - 16, 100) is None


def test_cues_beyond_32_bits_are_left_out():
    made = cues.chunks([Cue(1.0, "a"), Cue(2**32, "b")], 48000)
    assert struct.unpack_from("<4sII", made) == (b"cue ", 28, 1)
    assert b"b\0" not in made
