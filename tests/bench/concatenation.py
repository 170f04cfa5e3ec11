"""An hour of audio in 3,600 chunks, made into a recording.

Each run is a process of its own, so that the operating system accounts its CPU and peak memory. A worker starts and
loads NumPy once for many recordings. What that takes is measured with a session of one chunk, and subtracted.

The references are `cp` of the same bytes, FFmpeg's concat demuxer with `-c copy` over the chunks as files, and a loop
that adds pydub segments, at a size that it can bear.
"""

import os
import resource
import shutil
import subprocess
import sys
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from tests.bench.report import Report, Row

REPOSITORY = Path(__file__).resolve().parents[2]
RATE_HZ = 16000
NAIVE_FILES = 240
ENCODERS = {
    "mp3": ["-c:a", "libmp3lame", "-b:a", "64k"],
    "flac": ["-c:a", "flac"],
    "aac": ["-c:a", "aac", "-b:a", "64k", "-f", "adts"],
    "webm": ["-ar", "48000", "-c:a", "libopus", "-b:a", "48k"],
}

_STORE = """
import sys, time, uuid
import django; django.setup()
from django.core.management import call_command
from pathlib import Path
from django.conf import settings
from audio.ingest import close_session, create_session
from audio.ingest.committer import Committer
from audio.ingest.pending import Append
from audio.ingest.types import Producer
from audio.models import AudioSource
from audio.wire.parameters import SessionParameters
call_command("migrate", verbosity=0)
folder, format, chunks = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
session = create_session(SessionParameters(16000, 1, format, "s16le", chunks))
producer = Producer(session.pk, AudioSource.objects.create(session=session).pk, None, session.project_id)
committer = Committer(settings.AUDIO_STORAGE_PATH, uuid.uuid4(), lambda settled: None, 0.05, 1 << 40)
committer.start()
for path in sorted(folder.iterdir()):
    committer.submit(Append(producer, path.read_bytes(), time.time_ns() // 1000, None))
committer.stop()
close_session(session.pk)
print(session.pk)
"""
_CONCATENATE = """
import sys, uuid
import django; django.setup()
from audio.assembly.concatenate import concatenate
from audio.models import AudioSession, Recording
session_id = uuid.UUID(sys.argv[1])
concatenate(session_id)
recording = Recording.objects.filter(pk=session_id).first()
assert recording is None or recording.state == "ready", (recording.state, recording.error_detail)
"""
_NAIVE = """
import sys
from pathlib import Path
from pydub import AudioSegment
AudioSegment.converter = sys.argv[2]
whole = AudioSegment.empty()
for path in sorted(Path(sys.argv[1]).iterdir())[:int(sys.argv[3])]:
    whole += AudioSegment.from_file(str(path), format="wav", codec="pcm_s16le")
whole.export(sys.argv[4], format="wav")
"""


@dataclass(frozen=True)
class Used:
    """What a process used: CPU in seconds, peak memory in MiB."""

    cpu_seconds: float
    peak_mib: float

    def __str__(self) -> str:
        return f"{self.cpu_seconds:6.2f} s  {self.peak_mib:4.0f} MiB"


