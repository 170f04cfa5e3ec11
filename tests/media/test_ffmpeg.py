"""FFmpeg under guard: found, limited, and unable to open anything but what it was given."""

import os
import signal
from pathlib import Path

import pytest

from audio.errors import (
    FfmpegFailedError,
    FfmpegMissingError,
    MediaError,
    MediaLimitExceededError,
    UndecodableChunkError,
)
from audio.media import ffmpeg, pcm, plan
from audio.media.ffmpeg import Limits
from audio.media.frames import PartDescription
from tests.sound import encoded, speech

ENDLESS = ("-f", "lavfi", "-i", "sine=d=1000000")


def test_the_configured_program_comes_first(settings, tmp_path):
    bundled = ffmpeg.find()
    assert "imageio_ffmpeg" in str(bundled)
    own = tmp_path / "own"
    own.symlink_to(bundled)
    settings.FFMPEG_BINARY = str(own)
    assert ffmpeg.find() == bundled
    settings.FFMPEG_BINARY = str(tmp_path / "missing")
    with pytest.raises(FfmpegMissingError):
        ffmpeg.find()


@pytest.mark.parametrize(
    "limits",
    [Limits(wall_seconds=1), Limits(cpu_seconds=1), Limits(file_bytes=100_000), Limits(memory_bytes=50 << 20)],
    ids=["wall", "cpu", "file", "memory"],
)
def test_a_run_that_goes_beyond_a_limit_ends(tmp_path, limits):
    throttle = ("-re",) if limits.wall_seconds == 1 else ()
    with pytest.raises((MediaLimitExceededError, FfmpegFailedError)) as caught:
        ffmpeg.run([*throttle, *ENDLESS, "-f", "wav", "-y", "out.wav"], tmp_path, limits)
    # Where memory ends FFmpeg may also say so in other words.
    assert caught.type is MediaLimitExceededError or limits.memory_bytes < 1 << 30


def test_the_seconds_written_are_told(tmp_path):
    told = []
    arguments = ["-f", "lavfi", "-i", "sine=d=2", "-f", "wav", "-y", "out.wav"]
    assert ffmpeg.run(arguments, tmp_path, on_seconds=told.append) == pytest.approx(2, abs=0.05)
    assert told[-1] == pytest.approx(2, abs=0.05)


def test_a_run_that_nobody_reads_to_the_end_is_stopped(tmp_path):
    before = _children()
    blocks = ffmpeg.output_of([*ENDLESS, "-f", "s16le", "pipe:1"], tmp_path)
    assert len(next(blocks)) > 0
    blocks.close()
    assert _children() == before


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_somebody_stops_may_be_repeated(tmp_path, number):
    before = set(_children().split())
    blocks = ffmpeg.output_of([*ENDLESS, "-f", "s16le", "pipe:1"], tmp_path)
    next(blocks)
    (pid,) = set(_children().split()) - before
    os.kill(int(pid), number)
    with pytest.raises(MediaError) as caught:
        list(blocks)
    assert caught.value.retryable


def test_a_full_disk_is_not_the_medias_fault(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        ffmpeg.run([*ENDLESS, "-t", "100", "-f", "s16le", "-y", "/dev/full"], tmp_path)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n"
LISTING = "ffconcat version 1.0\nfile {target}\n"


@pytest.mark.parametrize("text", [PLAYLIST, LISTING])
@pytest.mark.parametrize("audio_format", [name for name in plan.FORMATS if name != "wav"])
def test_a_playlist_in_disguise_opens_nothing(tmp_path, text, audio_format):
    secret = tmp_path / "secret.wav"
    encoded(speech(1), 16000, secret)
    bait = tmp_path / f"bait.{audio_format}"
    bait.write_text(text.format(target=secret))
    with pytest.raises(FfmpegFailedError):
        list(ffmpeg.output_of(plan.decode(audio_format, str(bait), 16), tmp_path))
    part = plan.Part(7, 7, bait.read_bytes(), PartDescription(16000, 1, 16, 16000))
    with ffmpeg.working_folder(tmp_path) as work, pytest.raises(UndecodableChunkError) as caught:
        list(pcm.decode([part], audio_format, work))
    assert caught.value.details["sequence"] == 7


def test_the_message_names_no_address_and_no_option_of_ours(tmp_path):
    bad = tmp_path / "bad.flac"
    bad.write_bytes(bytes(1000))
    with pytest.raises(FfmpegFailedError) as caught:
        list(ffmpeg.output_of(plan.decode("flac", str(bad), 16), tmp_path))
    assert "0x" not in caught.value.detail


def test_the_working_folder_is_empty_and_goes(tmp_path):
    with ffmpeg.working_folder(tmp_path) as work:
        assert list(work.iterdir()) == []
        (work / "x").write_text("x")
    assert not work.exists()
