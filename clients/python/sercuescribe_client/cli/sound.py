"""The sources of `scribe record`: a file, standard input, or a microphone that FFmpeg reads."""

import asyncio
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from sercuescribe_client.errors import ScribeError, UsageError
from sercuescribe_client.models import Encoding, Format

# Chunks of a file always have this size, so that a second run can skip those that the server has.
CHUNK_BYTES = 16 * 1024
MICROPHONE_RATE_HZ = 48_000
_MICROPHONE_CHUNKS_PER_SECOND = 10
_QUEUE_CHUNKS = 64
_SAMPLE_BYTES: dict[Encoding, int] = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "mulaw": 1, "alaw": 1}
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d\.\d+)")
# The driver and the device of FFmpeg by the name of the platform. Windows has no name for the default device.
_MICROPHONES = {"linux": ("alsa", "default"), "darwin": ("avfoundation", ":default"), "win32": ("dshow", "")}
_ENCODERS: dict[Format, tuple[str, ...]] = {
    "wav": ("-c:a", "pcm_s16le", "-f", "s16le"),
    "flac": ("-c:a", "flac", "-f", "flac"),
    "mp3": ("-c:a", "libmp3lame", "-f", "mp3"),
    "aac": ("-c:a", "aac", "-f", "adts"),
    "ogg": ("-c:a", "libopus", "-f", "ogg", "-page_duration", "200000"),
    "webm": ("-c:a", "libopus", "-f", "webm", "-cluster_time_limit", "200"),
}