def used(command: Sequence[str], **environment: str) -> Used:
    """Runs a command to its end and returns what it and its children used."""
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **environment})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]} failed with {process.returncode}")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class Bench:
    """One folder with a server's data in it, and the chunks of one case at a time."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self._folder = folder
        self._seconds = seconds
        self._environment = {
            "DATA_DIR": str(folder / "data"),
            "DJANGO_SETTINGS_MODULE": "sercuescribe.settings",
            "REDIS_URL": "redis://127.0.0.1:1",
            "LOG_LEVEL": "error",
        }
        self._source = self._make_source()
        self._start = Used(0.0, 0.0)
        self._ours: dict[str, float] = {}

    def run(self, report: Report) -> None:
        """Measure every case."""
        self._start = self._concatenated(self._python(_STORE, str(self._first()), "wav", "files", capture=True).strip())
        self._case(report, "WAV files", "wav", "files", self._cut_wav(), most_seconds=0.3)
        for name, encoder in ENCODERS.items():
            self._case(report, f"one {name} stream", name, "stream", self._cut_stream(name, encoder))
        self._case(report, "MP3 files", "mp3", "files", self._encoded_files("mp3"))
        self._naive(report)

    def _case(
        self,
        report: Report,
        name: str,
        audio_format: str,
        chunks: str,
        folder: Path,
        most_seconds: float | None = None,
    ) -> None:
        stored = self._python(_STORE, str(folder), audio_format, chunks, capture=True)
        ours = self._concatenated(stored.strip())
        own = [max(0.0, ours.cpu_seconds - self._start.cpu_seconds)]
        self._ours[name] = own[0]
        whole = self._folder / "whole"
        with whole.open("wb") as file:
            for path in sorted(folder.iterdir()):
                file.write(path.read_bytes())
        copied = used(["cp", str(whole), str(self._folder / "copy")])
        figure = f"CPU to join {self._seconds:,} chunks, {name}"
        report.add(Row(figure, "s", own, "`cp`", [copied.cpu_seconds], most_seconds))
        if chunks == "files":
            # What `cp` and FFmpeg report as their peak is that of this process, before they were executed.
            joined = self._ffmpeg_concat(folder, audio_format).cpu_seconds
            report.add(Row(figure, "s", own, "`ffmpeg -f concat -c copy`", [joined], most_seconds))
        report.add(Row(f"memory to join them, {name}", "MiB", [ours.peak_mib]))
        shutil.rmtree(folder)
        shutil.rmtree(self._folder / "data" / "audio")

    def _concatenated(self, session_id: str) -> Used:
        return used([sys.executable, "-c", _CONCATENATE, session_id], **self._environment)

    def _first(self) -> Path:
        """Return a folder with one chunk, a second of the source."""
        folder = self._folder / "first"
        folder.mkdir()
        self._ffmpeg("-t", "1", "-i", str(self._source), str(folder / "0.wav"))
        return folder

    def _python(self, script: str, *arguments: str, capture: bool = False) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **self._environment},
            check=True,
            capture_output=capture,
            text=True,
        )
        return ran.stdout

    def _make_source(self) -> Path:
        """A minute of noise with an envelope, as often as it takes."""
        rng = np.random.default_rng(1)
        envelope = 0.5 + 0.5 * np.sin(np.arange(60 * RATE_HZ) * 2 * np.pi * 3 / RATE_HZ)
        minute = (rng.standard_normal(60 * RATE_HZ) * 3000 * envelope).astype("<i2").tobytes()
        path = self._folder / "source.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            for _ in range(self._seconds // 60):
                file.writeframes(minute)
        return path

    def _cut_wav(self) -> Path:
        folder = self._chunks()
        with wave.open(str(self._source)) as source:
            for number in range(self._seconds):
                with wave.open(str(folder / f"{number:05}.wav"), "wb") as file:
                    file.setparams(source.getparams())
                    file.writeframes(source.readframes(RATE_HZ))
        return folder

    def _cut_stream(self, name: str, encoder: Sequence[str]) -> Path:
        encoded = self._folder / f"encoded.{name}"
        self._ffmpeg("-i", str(self._source), *encoder, str(encoded))
        data, folder = encoded.read_bytes(), self._chunks()
        size = -(-len(data) // self._seconds)
        for number in range(self._seconds):
            (folder / f"{number:05}.{name}").write_bytes(data[number * size : (number + 1) * size] or b"\0")
        return folder

    def _encoded_files(self, name: str) -> Path:
        """The same second, encoded once with its delay in its header: what is measured is the decoding."""
        folder, one = self._chunks(), self._folder / f"one.{name}"
        self._ffmpeg("-t", "1", "-i", str(self._source), *ENCODERS[name], str(one))
        for number in range(self._seconds):
            shutil.copy(one, folder / f"{number:05}.{name}")
        return folder

    def _chunks(self) -> Path:
        folder = self._folder / "chunks"
        folder.mkdir()
        return folder

    def _ffmpeg_concat(self, folder: Path, audio_format: str) -> Used:
        listing = self._folder / "list"
        listing.write_text("".join(f"file chunks/{path.name}\n" for path in sorted(folder.iterdir())))
        command = [get_ffmpeg_exe(), "-nostdin", "-v", "quiet", "-f", "concat", "-safe", "0", "-i", str(listing)]
        return used([*command, "-c", "copy", "-y", str(self._folder / f"joined.{audio_format}")])

    def _ffmpeg(self, *arguments: str) -> None:
        subprocess.run([get_ffmpeg_exe(), "-nostdin", "-v", "error", *arguments, "-y"], check=True)

    def _naive(self, report: Report) -> None:
        """Measure pydub at a size that it can bear. Its cost grows with the square of the number of files."""
        folder, count = self._cut_wav(), min(NAIVE_FILES, self._seconds)
        command = [sys.executable, "-W", "ignore", "-c", _NAIVE, str(folder), get_ffmpeg_exe(), str(count)]
        naive = used([*command, str(self._folder / "out")])
        own = [self._ours["WAV files"] * count / self._seconds]
        report.add(Row(f"CPU to join {count} of the WAV files", "s", own, "adding pydub segments", [naive.cpu_seconds]))


def measure(folder: Path, minutes: int, report: Report) -> None:
    """Measure an hour, or another whole number of minutes."""
    place = folder / "concatenation"
    place.mkdir()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Bench(place, 60 * minutes).run(report)
