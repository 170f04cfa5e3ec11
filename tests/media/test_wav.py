"""The headers of WAV files: the format in those of others, and the header of masters."""

import io
import struct
import wave

import pytest

from audio.errors import UndecodableChunkError, UnsupportedMediaError
from audio.media.samples import PcmFormat
from audio.media.wav import HEADER_BYTES, header, parse_format
from audio.media.wav_reader import WavReader
from tests.sound import speech

MONO = PcmFormat("s16le", 16000, 1)
SAMPLES = speech(0.2).tobytes()


@pytest.mark.parametrize(
    ("fmt", "error"),
    [
        (struct.pack("<HHIIHH", 1, 0, 16000, 0, 0, 16), UnsupportedMediaError),
        (struct.pack("<HHIIHH", 1, 9, 16000, 0, 18, 16), UnsupportedMediaError),
        (struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16), UnsupportedMediaError),
        (struct.pack("<HHIIHH", 1, 1, 4_000_000_000, 0, 2, 16), UnsupportedMediaError),
        (struct.pack("<HHIIHH", 2, 1, 16000, 0, 2, 16), UnsupportedMediaError),
        (struct.pack("<HHIIHH", 1, 2, 16000, 0, 8, 24), UndecodableChunkError),
        (struct.pack("<HHIIHH", 0xFFFE, 1, 16000, 0, 2, 16), UnsupportedMediaError),
        (b"short", UndecodableChunkError),
    ],
)
def test_header_values_are_checked(fmt, error):
    with pytest.raises(error):
        parse_format(fmt)


@pytest.mark.parametrize(
    ("tag", "channels", "bits", "frame_bytes", "encoding"),
    [
        (1, 1, 16, 4, "s16le"), (1, 1, 16, 1, "s16le"), (1, 2, 16, 2, "s16le"), (1, 1, 16, 0, "s16le"),
        (1, 2, 16, 3, "s16le"), (1, 1, 8, 2, "u8"), (1, 1, 32, 2, "s32le"), (1, 1, 32, 8, "s32le"),
        (1, 1, 24, 6, "s24le"), (1, 1, 24, 2, "s24le"), (1, 1, 20, 3, "s24le"), (1, 1, 12, 2, "s16le"),
        (1, 1, 20, 4, "s32le"), (1, 1, 0, 2, "s16le"), (1, 1, 4, 1, "u8"), (3, 1, 32, 8, "f32le"),
        (3, 2, 64, 8, "f64le"), (6, 1, 16, 2, "alaw"), (7, 1, 0, 0, "mulaw"),
        (1, 1, 24, 4, UndecodableChunkError), (1, 1, 12, 4, UndecodableChunkError),
        (1, 1, 64, 8, UnsupportedMediaError),
        (3, 1, 16, 2, UnsupportedMediaError), (1, 1, 0, 0, UnsupportedMediaError), (1, 1, 40, 5, UnsupportedMediaError),
    ],
)  # fmt: skip
def test_bits_and_frame_size_that_contradict_each_other(tag, channels, bits, frame_bytes, encoding):
    body = struct.pack("<HHIIHH", tag, channels, 16000, 16000 * frame_bytes, frame_bytes, bits)
    if isinstance(encoding, str):
        assert parse_format(body) == PcmFormat(encoding, 16000, channels)
    else:
        with pytest.raises(encoding):
            parse_format(body)


@pytest.mark.parametrize(("bits", "valid", "encoding"), [(32, 24, "s32le"), (24, 20, "s24le"), (16, 0, "s16le")])
def test_valid_bits_stand_in_their_container(bits, valid, encoding):
    body = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 16000, 2000 * bits, bits // 8, bits, 22, valid, 0, 1)
    assert parse_format(body + bytes.fromhex("000000001000800000aa00389b71")) == PcmFormat(encoding, 16000, 1)


@pytest.mark.parametrize(("encoding", "width"), [("u8", 1), ("s16le", 2), ("s24le", 3), ("s32le", 4)])
def test_the_header_of_a_master_is_read_by_others(encoding, width):
    pcm = PcmFormat(encoding, 22050, 2)
    data = bytes(range(240))
    head = header(pcm, len(data))
    assert len(head) == HEADER_BYTES == 80
    with wave.open(io.BytesIO(head + data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, width, 22050)
        assert file.readframes(999) == data


def test_beyond_four_gibibytes_it_is_rf64():
    head = header(MONO, 5 << 30)
    assert (head[:4], len(head), head[12:16]) == (b"RF64", 80, b"ds64")
    assert [(entry.format, entry.data) for entry in WavReader(MONO).feed(head + SAMPLES)] == [(MONO, SAMPLES)]
    assert struct.unpack_from("<QQQ", head, 20) == ((5 << 30) + 72, 5 << 30, (5 << 30) // 2)