class Sound(Protocol):
    """Something that is recorded, in chunks."""

    total_bytes: int | None

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the chunks."""

    def stop(self) -> None:
        """Let the chunks end soon."""

    async def close(self) -> None:
        """Free what it uses."""


class FileSound:
    """A file, which is read as fast as it can be sent, or at the pace of its sound.

    Attributes:
        path: The file.
        size_bytes: Its size.
        total_bytes: The same, for the progress bar.
        skipped_chunks: The number of its chunks that the server already has.
        bytes_per_second: Its pace; None to send it as fast as possible.
        is_cut: Whether its chunks were stopped before its end.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        path.open("rb").close()
        self.path = path
        self.size_bytes = path.stat().st_size
        self.total_bytes: int | None = self.size_bytes
        self.skipped_chunks = 0
        self.bytes_per_second: float | None = None
        self.is_cut = False
        self._is_stopped = asyncio.Event()

    def stop(self) -> None:
        """Let the chunks end."""
        self._is_stopped.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the chunks that follow the skipped ones."""
        with self.path.open("rb") as file:
            file.seek(self.skipped_chunks * CHUNK_BYTES)
            started, sent_bytes = time.monotonic(), 0
            while not self._is_stopped.is_set() and (chunk := file.read(CHUNK_BYTES)):
                sent_bytes += len(chunk)
                if self.bytes_per_second is not None:
                    await self._wait_until(started + sent_bytes / self.bytes_per_second)
                yield chunk
            self.is_cut = file.tell() < self.size_bytes

    async def close(self) -> None:
        """Do nothing: the file is closed after its last chunk."""

    async def _wait_until(self, moment: float) -> None:
        delay_seconds = moment - time.monotonic()
        if delay_seconds > 0:
            try:
                await asyncio.wait_for(self._is_stopped.wait(), delay_seconds)
            except TimeoutError:
                return


class PipeSound:
    """The standard input or another pipe that cannot be read twice.

    A thread reads it. The thread is a daemon, because nothing can wake a thread that waits for input. It reads from the
    descriptor, because Python cannot exit while a thread waits in a stream.
    """

    total_bytes: int | None = None

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: asyncio.Queue[bytes | OSError] = asyncio.Queue(_QUEUE_CHUNKS)
        self._is_stopped = asyncio.Event()

    def stop(self) -> None:
        """Let the chunks end."""
        self._is_stopped.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes as they are read."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read_all, args=(loop,), daemon=True).start()
        stopped = asyncio.create_task(self._is_stopped.wait())
        try:
            while not stopped.done():
                item = asyncio.create_task(self._queue.get())
                await asyncio.wait((item, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not item.done():
                    item.cancel()
                    return
                chunk = item.result()
                if isinstance(chunk, OSError):
                    raise chunk
                if not chunk:
                    return
                yield chunk
        finally:
            stopped.cancel()

    async def close(self) -> None:
        """Do nothing: the thread ends with the program."""

    def _read_all(self, loop: asyncio.AbstractEventLoop) -> None:
        chunk: bytes | OSError = b" "
        while chunk and not isinstance(chunk, OSError):
            try:
                chunk = os.read(self._descriptor, CHUNK_BYTES)
            except OSError as error:
                chunk = error
            try:
                asyncio.run_coroutine_threadsafe(self._queue.put(chunk), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the loop has ended


@dataclass(frozen=True, slots=True)
class FfmpegInput:
    """A source of sound for FFmpeg. `driver` is the name of one of its input devices."""

    driver: str
    device: str
    format: Format
    sample_rate: int
    channels: int
    duration_seconds: float | None = None

    @classmethod
    def find(
        cls,
        *,
        driver: str | None,
        device: str | None,
        sample_rate: int | None,
        channels: int | None,
        audio_format: Format | None,
        duration_seconds: float | None,
    ) -> Self:
        """Return the input, with the defaults of this machine for missing values.

        Raises:
            UsageError: There is no default, or the format cannot be encoded while it is recorded.
        """
        usual_driver, usual_device = _MICROPHONES.get(sys.platform, ("", ""))
        driver, device = driver or usual_driver, device or usual_device
        if not driver or not device:
            raise UsageError("This system has no default microphone. Name it with --driver and --device.")
        shape = audio_format or "wav", sample_rate or MICROPHONE_RATE_HZ, channels or 1
        if shape[0] not in _ENCODERS:
            raise UsageError(f"A microphone is recorded as one of {', '.join(_ENCODERS)}, not as {audio_format}.")
        return cls(driver, device, *shape, duration_seconds)

    def command(self, ffmpeg: str) -> list[str]:
        """Return the command that writes the sound to its standard output."""
        limit = [] if self.duration_seconds is None else ["-t", str(self.duration_seconds)]
        source = ["-f", self.driver, *limit, "-i", self.device]
        shape = ["-ar", str(self.sample_rate), "-ac", str(self.channels)]
        quiet = ["-nostdin", "-hide_banner", "-loglevel", "error"]
        return [ffmpeg, *quiet, *source, "-vn", *shape, *_ENCODERS[self.format], "-flush_packets", "1", "pipe:1"]

    @property
    def chunk_bytes(self) -> int:
        """The size of 100 ms of PCM, which is also the most of a compressed chunk."""
        return self.sample_rate // _MICROPHONE_CHUNKS_PER_SECOND * self.channels * 2


class FfmpegSound:
    """The output of an FFmpeg process. Call `start` first."""

    total_bytes: int | None = None

    def __init__(self, microphone: FfmpegInput, ffmpeg: str) -> None:
        self._microphone = microphone
        self._ffmpeg = ffmpeg
        self._process: asyncio.subprocess.Process
        self._listener: asyncio.Task[None]
        self._last_line = "it ended without a sound"
        self._first = b""
        self._is_stopped = False

    async def start(self) -> None:
        """Start FFmpeg and wait for its first sound, so that no session is opened for a microphone that is not there.

        Raises:
            ScribeError: FFmpeg cannot record.
        """
        pipe = asyncio.subprocess.PIPE
        # In a session of its own it does not get the Ctrl-C that is meant for this program.
        self._process = await asyncio.create_subprocess_exec(
            *self._microphone.command(self._ffmpeg),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        self._listener = asyncio.create_task(self._listen())
        self._first = await self._read()
        if not self._first:
            await self.close()
            raise self._failure()

    def stop(self) -> None:
        """Let FFmpeg write the rest of its output, and end."""
        self._is_stopped = True
        if self._process.returncode is None:
            self._process.terminate()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the sound as it comes.

        Raises:
            ScribeError: FFmpeg has failed.
        """
        chunk = self._first
        while chunk:
            yield chunk
            chunk = await self._read()
        code = await self._process.wait()
        await self._listener
        if code and not self._is_stopped:
            raise self._failure()

    async def close(self) -> None:
        """End FFmpeg."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listener

    async def _read(self) -> bytes:
        if self._process.stdout is None:
            return b""
        return await self._process.stdout.read(self._microphone.chunk_bytes)

    async def _listen(self) -> None:
        """Read the messages of FFmpeg, so that it never blocks."""
        if self._process.stderr is not None:
            async for line in self._process.stderr:
                self._last_line = line.decode(errors="replace").strip() or self._last_line

    def _failure(self) -> ScribeError:
        return ScribeError(f"FFmpeg cannot record from {self._microphone.device!r}: {self._last_line}")


def find_program(name: str, given: str | None, advice: str) -> str:
    """Return the path of a program.

    Raises:
        UsageError: It is not installed.
    """
    found = shutil.which(given or name)
    if found is None:
        raise UsageError(f"{given or name} was not found. {advice}")
    return found


async def bytes_per_second(
    sound: FileSound, ffmpeg: str | None, encoding: Encoding | None, sample_rate: int | None, channels: int | None
) -> float:
    """Return how fast a file is played.

    Raises:
        UsageError: The duration of the file cannot be found out.
    """
    if encoding is not None:
        if sample_rate is None or channels is None:
            raise UsageError("The pace of raw PCM needs --sample-rate and --channels.")
        return float(_SAMPLE_BYTES[encoding] * sample_rate * channels)
    program = find_program("ffmpeg", ffmpeg, "Install FFmpeg, or record without --realtime.")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        program, "-nostdin", "-i", f"file:{sound.path}", stdin=asyncio.subprocess.DEVNULL, stderr=pipe
    )
    _, said = await process.communicate()
    found = _DURATION.search(said.decode(errors="replace"))
    seconds = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0
    if not seconds:
        raise UsageError(f"FFmpeg does not know how long {sound.path} is. For raw PCM name its --encoding.")
    return sound.size_bytes / seconds
