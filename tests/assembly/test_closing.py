"""Closing a session of ten hours is the work of closing one of ten seconds: counted in windows, bytes and queries.

Ten hours that were concatenated while the session was live stand as a sparse master and a row that says how far it
is; what is left at the close is the last window. The digest of a ready recording reads the file once, afterwards:
`ready` does not wait for it, and it is left out here.
"""

import os
import struct
import subprocess
import wave
from collections import Counter

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audio.assembly import conclusion
from audio.assembly.concatenate import concatenate
from audio.assembly.master import Master
from audio.assembly.run import Run
from audio.journal.files import JournalReader
from audio.media import ffmpeg, wav
from audio.media.plan import WINDOW_BYTES
from audio.models import Recording
from tests.sound import FFMPEG, cut, encoded, encoded_live, speech, wav_bytes

RATE_HZ = 16000
TEN_HOURS_SECONDS = 36000


@pytest.fixture(autouse=True)
def _without_digest(monkeypatch):
    monkeypatch.setattr(conclusion, "add_digest", lambda _: None)


class Work:
    """What is done from here on: windows, bytes written to and read from masters and journals, runs, queries."""

    def __init__(self, monkeypatch) -> None:
        self.done: Counter[str] = Counter()
        pwrite, take, command = os.pwrite, Run._take, ffmpeg._command
        read_master, read_journal = Master.read, JournalReader.read

        def counted_pwrite(handle, data, offset):
            self.done["bytes written"] += len(data)
            return pwrite(handle, data, offset)

        def counted_take(run, window, is_last, outlook):
            self.done["windows"] += 1
            return take(run, window, is_last, outlook)

        def counted_command(*arguments):
            self.done["runs of FFmpeg"] += 1
            return command(*arguments)

        def counted(read):
            def reading(owner, *arguments):
                data = read(owner, *arguments)
                self.done["bytes read"] += len(data)
                return data

            return reading

        monkeypatch.setattr("audio.assembly.master.os.pwrite", counted_pwrite)
        monkeypatch.setattr(Run, "_take", counted_take)
        monkeypatch.setattr(ffmpeg, "_command", counted_command)
        monkeypatch.setattr(Master, "read", counted(read_master))
        monkeypatch.setattr(JournalReader, "read", counted(read_journal))


def source_of(audio_format: str, tmp_path, seconds: float = 10) -> bytes:
    sound = speech(seconds, RATE_HZ)
    if audio_format == "wav":
        return wav_bytes(sound, RATE_HZ)
    if audio_format in ("webm", "ogg"):
        return encoded_live(sound, RATE_HZ, audio_format, "-c:a", "libopus", "-b:a", "24k")
    return encoded(sound, RATE_HZ, tmp_path / f"a.{audio_format}")


def age(session, seconds: int) -> None:
    """Makes the concatenated part of a live session as long as if it had gone on for so many seconds."""
    recording = session.recording
    path = session.root / recording.master_name
    master_bytes = recording.master_bytes // 10 * seconds // 2 * 2
    with path.open("r+b") as file:
        file.truncate(master_bytes)
    session.session.total_chunks = 10 * seconds
    session.session.save(update_fields=["total_chunks"])
    checkpoint = recording.checkpoint | ({"size_bytes": master_bytes} if "size_bytes" in recording.checkpoint else {})
    Recording.objects.filter(pk=recording.pk).update(
        master_bytes=master_bytes, chunks_done=10 * seconds, checkpoint=checkpoint
    )


