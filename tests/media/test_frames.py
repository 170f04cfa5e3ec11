"""Frames counted by us against the samples that FFmpeg decodes."""

import random

import numpy as np
import pytest

from audio.media.frames import FrameCounter, describe, flac_samples, flac_stream_info
from tests.sound import decoded, encoded, encoded_live, speech


def counted(data: bytes, audio_format: str) -> FrameCounter:
    chance, counter, at = random.Random(1), FrameCounter(audio_format), 0
    while at < len(data):
        size = chance.choice((1, 2, 5, 300, 3000))
        counter.feed(data[at : at + size])
        counter, at = FrameCounter.restore(counter.state()), at + size
    counter.finish()
    return counter


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [("mp3", ()), ("mp3", ("-q:a", "3")), ("mp3", ("-write_xing", "0", "-id3v2_version", "0")), ("aac", ())],
)
def test_the_count_is_what_is_decoded(tmp_path, rate, suffix, options):
    path = tmp_path / f"a.{suffix}"
    data = encoded(speech(1.3, rate, 2), rate, path, *options)
    frames = len(decoded(path)) // 4
    for found in (counted(data, suffix).decoded_frames, describe(suffix, data).sample_frames):
        assert found == frames
    assert (describe(suffix, data).sample_rate, describe(suffix, data).channels) == (rate, 2)


def test_a_stream_that_ended_before_its_info_frame_says_counts_what_came(tmp_path):
    data = encoded(speech(4), 16000, tmp_path / "a.mp3")
    (tmp_path / "half.mp3").write_bytes(data[: len(data) // 2])
    counter = counted(data[: len(data) // 2], "mp3")
    assert counter.duration_seconds == pytest.approx(2, abs=0.15)


def test_rubbish_between_frames_is_passed_over(tmp_path):
    data = encoded_live(speech(1), 16000, "mp3", "-id3v2_version", "0")
    clean = counted(data, "mp3").samples
    assert counted(bytes(100) + data + b"TAG" + bytes(125), "mp3").samples == clean
    assert counted(np.random.default_rng(1).bytes(5000), "aac").samples < 5 * 1024


@pytest.mark.parametrize("options", [(), ("-sample_fmt", "s32"), ("-frame_size", "1000")])
def test_flac_totals(tmp_path, options):
    samples = speech(2.345, 44100, 2)
    data = encoded_live(samples, 44100, "flac", *options)
    info = flac_stream_info(data)
    assert (info.sample_rate, info.channels, info.total_samples) == (44100, 2, 0)
    assert info.bits == (24 if "s32" in options else 16)
    assert flac_samples(data[-100_000:], info) == (len(samples), True)
    done = info.with_total(len(samples))
    assert (done.total_samples, done.sample_rate, done.bits) == (len(samples), 44100, info.bits)
    path = tmp_path / "a.flac"
    path.write_bytes(data[: info.offset] + done.body + data[info.offset + 34 :])
    assert decoded(path) == samples.tobytes()


def test_a_flac_stream_cut_off_tells_the_frames_that_began(tmp_path):
    data = encoded(speech(2), 16000, tmp_path / "a.flac")
    samples, is_complete = flac_samples(data[:-100], flac_stream_info(data))
    assert (0 < samples <= 32000, is_complete) == (True, False)
    assert flac_stream_info(data[4:]) is None
    assert flac_samples(b"", flac_stream_info(data)) == (0, False)
