"""Frames counted by us against the samples that FFmpeg decodes."""

import random

import numpy as np
import pytest

from audio.media.frames import FlacCounter, FrameCounter, describe, flac_stream_info
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


@pytest.mark.parametrize("cut_to", [0.5, 0.97])
def test_an_info_frame_is_made_true_for_a_stream_that_ended_elsewhere(tmp_path, cut_to):
    data = encoded(speech(4), 16000, tmp_path / "a.mp3")
    short = data[: int(len(data) * cut_to)]
    counter = counted(short, "mp3")
    assert not counter.is_info_true
    patched = bytearray(short)
    info = counter.info.corrected(counter.frame_count, len(short) - counter.info_at)
    patched[counter.info_at : counter.info_at + len(info)] = info
    assert len(patched) == len(short)
    # A decoder leaves out the frame that is cut off.
    (tmp_path / "short.mp3").write_bytes(patched[: counter.unrecognised[-1].start if counter.unrecognised else None])
    assert len(decoded(tmp_path / "short.mp3")) // 2 == counter.decoded_frames
    assert counter.duration_seconds == pytest.approx(4 * cut_to, abs=0.15)
    again = counted(bytes(patched), "mp3")
    assert (again.is_info_true, again.decoded_frames) == (True, counter.decoded_frames)


def test_rubbish_between_frames_is_passed_over_and_said(tmp_path):
    data = encoded_live(speech(1), 16000, "mp3", "-id3v2_version", "0")
    clean = counted(data, "mp3").samples
    tagged = counted(bytes(100) + data + b"TAG" + bytes(125), "mp3")
    assert (tagged.samples, tagged.unrecognised_bytes) == (clean, 100)
    assert [(span.start, span.end, span.seconds) for span in tagged.unrecognised] == [(0, 100, 0.0)]
    between = counted(data + bytes(3000) + data, "mp3")
    assert between.samples == pytest.approx(2 * clean, abs=2 * 576)
    assert between.unrecognised_bytes >= 3000


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
def test_what_is_no_such_stream_holds_no_frames(audio_format):
    noise = np.random.default_rng(1).bytes(2_000_000)
    assert counted(noise, audio_format).samples == 0
    opus = encoded_live(speech(5, 48000), 48000, "ogg", "-c:a", "libopus")
    assert counted(opus, audio_format).samples == 0
    latm = encoded_live(speech(5, 48000), 48000, "latm", "-c:a", "aac")
    assert counted(latm, audio_format).samples == 0


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
def test_a_stream_that_begins_in_the_middle_of_a_frame(audio_format):
    data = encoded_live(speech(2), 16000, "adts" if audio_format == "aac" else "mp3", "-id3v2_version", "0")
    whole, cut_off = counted(data, audio_format), counted(data[700:], audio_format)
    assert 0 < whole.samples - cut_off.samples <= 6 * 1024
    assert [span.start for span in cut_off.unrecognised] == [0]


def flac_counted(data: bytes) -> FlacCounter:
    chance, counter, at = random.Random(1), FlacCounter(), 0
    while at < len(data):
        size = chance.choice((1, 2, 5, 300, 3000))
        counter.feed(data[at : at + size])
        counter, at = FlacCounter.restore(counter.state()), at + size
    counter.finish()
    return counter


@pytest.mark.parametrize("options", [(), ("-sample_fmt", "s32"), ("-frame_size", "1000")])
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x10\x10" + bytes(2064)])
def test_flac_totals(tmp_path, options, tag):
    samples = speech(2.345, 44100, 2)
    data = tag + encoded_live(samples, 44100, "flac", *options)
    counter, info = flac_counted(data), flac_stream_info(data)
    assert (info.sample_rate, info.channels, info.total_samples) == (44100, 2, 0)
    assert info.bits == (24 if "s32" in options else 16)
    assert (counter.info, counter.samples, counter.gaps) == (info, len(samples), [])
    done = info.with_total(len(samples))
    assert (done.total_samples, done.sample_rate, done.bits) == (len(samples), 44100, info.bits)
    path = tmp_path / "a.flac"
    path.write_bytes(data[: info.offset] + done.body + data[info.offset + 34 :])
    assert decoded(path) == samples.tobytes()


def test_flac_frames_that_are_missing_are_told(tmp_path):
    data = encoded(speech(4, 44100, 2), 44100, tmp_path / "a.flac")
    third = len(data) // 3
    counter = flac_counted(data[:third] + data[2 * third :])
    assert len(counter.gaps) == 1
    assert counter.samples + counter.gaps[0].missing == 4 * 44100
    assert counter.gaps[0].seconds == pytest.approx(4 / 3, abs=0.3)
    assert abs(counter.gaps[0].offset - third) < 20_000


def test_a_flac_stream_cut_off_tells_the_frames_that_began(tmp_path):
    data = encoded(speech(2), 16000, tmp_path / "a.flac")
    assert 0 < flac_counted(data[:-100]).samples <= 32000
    assert flac_stream_info(data[4:]) is None
    assert flac_counted(b"").samples == flac_counted(np.random.default_rng(1).bytes(200_000)).samples == 0