def closing(session, last: bytes, monkeypatch) -> Counter[str]:
    """Adds the last window, closes, makes the recording; returns the work of that."""
    with monkeypatch.context() as patch, CaptureQueriesContext(connection) as queries:
        work = Work(patch)
        session.add(cut(last, 3200))
        queries_before = len(queries)
        recording = session.made()
        work.done["queries"] = len(queries) - queries_before
    assert recording.state == "ready", recording.error_detail
    return work.done


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "aac", "flac"])
def test_ten_hours_close_with_the_work_of_ten_seconds(stored, tmp_path, monkeypatch, audio_format):
    source = source_of(audio_format, tmp_path)
    live, last = source[: len(source) // 2], source[len(source) // 2 :]
    work, sizes = [], []
    for seconds in (10, TEN_HOURS_SECONDS):
        session = stored(format=audio_format)
        session.add(cut(live, 3200))
        concatenate(session.session.pk)
        age(session, seconds)
        work.append(closing(session, last, monkeypatch))
        sizes.append(session.path.stat().st_size)
    short, long = work
    assert sizes[1] > 1000 * sizes[0]
    # The end of a FLAC stream is looked at, a bounded piece of it: ten seconds are shorter than that.
    assert long.pop("bytes read") - short.pop("bytes read") <= (3 << 20 if audio_format == "flac" else 0)
    # An aged FLAC stream's frames are counted as if it were young, so that only one of the two headers needs mending.
    assert abs(long.pop("bytes written") - short.pop("bytes written")) <= (34 if audio_format == "flac" else 0)
    assert long == short
    assert (long["windows"], long["runs of FFmpeg"]) == (1, 0)


def test_a_container_with_an_index_costs_one_copy_more(stored, tmp_path, monkeypatch):
    work = []
    for seconds in (10, 300):
        session = stored(format="ogg", sample_rate=RATE_HZ)
        source = source_of("ogg", tmp_path, seconds)
        session.add(cut(source[:-6400], 3200))
        concatenate(session.session.pk)
        work.append(closing(session, source[-6400:], monkeypatch))
        assert session.path.stat().st_size == pytest.approx(len(source), rel=0.1)
    short, long = work
    assert long == short
    # One looks at the header, one measures, one copies, three compare.
    assert long["windows"] == 1
    assert long["runs of FFmpeg"] <= 6


def test_what_waits_is_taken_in_windows_of_bounded_size(stored, monkeypatch):
    session = stored(format="wav")
    with monkeypatch.context() as patch:
        work = Work(patch)
        largest = []
        write = Master._write
        patch.setattr(Master, "_write", lambda master, data: largest.append(len(data)) or write(master, data))
        session.add([bytes(1 << 20)] * 13)
        session.made()
    assert work.done["windows"] == -(-13 // (WINDOW_BYTES >> 20))
    assert max(largest) <= WINDOW_BYTES + wav.HEADER_BYTES


def test_beyond_four_gibibytes_the_recording_is_rf64(stored):
    first, last = speech(1, RATE_HZ), speech(1, RATE_HZ, seed=2)
    session = stored(format="wav")
    session.add([first.tobytes()])
    concatenate(session.session.pk)
    age(session, 10 * (4 << 30) // session.recording.master_bytes + 10)
    frames = (session.recording.master_bytes - wav.HEADER_BYTES) // 2 + RATE_HZ
    session.add([last.tobytes()])
    recording = session.made()
    assert recording.state == "ready"
    assert recording.size_bytes == session.path.stat().st_size == 2 * frames + wav.HEADER_BYTES > 4 << 30
    assert recording.duration_seconds == frames / RATE_HZ
    with session.path.open("rb") as file:
        head = file.read(wav.HEADER_BYTES)
    assert (head[:4], head[12:16]) == (b"RF64", b"ds64")
    assert struct.unpack_from("<QQQ", head, 20) == (2 * frames + 72, 2 * frames, frames)
    # FFmpeg finds the end: the last second is there and nothing behind it.
    command = [FFMPEG, "-v", "error", "-ss", str(frames / RATE_HZ - 1), "-i", str(session.path), "-f", "s16le", "-"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == last.tobytes()


def test_up_to_four_gibibytes_it_is_a_plain_wav(stored):
    session = stored(format="wav")
    session.add([bytes(3200)])
    session.made()
    with wave.open(str(session.path)) as file:
        assert file.getnframes() == 1600
