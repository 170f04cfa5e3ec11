"""Samples into other samples: exact where they can be, without clicks where they are resampled."""

import random

import numpy as np
import pytest
import soxr

from audio.media.convert import Converter, decode, encode, remix
from audio.media.samples import PcmFormat, Samples
from tests.sound import decoded, encoded_live, speech


def converted(samples: Samples, target: PcmFormat, seed: int | None = None) -> bytes:
    """Through a converter whose state is stored after every piece, in pieces of random length if there is a seed."""
    converter, out, at, chance = Converter(target), b"", 0, random.Random(seed)
    frame = samples.format.frame_bytes
    while at < len(samples.data):
        size = frame * chance.randint(1, 9000) if seed is not None else len(samples.data)
        out += b"".join(converter.feed(Samples(samples.format, samples.data[at : at + size])))
        converter, at = Converter.restore(target, converter.state()), at + size
    return out + b"".join(converter.flush())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("s16le", "s24le"),
        ("s16le", "s32le"),
        ("u8", "s16le"),
        ("mulaw", "s16le"),
        ("alaw", "s16le"),
        ("s16le", "f32le"),
    ],
)
def test_wider_samples_are_those_that_ffmpeg_makes(source, target, tmp_path):
    data = encoded_live(speech(1), 16000, source)
    (tmp_path / "raw").write_bytes(data)
    expected = decoded(tmp_path / "raw", target, "-f", source, "-ar", "16000", "-ac", "1")
    assert converted(Samples(PcmFormat(source, 16000, 1), data), PcmFormat(target, 16000, 1)) == expected


@pytest.mark.parametrize("encoding", ["u8", "s16le", "s24le", "s32le", "f32le"])
def test_every_encoding_survives_float(encoding):
    pcm = PcmFormat(encoding, 16000, 2)
    data = encoded_live(speech(0.2, channels=2), 16000, encoding, "-filter:a", "volume=0.77:precision=double")
    assert encode(decode(Samples(pcm, data)), encoding) == data


def test_narrower_samples_are_rounded_and_clipped():
    values = np.array([[1.5], [-1.5], [0.6 / 32768], [np.nan]])
    hostile = Samples(PcmFormat("f32le", 16000, 1), values.astype("<f4").tobytes())
    assert np.frombuffer(encode(decode(hostile), "s16le"), "<i2").tolist() == [32767, -32768, 1, 0]


def test_channels():
    stereo = np.array([[0.5, 0.1], [0.2, -0.2]])
    assert np.allclose(remix(stereo, 1), [[0.3], [0.0]])
    assert np.array_equal(remix(stereo[:, :1], 2), [[0.5, 0.5], [0.2, 0.2]])
    assert np.abs(remix(np.ones((4, 6)), 2)).max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "wanted"), [(44100, 16000), (96000, 8000), (8000, 48000), (16000, 22050), (11025, 44100), (44056, 16000)]
)
def test_resampling_in_pieces_is_resampling_at_once(given, wanted):
    source, target = PcmFormat("s16le", given, 2), PcmFormat("s24le", wanted, 2)
    samples = Samples(source, speech(2, given, 2).tobytes())
    at_once = encode(soxr.resample(decode(samples), given, wanted, quality="VHQ"), "s24le")
    got = decode(Samples(target, converted(samples, target, seed=given)))
    # At most one unit of 24 bits, where rounding was undecided.
    assert np.abs(got - decode(Samples(target, at_once))).max() <= 1 / (1 << 23)


def test_a_tone_across_borders_has_no_click():
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(44100 * 2) / 44100) * 32767).astype("<i2")
    got = converted(Samples(PcmFormat("s16le", 44100, 1), tone.tobytes()), PcmFormat("s16le", 16000, 1), seed=5)
    values = np.frombuffer(got, "<i2").astype(float)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000) * 32767
    assert len(values) == 32000
    assert np.abs(values - expected)[200:-200].max() < 2


def test_a_change_of_format_gives_what_was_held_first():
    target = PcmFormat("s16le", 16000, 1)
    converter, out = Converter(target), b""
    out += b"".join(converter.feed(Samples(PcmFormat("s16le", 48000, 1), bytes(2 * 48000))))
    assert len(out) < 32000
    raw = b"\x01\x02" * 10
    out += b"".join(converter.feed(Samples(target, raw)))
    assert len(out) == 32000 + 20
    assert out.endswith(raw)
    assert converter.state() == {}
