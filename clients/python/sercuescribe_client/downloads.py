"""Downloads, which continue after a broken connection, and are compared with the SHA-256 of the recording."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from sercuescribe_client.backoff import Backoff
from sercuescribe_client.errors import DownloadDamagedError, NotReadyError, ServerError, ServerUnreachableError
from sercuescribe_client.transport import MAX_ATTEMPTS, Parameters, Progress, Transport, wait_while_made

_PARTIAL = 206
_OUTSIDE = 416
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
# While a session is open, its recording grows at least so often.
FOLLOW_SECONDS = 1.0
_NOTHING_NEW = ("recording_empty", "recording_building", "range_not_satisfiable")
BytesProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Download:
    """A downloaded file. `is_verified` is set if the server knew its SHA-256, and the file has it."""

    path: Path
    size_bytes: int
    sha256: str
    is_verified: bool


@dataclass(slots=True)
class Position:
    """The downloaded part of a file, and the version of the file to which it belongs.

    Attributes:
        bytes: The number of bytes.
        etag: The ETag of the file; empty before the first response.
        total_bytes: The length of the file; None before the first response.
    """

    bytes: int = 0
    etag: str = ""
    total_bytes: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the file is there as a whole."""
        return self.total_bytes is not None and self.bytes >= self.total_bytes

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest of the same version."""
        headers = {"Accept-Encoding": "identity"}
        if self.bytes and self.etag:
            headers |= {"Range": f"bytes={self.bytes}-", "If-Range": self.etag}
        return headers


class FileReader:
    """A reader of one file of the server from a position, over as many connections as necessary."""

    def __init__(
        self, transport: Transport, path: str, parameters: Parameters, on_making: Progress | None = None
    ) -> None:
        self._transport = transport
        self._path = path
        self._parameters = parameters
        self._on_making = on_making

    async def read(self, position: Position) -> AsyncGenerator[bytes, None]:
        """Yield the bytes after a position, and move the position.

        If the file is another one by now, the position goes back to its beginning before its first bytes are yielded.

        Raises:
            ServerError: The server rejected the request.
            ServerUnreachableError: The connection broke several times without a byte in between.
        """
        backoff, attempts = Backoff(), 0
        while not position.is_complete:
            begun_at = position.bytes
            try:
                async with aclosing(self._read_once(position)) as blocks:
                    async for block in blocks:
                        yield block
            except NotReadyError as error:
                await wait_while_made(error, self._on_making)
            except (ServerUnreachableError, ServerError) as error:
                attempts = 0 if position.bytes > begun_at else attempts + 1
                if attempts >= MAX_ATTEMPTS or (isinstance(error, ServerError) and not error.is_retryable):
                    raise
                await asyncio.sleep(backoff.next_seconds(error))

    async def _read_once(self, position: Position) -> AsyncGenerator[bytes, None]:
        async with self._transport.stream(
            self._path, parameters=self._parameters, headers=position.headers(), accepted=(_PARTIAL, _OUTSIDE)
        ) as response:
            if not _place(position, response):
                return
            async for block in response.aiter_raw():
                position.bytes += len(block)
                yield block
            if position.total_bytes is None:
                position.total_bytes = position.bytes


def _place(position: Position, response: httpx.Response) -> bool:
    """Move a position to the beginning of the body of a response, and return whether there is a body."""
    content_range = response.headers.get("Content-Range", "")
    if response.status_code == _OUTSIDE:
        if content_range == f"bytes */{position.bytes}":
            position.total_bytes = position.bytes
        else:
            position.bytes, position.etag = 0, ""
        return False
    position.etag = response.headers.get("ETag", "")
    found = _CONTENT_RANGE.fullmatch(content_range)
    if response.status_code == _PARTIAL and found:
        position.bytes, position.total_bytes = int(found[1]), int(found[2])
    else:
        length = response.headers.get("Content-Length")
        position.bytes, position.total_bytes = 0, int(length) if length else None
    return True


async def download(
    reader: FileReader, destination: Path, sha256: str | None, on_progress: BytesProgress | None = None
) -> Download:
    """Download a file to `destination`, and continue what an earlier attempt has left beside it.

    Args:
        reader: The file.
        destination: Its path. Until it is complete, it has the suffix `.part`.
        sha256: What its SHA-256 has to be; None if that is not known.
        on_progress: Called with the bytes that are there, and those of the whole.

    Raises:
        DownloadDamagedError: The file differs from that of the server. The downloaded file is removed.
        OSError: The file cannot be written.
    """
    part = destination.with_name(f"{destination.name}.part")
    note = destination.with_name(f"{destination.name}.part.json")
    position = _left_by_earlier(part, note)
    await _write(reader, position, part, note, on_progress)
    found = await asyncio.to_thread(_sha256_of, part)
    size_bytes = part.stat().st_size
    note.unlink(missing_ok=True)
    if (sha256 and found != sha256) or (position.total_bytes is not None and size_bytes != position.total_bytes):
        part.unlink()
        raise DownloadDamagedError(
            f"{destination} was not saved: its SHA-256 is {found}, but that of the recording {sha256}."
        )
    part.replace(destination)
    return Download(destination, size_bytes, found, bool(sha256))


async def _write(
    reader: FileReader, position: Position, part: Path, note: Path, on_progress: BytesProgress | None
) -> None:
    """Write the rest of a file to `part`, and the version of the file to `note`."""
    async with aclosing(reader.read(position)) as blocks:
        with _opened(part) as file:
            async for block in blocks:
                begun_at = position.bytes - len(block)
                if file.tell() != begun_at:
                    file.seek(begun_at)
                    file.truncate()
                if begun_at == 0:
                    _write_note(note, position)
                file.write(block)
                if on_progress is not None:
                    on_progress(position.bytes, position.total_bytes or position.bytes)
            file.flush()
            os.fsync(file.fileno())


def _opened(part: Path) -> BinaryIO:
    return part.open("r+b" if part.exists() else "w+b")


def _write_note(note: Path, position: Position) -> None:
    note.write_text(json.dumps({"etag": position.etag}))


def _left_by_earlier(part: Path, note: Path) -> Position:
    """Return the position after the bytes of an earlier attempt."""
    if not part.exists() or not note.exists():
        return Position()
    try:
        etag: Any = json.loads(note.read_text()).get("etag")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
        return Position()
    return Position(part.stat().st_size, etag) if isinstance(etag, str) else Position()


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LiveWav:
    """A filter that changes the header of a growing WAV file to that of a stream without an end.

    The header of the server declares the length so far, at which a player would stop. All ones mean an unknown length,
    as live recorders write it.
    """

    _UNKNOWN = b"\xff\xff\xff\xff"

    def __init__(self) -> None:
        self._head = b""
        self._is_done = False

    def feed(self, block: bytes) -> bytes:
        """Return the bytes to pass on; none until the header is complete."""
        if self._is_done:
            return block
        self._head += block
        at = self._data_size_at()
        if at is None:
            return b""
        self._is_done = True
        if at == 0:
            return self._head
        head = self._head
        return head[:4] + self._UNKNOWN + head[8:at] + self._UNKNOWN + head[at + 4 :]

    def _data_size_at(self) -> int | None:
        """Return the offset of the size of the samples; 0 if this is no such WAV file, None if it is unknown yet."""
        head = self._head
        if len(head) < 12:
            return 0 if head and not b"RIFF".startswith(head[:4]) else None
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return 0
        at = 12
        while at + 8 <= len(head):
            if head[at : at + 4] == b"data":
                return at + 4
            size_bytes = int.from_bytes(head[at + 4 : at + 8], "little")
            at += 8 + size_bytes + size_bytes % 2
        return None


async def follow(
    transport: Transport, path: str, is_over: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a recording that still grows, until it is complete.

    Args:
        transport: The connections to the server.
        path: Where the recording is.
        is_over: Returns whether the recording is complete. It is asked before each request.
    """
    offset = 0
    while True:
        was_over, begun_at = await is_over(), offset
        try:
            headers = {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
            async with transport.stream(path, headers=headers, accepted=(_PARTIAL,)) as response:
                async for block in response.aiter_raw():
                    offset += len(block)
                    yield block
        except ServerUnreachableError:
            was_over = False
        except ServerError as error:
            if error.code not in _NOTHING_NEW:
                raise
        if offset == begun_at:
            if was_over:
                return
            await asyncio.sleep(FOLLOW_SECONDS)
