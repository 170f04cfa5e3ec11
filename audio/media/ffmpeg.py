"""FFmpeg: the search for the program, and its execution with limits.

FFmpeg reads files from strangers. So every run has limits on CPU, memory, output and wall time (`audio.media.guard`),
an empty working folder and no standard input, and may open only files of the expected kind (`audio.media.plan`).
"""

import contextlib
import errno
import functools
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import structlog
from django.conf import settings

from audio.errors import (
    FfmpegFailedError,
    FfmpegMissingError,
    FfmpegStoppedError,
    MediaLimitExceededError,
    UnsupportedMediaError,
)
from audio.media import guard

logger = structlog.stdlib.get_logger(__name__)

WORK_PREFIX = "work-"
_BLOCK_BYTES = 1 << 20
_MAX_ALLOCATION_BYTES = 256 << 20
_MESSAGE_CHARACTERS = 300
_LIMIT_SIGNALS = (signal.SIGXFSZ, signal.SIGALRM, signal.SIGKILL)
_OF_ANOTHER_TRACK = re.compile(
    r"not on whitelist|Last message repeated|Could not find codec parameters for stream .*Video"
)
# Messages of its demuxers when they leave something out and continue.
_DAMAGE = re.compile(
    r"CRC mismatch|invalid as first byte of an EBML number|Invalid EBML number|File ended prematurely"
    r"|exceeds containing master element|partial file|Error during demuxing"
)
# FFmpeg's exit code when somebody asked it to stop.
_STOPPED = 255
_VERSION_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use."""

    cpu_seconds: int = 60
    wall_seconds: int = 120
    memory_bytes: int = 1 << 30
    file_bytes: int = 4 << 30


WINDOW_LIMITS = Limits()
# A day of audio is encoded in well under an hour.
LONG_LIMITS = Limits(cpu_seconds=3600, wall_seconds=4 * 3600, file_bytes=64 << 30)


def find() -> Path:
    """Return the FFmpeg program: FFMPEG_BINARY, otherwise that of imageio-ffmpeg, otherwise the one on PATH.

    Raises:
        FfmpegMissingError: None of them exists.
    """
    asked = settings.FFMPEG_BINARY
    found = shutil.which(asked) if asked else _bundled() or shutil.which("ffmpeg")
    if not found:
        raise FfmpegMissingError
    return Path(found).resolve()


def _bundled() -> str | None:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


@functools.cache
def version(program: Path) -> str:
    """Return the version of an FFmpeg program. The program is run once in the life of the process.

    Raises:
        FfmpegMissingError: The program does not run, or is not FFmpeg.
    """
    try:
        run = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=_VERSION_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FfmpegMissingError("The FFmpeg program can't be run. Set FFMPEG_BINARY to another one.") from error
    told = re.match(r"ffmpeg version (\S+)", run.stdout)
    if run.returncode or told is None:
        raise FfmpegMissingError("The FFmpeg program can't be run. Set FFMPEG_BINARY to another one.")
    return told[1]


@contextlib.contextmanager
def working_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder inside `parent`, and remove it with its content afterwards."""
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=parent) as name:
        yield Path(name)


def _command(folder: Path, limits: Limits) -> list[str]:
    bounds = (limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, limits.file_bytes)
    return [
        *(sys.executable, "-I", "-S", str(Path(guard.__file__).resolve())),
        *(",".join(map(str, bounds)), str(folder)),
        *(str(find()), "-nostdin", "-hide_banner", "-loglevel", settings.FFMPEG_LOGLEVEL),
        *("-max_alloc", str(_MAX_ALLOCATION_BYTES), "-threads", "1"),
    ]


def program(folder: Path, first: Sequence[str], limits: Limits = WINDOW_LIMITS) -> Path:
    """Write an executable that runs the guarded FFmpeg with the options `first`; return its path.

    The options come before the arguments of a call. The executable is for pydub, which needs a single path to call.
    """
    path = folder / "ffmpeg"
    path.write_text(f'#!/bin/sh\nexec {shlex.join([*_command(folder, limits), *first])} "$@"\n')
    path.chmod(stat.S_IRWXU)
    return path


def run(
    arguments: Sequence[str],
    folder: Path,
    limits: Limits = LONG_LIMITS,
    on_seconds: Callable[[float], None] = lambda _: None,
) -> float:
    """Run FFmpeg to its end in `folder`, and return the seconds of audio that it wrote.

    `on_seconds` is called with the seconds written so far, about twice a second.

    Raises:
        MediaLimitExceededError: FFmpeg reached a limit.
        FfmpegFailedError: It failed; the detail has its message.
    """
    seconds = 0.0
    with _started(["-progress", "pipe:1", *arguments], folder, limits) as output:
        for line in output:
            if match := re.match(rb"out_time_us=(\d+)", line):
                seconds = int(match[1]) / 1e6
                on_seconds(seconds)
    return seconds


