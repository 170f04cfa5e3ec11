"""`scribe listen` and `scribe download`: send a recording to a player, to standard output, or to a file."""

import asyncio
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from sercuescribe_client.cli.execution import messages
from sercuescribe_client.client import AsyncClient
from sercuescribe_client.downloads import BytesProgress, Download
from sercuescribe_client.errors import ScribeError, UsageError
from sercuescribe_client.models import AnyFormat
from sercuescribe_client.transport import Progress as Fraction

_PLAYER = ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-i", "pipe:0")


async def listen(client: AsyncClient, session_id: str, player: str | None, to_stdout: bool) -> None:
    """Play a recording, or write it to standard output, and follow an open session to its end.

    Raises:
        UsageError: There is no player.
        ScribeError: The player has failed.
    """
    if to_stdout:
        await write(client.sessions.follow(session_id))
        return
    command = [player] if player else [*_PLAYER]
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"{command[0]} was not found. Install FFmpeg, name a player that reads its standard input with --player, "
            "or use --stdout."
        )
    async with aclosing(client.sessions.follow(session_id)) as blocks:
        await _play(blocks, command)


async def _play(blocks: AsyncIterator[bytes], command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    try:
        async for block in blocks:
            process.stdin.write(block)
            await process.stdin.drain()
        process.stdin.close()
        code = await process.wait()
    except (BrokenPipeError, ConnectionResetError):
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if code:
        raise ScribeError(f"The player {command[0]} ended with exit code {code}.")


async def write(blocks: AsyncGenerator[bytes, None]) -> None:
    """Write bytes to the standard output."""
    async with aclosing(blocks):
        async for block in blocks:
            await asyncio.to_thread(_write, block)


def _write(block: bytes) -> None:
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


async def download(
    client: AsyncClient,
    session_id: str,
    destination: Path,
    audio_format: AnyFormat | None,
    markers: bool,
    partial: bool,
    as_json: bool,
) -> Download:
    """Download a recording and show how far it is."""
    with _bar(as_json) as (on_progress, on_making):
        return await client.sessions.download(
            session_id,
            destination,
            format=audio_format,
            markers=markers,
            partial=partial,
            on_progress=on_progress,
            on_making=on_making,
        )


@contextmanager
def _bar(is_quiet: bool) -> Iterator[tuple[BytesProgress | None, Fraction | None]]:
    if is_quiet or not messages.is_terminal:
        yield None, None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        bar = progress.add_task("Waiting", total=None)

        def show_bytes(done: int, total: int) -> None:
            progress.update(bar, description="Downloading", completed=done, total=total)

        def show_making(fraction: float) -> None:
            progress.update(bar, description=f"Being made, {fraction:.0%}")

        yield show_bytes, show_making
