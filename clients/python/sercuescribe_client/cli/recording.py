"""`scribe record`: record a sound and show the progress."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sercuescribe_client.cli.execution import InterruptedByUserError, messages, pairs_of, write_json
from sercuescribe_client.cli.sound import (
    FfmpegInput,
    FfmpegSound,
    FileSound,
    PipeSound,
    Sound,
    bytes_per_second,
    find_program,
)
from sercuescribe_client.client import AsyncClient
from sercuescribe_client.errors import UsageError
from sercuescribe_client.recorder import Recorder, RecordOptions

_SHOW_SECONDS = 0.1
# The most bytes that may wait in temporary files during an outage.
_SPOOL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Microphone:
    """The options of a microphone. None selects the default."""

    is_wanted: bool
    driver: str | None
    device: str | None
    duration_seconds: float | None
    ffmpeg: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a recording. `markers` are `SECONDS=LABEL`, and `metadata` are `KEY=VALUE`."""

    file: str | None
    microphone: Microphone
    is_realtime: bool
    options: RecordOptions
    markers: Sequence[str]
    metadata: Sequence[str]
    as_json: bool


def markers_of(texts: Sequence[str]) -> list[tuple[float, str]]:
    """Return the markers that `SECONDS=LABEL` arguments describe.

    Raises:
        UsageError: One of them has no number of seconds, or no label.
    """
    found = []
    for text in texts:
        seconds, _, label = text.partition("=")
        try:
            found.append((float(seconds), label))
        except ValueError:
            raise UsageError(f"Write a marker as SECONDS=LABEL, not {text!r}.") from None
        if not label:
            raise UsageError(f"A marker needs a label: {text!r} has none.")
    return found


def _say_notice(notice: Mapping[str, Any]) -> None:
    """Tell the user about a part that the server could not decode."""
    messages.print(f"{notice['detail']} ({notice['code']})", markup=False)


async def record(client: AsyncClient, wanted: Wanted) -> None:
    """Record, and write the id of the session.

    Raises:
        InterruptedByUserError: A file was interrupted, so the recording has only its beginning.
    """
    markers, metadata = markers_of(wanted.markers), pairs_of(wanted.metadata)
    sound, options = await _sound(wanted)
    options = {**options, "metadata": metadata, "on_notice": _say_notice}
    if not isinstance(sound, FileSound):
        options = {**options, "spool": True, "max_pending_bytes": _SPOOL_BYTES}
    try:
        with _until_interrupted(sound):
            async with client.record(**options) as recorder, _shown(recorder, sound, wanted.as_json):
                for seconds, label in markers:
                    await client.markers.add(recorder.session_id, label, seconds)
                await _send(recorder, sound)
    finally:
        await sound.close()
    await _report(client, recorder, wanted.as_json)
    if isinstance(sound, FileSound) and sound.is_cut:
        raise InterruptedByUserError("Interrupted. The session is closed and has the beginning of the file.")


async def _send(recorder: Recorder, sound: Sound) -> None:
    if isinstance(sound, FileSound):
        sound.skipped_chunks = recorder.resumed_chunk_count
    async with aclosing(sound.chunks()) as chunks:
        async for chunk in chunks:
            await recorder.send(chunk)
    await recorder.close()


async def _sound(wanted: Wanted) -> tuple[Sound, RecordOptions]:
    """Return the sound to record, and the options of its session.

    Raises:
        UsageError: It is nothing, or more than one thing.
        OSError: The file cannot be read.
    """
    if wanted.microphone.is_wanted == (wanted.file is not None):
        raise UsageError("Name a file, - for the standard input, or --microphone.")
    if wanted.file is None:
        return await _microphone(wanted)
    if wanted.file != "-":
        return await _file(Path(wanted.file), wanted), wanted.options
    if wanted.is_realtime:
        raise UsageError("--realtime is for files. The standard input is recorded as it comes.")
    return PipeSound(sys.stdin.fileno()), wanted.options


async def _file(path: Path, wanted: Wanted) -> FileSound:
    sound = FileSound(path)
    if wanted.is_realtime:
        options = wanted.options
        pcm = (options.get("encoding"), options.get("sample_rate"), options.get("channels"))
        sound.bytes_per_second = await bytes_per_second(sound, wanted.microphone.ffmpeg, *pcm)
    return sound


async def _microphone(wanted: Wanted) -> tuple[FfmpegSound, RecordOptions]:
    options, asked = wanted.options, wanted.microphone
    if options.get("encoding") not in (None, "s16le"):
        raise UsageError("A microphone is recorded as s16le. Leave --encoding out.")
    microphone = FfmpegInput.find(
        driver=asked.driver,
        device=asked.device,
        sample_rate=options.get("sample_rate"),
        channels=options.get("channels"),
        audio_format=options.get("format"),
        duration_seconds=asked.duration_seconds,
    )
    sound = FfmpegSound(microphone, find_program("ffmpeg", asked.ffmpeg, "Install FFmpeg to use the microphone."))
    await sound.start()
    shape = RecordOptions(format=microphone.format, chunks="stream", sample_rate=None, channels=None)
    if microphone.format == "wav":
        # These samples have no header. A compressed stream declares its own rate, which is another one for Opus.
        shape["sample_rate"], shape["channels"] = microphone.sample_rate, microphone.channels
    return sound, {**options, **shape}


@contextmanager
def _until_interrupted(sound: Sound) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop the sound, so that the session is closed, and the second one everything."""
    loop, came = asyncio.get_running_loop(), list[int]()
    task = asyncio.current_task()

    def stop() -> None:
        messages.print("Closing the session. Press Ctrl-C again to leave it at once.")
        sound.stop()

    def interrupt(number: int, _: Any) -> None:
        came.append(number)
        if len(came) == 1:
            loop.call_soon_threadsafe(stop)
        elif task is not None:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except asyncio.CancelledError:
        raise InterruptedByUserError(
            "Interrupted. The session stays open until the server's grace period is over."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@asynccontextmanager
async def _shown(recorder: Recorder, sound: Sound, is_quiet: bool) -> AsyncIterator[None]:
    """Show on a terminal how much is recorded."""
    if is_quiet or not messages.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        shower = asyncio.create_task(_show(progress, recorder, sound))
        try:
            yield
        finally:
            shower.cancel()
            await asyncio.gather(shower, return_exceptions=True)


async def _show(progress: Progress, recorder: Recorder, sound: Sound) -> None:
    bar = progress.add_task("Recording", total=sound.total_bytes)
    while True:
        state = "Recording" if recorder.is_connected else "Connecting again"
        progress.update(bar, description=state, completed=recorder.acknowledged_bytes)
        await asyncio.sleep(_SHOW_SECONDS)


async def _report(client: AsyncClient, recorder: Recorder, as_json: bool) -> None:
    if as_json:
        write_json(await client.sessions.get(recorder.session_id))
        return
    again = f", after {recorder.reconnect_count} lost connections" if recorder.reconnect_count else ""
    messages.print(f"Recorded {recorder.acknowledged_bytes} bytes{again}.")
    typer.echo(recorder.session_id)