def _ignore(line: str) -> None:
    """Do nothing about it."""


def output_of(
    arguments: Sequence[str],
    folder: Path,
    limits: Limits = LONG_LIMITS,
    on_damage: Callable[[str], None] = _ignore,
) -> Generator[bytes, None, None]:
    """Run FFmpeg and yield its standard output, block by block. Errors are those of `run`.

    If FFmpeg has left out a part of its input, `on_damage` is called at the end with its message.
    """
    with _started(arguments, folder, limits, on_damage=on_damage) as output:
        while block := output.read(_BLOCK_BYTES):
            yield block


def feed(arguments: Sequence[str], blocks: Iterable[bytes], folder: Path, limits: Limits = LONG_LIMITS) -> None:
    """Run FFmpeg to its end in `folder`, with the blocks as its standard input. Errors are those of `run`."""
    # FFmpeg ends early only with an error. `_started` raises that error, and not the one of the pipe.
    with _started(arguments, folder, limits, subprocess.PIPE) as standard_input, contextlib.suppress(BrokenPipeError):
        for block in blocks:
            standard_input.write(block)
        standard_input.close()


@contextlib.contextmanager
def _started(
    arguments: Sequence[str],
    folder: Path,
    limits: Limits,
    given: int = subprocess.DEVNULL,
    on_damage: Callable[[str], None] = _ignore,
) -> Iterator[IO[bytes]]:
    """Run FFmpeg and yield its standard output, or its standard input if `given` is a pipe."""
    is_fed = given == subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        used_before = _children_cpu_seconds()
        process = subprocess.Popen(
            [*_command(folder, limits), *arguments],
            stdin=given,
            stdout=subprocess.DEVNULL if is_fed else subprocess.PIPE,
            stderr=errors,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
        pipe = process.stdin if is_fed else process.stdout
        assert pipe is not None  # noqa: S101 - tells the type checker what PIPE does
        try:
            yield pipe
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
            code = process.wait()
        if code == -signal.SIGKILL and _children_cpu_seconds() - used_before < limits.cpu_seconds - 1:
            # The signal is not that of a limit. Somebody, or a machine without free memory, has sent it.
            raise FfmpegStoppedError
        errors.seek(0)
        messages = errors.read(1 << 16).decode(errors="replace")
        check(code, messages)
        if damage := next((line for line in messages.splitlines() if _DAMAGE.search(line)), ""):
            on_damage(_readable(damage))


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(code: int, messages: str) -> None:
    """Raise the error for an exit code of FFmpeg, unless it is 0.

    Raises:
        OSError: The disk is full. The same run may succeed later.
        FfmpegStoppedError: FFmpeg was stopped. The same run may succeed later.
        MediaLimitExceededError: It reached a limit.
        FfmpegFailedError: Anything else.
    """
    if code == 0:
        return
    if os.strerror(errno.ENOSPC) in messages:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # Error -1 of a demuxer has the same exit code as a signal, but only it has this message.
    is_denied = os.strerror(errno.EPERM) in messages
    if code in (_STOPPED, -signal.SIGTERM, -signal.SIGINT) and not is_denied:
        raise FfmpegStoppedError
    if -code in _LIMIT_SIGNALS or "Cannot allocate memory" in messages:
        raise MediaLimitExceededError
    if "matches no streams" in messages:
        # Only audio tracks are mapped.
        raise UnsupportedMediaError("The file has no audio.")
    first = _readable(_telling_line(messages) or f"exit code {code}")
    logger.warning("ffmpeg_failed", error=first)
    raise FfmpegFailedError(f"FFmpeg could not process the audio: {first[:_MESSAGE_CHARACTERS]}")


def _readable(line: str) -> str:
    """Return a message without memory addresses."""
    return re.sub(r" @ 0x[0-9a-f]+", "", line)[:_MESSAGE_CHARACTERS]


def _telling_line(messages: str) -> str:
    """Return the first line of FFmpeg's messages that describes the problem; empty if there is none.

    Messages about pictures come first. They are ignored, because pictures are not decoded.
    """
    lines = messages.strip().splitlines()
    return next((line for line in lines if not _OF_ANOTHER_TRACK.search(line)), next(iter(lines), ""))
