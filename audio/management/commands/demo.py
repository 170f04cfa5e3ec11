"""`manage.py demo`: record a sound on a temporary server, and compare the recording sample by sample.

The command uses a `manage.py serve` through the Python client, as any other program does. For the comparison FFmpeg
decodes both files, so that the product does not check itself with its own code.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management.base import CommandError
from sercuescribe_client import AsyncClient, Client, RecordOptions, ScribeError, ServerError

from audio.errors import AudioError, FfmpegMissingError
from audio.management.examples import ExampleCommand
from audio.management.lifeline import die_with_parent
from audio.media import ffmpeg
from audio.media.samples import PcmFormat
from audio.media.wav_reader import WavReader
from audio.sniff import Container, sniff
from audio.storage.durable import sha256_of
from audio.wire.parameters import CHANNELS, SAMPLE_RATES_HZ

READY = "SercueScribe is ready: "
CHUNKS_PER_SECOND = 10
DEMO_SECONDS = 10
DEMO_RATE_HZ = 16000
STOP_SECONDS = 30
RECORDING_SECONDS = 600
LOG_LINES = 5
_BLOCK_BYTES = 1 << 20
_SAMPLE_BYTES = 8
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """The WAV file to record, and the format of its samples."""

    path: Path
    format: PcmFormat

    @property
    def chunk_bytes(self) -> int:
        """The size of 100 ms of samples."""
        return self.format.sample_rate // CHUNKS_PER_SECOND * self.format.frame_bytes

    def __str__(self) -> str:
        channels = "mono" if self.format.channels == 1 else "stereo"
        return f"{self.path.name} ({self.format.encoding}, {self.format.sample_rate} Hz, {channels})"


@dataclass(frozen=True, slots=True)
class Sent:
    """A closed session. `closed_at` is the monotonic time at which the close was acknowledged."""

    session_id: str
    chunk_count: int
    seconds: float
    closed_at: float


class Command(ExampleCommand):
    """Record a WAV file through the WebSocket, and compare the recording with it sample by sample."""

    help = "Records a sound on a temporary server and compares the recording with it, sample by sample."
    examples = ("--file sound.wav --keep",)
    # The server that this command starts runs the checks.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--file", type=Path, help="the WAV file to record (default: a generated sound)")
        parser.add_argument("--keep", action="store_true", help="keep the data folder of the server and print its path")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the demo.

        Raises:
            CommandError: The recording differs from the source, or there is none, or DATA_DIR can't be written.
        """
        _interrupt_on(signal.SIGTERM)
        _make_recordings_folder()
        try:
            with self._folder(options["keep"]) as folder:
                source = _inspected(options["file"] or _made_up(folder / "demo.wav"))
                self._compare(source, self._record(source, folder))
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    @contextlib.contextmanager
    def _folder(self, keep: bool) -> Iterator[Path]:
        """Yield an empty folder, which is removed at the end unless `keep` is set."""
        folder = Path(tempfile.mkdtemp(prefix="sercuescribe-demo-"))
        try:
            yield folder
        finally:
            if keep:
                self._say(f"The log and the data of the server are in {folder}")
            else:
                shutil.rmtree(folder)

    def _say(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()

    def _record(self, source: Source, folder: Path) -> Path:
        """Record the source, and return the path of the recording."""
        with _server(folder) as url:
            self._say(f"The server is ready: {url}")
            self._say(f"Recording {source}.")
            sent = asyncio.run(_send(url, source))
            chunks = f"{sent.chunk_count} chunks of 100 ms"
            self._say(f"Session {sent.session_id}: {chunks} sent and acknowledged in {sent.seconds:.2f} s.")
            duration_seconds = _wait_until_ready(url, sent.session_id)
            ready_seconds = time.monotonic() - sent.closed_at
            self._say(f"The recording, {duration_seconds:.2f} s long, was ready {ready_seconds:.2f} s after the close.")
            recording = _download(url, sent.session_id)
        self._say("The server has stopped.")
        return recording

    def _compare(self, source: Source, recording: Path) -> None:
        samples = _compared(source.path, recording)
        self._say(f"Compared {samples} samples: the recording equals the source.")
        self._say(f"SHA-256 {sha256_of(recording)}")
        self._say(f"The recording is {recording}")


def _interrupt_on(number: signal.Signals) -> None:
    """Make a signal act like SIGINT.

    While `asyncio.run` runs, SIGINT cancels its task. A handler that raised an error itself could do so between any two
    steps of the event loop. The step for which a task waits could be lost, and the task would never end.
    """
    signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


def _make_recordings_folder() -> Path:
    """Create the folder `demo` of DATA_DIR, and return its path.

    Raises:
        CommandError: It can't be written.
    """
    folder: Path = settings.DATA_DIR / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CommandError(f"The folder {folder} can't be written: {error.strerror}. Set DATA_DIR.") from None
    return folder


# The source


def _made_up(path: Path) -> Path:
    """Write some seconds of a gliding tone with a little noise (16 bits, mono), and return the path."""
    seconds = np.arange(DEMO_SECONDS * DEMO_RATE_HZ) / DEMO_RATE_HZ
    tone = 0.4 * np.sin(2 * np.pi * (220 * seconds + 40 * seconds**2)) * np.sin(np.pi * seconds) ** 2
    noise = 0.02 * np.random.default_rng(1).standard_normal(len(seconds))
    samples = np.clip(np.rint((tone + noise) * 32767), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(DEMO_RATE_HZ)
        file.writeframes(samples.tobytes())
    return path


def _inspected(path: Path) -> Source:
    """Return the source.

    Raises:
        CommandError: It is not a WAV file, or can't be recorded without a change.
    """
    found = _format_of(path)
    for name, value, valid in (
        ("sample rate", found.sample_rate, SAMPLE_RATES_HZ),
        ("number of channels", found.channels, CHANNELS),
    ):
        if value not in valid:
            raise CommandError(f"{path} has a {name} of {value}. Sessions allow {', '.join(map(str, valid))}.")
    if found.encoding == "f64le":
        raise CommandError(f"{path} has 64-bit samples. Recordings have at most 32 bits, so they would differ.")
    return Source(path, found)


def _format_of(path: Path) -> PcmFormat:
    reader, found = WavReader(PcmFormat("s16le", DEMO_RATE_HZ, 1), "stream"), None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if sniff(head) is not Container.RIFF_WAVE:
                raise CommandError(f"{path} is not a WAV file.")
            while head and found is None:
                samples = reader.feed(head)
                found = samples[0].format if samples else reader.format
                head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}.") from None
    except AudioError as error:
        raise CommandError(f"{path} can't be recorded: {error.detail}") from None
    if found is None:
        raise CommandError(f"{path} ends before the format of its samples.")
    return found


# The server


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the server: that of the caller, without access to the caller's own recordings."""
    data_dir = folder / "data"
    own = {"DATA_DIR": data_dir, "AUDIO_STORAGE_PATH": data_dir / "audio", "DATABASE_URL": "", "REDIS_URL": ""}
    # An empty variable counts as unset: only this machine can connect, and authentication is off.
    reachable = {"HOST": "127.0.0.1", "PORT": "0", "ALLOWED_HOSTS": "", "PUBLIC_URL": "", "REQUIRE_AUTH": ""}
    return os.environ | {name: str(value) for name, value in own.items()} | reachable


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Run `manage.py serve` with its data in `folder`, and yield its address.

    Raises:
        CommandError: The server can't start.
    """
    log = folder / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve"],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    with process:
        try:
            yield _address(process, log)
        finally:
            _stop(process)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    line = process.stdout.readline().decode() if process.stdout else ""
    if not line.startswith(READY):
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise CommandError(f"The server did not start:\n{last}")
    return line.removeprefix(READY).strip()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


# The client


async def _send(url: str, source: Source) -> Sent:
    """Stream the file as fast as the server accepts it, and close the session.

    Raises:
        CommandError: The server rejected something, or the connection broke.
    """
    notices: list[Mapping[str, Any]] = []
    options = RecordOptions(format="wav", chunks="stream", user_id="demo", on_notice=notices.append)
    options["sample_rate"], options["channels"] = source.format.sample_rate, source.format.channels
    with _errors():
        # The server of this command needs no authentication, so it does not get the key of the caller.
        async with AsyncClient(url, api_key="", trust_env=False) as client, client.record(**options) as recorder:
            started = time.monotonic()
            with source.path.open("rb") as file:
                while chunk := file.read(source.chunk_bytes):
                    await recorder.send(chunk)
            await recorder.close()
            closed_at = time.monotonic()
    for notice in notices:
        raise CommandError(f"The server could not decode a part: {notice['detail']} ({notice['code']})")
    return Sent(recorder.session_id, recorder.acknowledged_chunk_count, closed_at - started, closed_at)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Raise errors of the client as a CommandError."""
    try:
        yield
    except ServerError as error:
        raise CommandError(f"The server rejected it: {error}") from None
    except (ScribeError, TimeoutError) as error:
        raise CommandError(str(error)) from None


def _wait_until_ready(url: str, session_id: str) -> float:
    """Wait until the recording is ready, and return its length in seconds.

    Raises:
        CommandError: The recording failed, or is not ready in time.
    """
    with _errors(), Client(url, api_key="", trust_env=False) as client:
        session = client.sessions.wait_until_ready(session_id, timeout_seconds=RECORDING_SECONDS)
    return session["recording"]["duration_seconds"] or 0.0


def _download(url: str, session_id: str) -> Path:
    """Download the recording to the folder `demo` of DATA_DIR, and return its path."""
    path = _make_recordings_folder() / f"{session_id}.wav"
    with _errors(), Client(url, api_key="", trust_env=False) as client:
        return client.sessions.download(session_id, path).path


# The comparison


@contextlib.contextmanager
def _decoded(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield an FFmpeg process that decodes a file to float64, which represents every sample of a WAV file exactly."""
    try:
        program = str(ffmpeg.find())
    except FfmpegMissingError as error:
        raise CommandError(error.detail) from None
    source = ["-protocol_whitelist", "file,pipe", "-f", "wav", "-i", f"file:{path}"]
    command = [program, "-nostdin", "-v", "error", *source, "-map", "0:a:0", "-f", "f64le", "pipe:1"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        yield process
    if process.returncode:
        raise CommandError(f"FFmpeg can't decode {path}.")


def _compared(source: Path, recording: Path) -> int:
    """Compare all samples, and return their number.

    Raises:
        CommandError: A sample differs.
    """
    at = 0
    with _decoded(source) as expected, _decoded(recording) as found:
        for one, other in _blocks(expected, found):
            if one != other:
                raise CommandError(f"{recording} differs from {source} at sample {at + _equal(one, other)}.")
            at += len(one) // _SAMPLE_BYTES
    if not at:
        raise CommandError(f"{source} has no samples.")
    return at


def _blocks(*processes: "subprocess.Popen[bytes]") -> Iterator[list[bytes]]:
    while any(blocks := [process.stdout.read(_BLOCK_BYTES) if process.stdout else b"" for process in processes]):
        yield blocks


def _equal(one: bytes, other: bytes) -> int:
    """Return the number of equal samples at the beginning."""
    length = min(len(one), len(other)) // _SAMPLE_BYTES * _SAMPLE_BYTES
    rows = [np.frombuffer(block[:length], "<u8") for block in (one, other)]
    differs = rows[0] != rows[1]
    return int(differs.argmax()) if differs.any() else length // _SAMPLE_BYTES
