"""Journal files on the disk: append and sync, read one extent, scan a file, erase a payload.

Two rules make a crash harmless:

- A process appends only to files that it created itself (`O_EXCL`). So an incomplete record at an end is never
  overwritten.
- After a failed or short write, or a failed sync, the file is truncated after its last good byte and never written
  again.
  The kernel may have dropped the dirty pages, and the next sync would report success (fsync(2), "fsyncgate").

The owner of a journal holds an flock on it for as long as it may append. The kernel releases that lock when the
process ends. So a caller that acquires the lock (`journal_lock`) knows that the journal will not grow any more.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from audio.errors import ChunkDamagedError
from audio.journal.records import ERASED, HEADER_BYTES, MAGIC, Header, RecordType, pack_header, parse_header

FOLDER = "journals"
SUFFIX = ".journal"
_IOV_MAX = os.sysconf("SC_IOV_MAX")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """The range of bytes of a chunk's record.

    `journal_name` is relative to the storage root, and `offset` is the offset of the record's header.
    """

    journal_name: str
    offset: int
    size_bytes: int
    crc32: int


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable. The fsync(2) of a file in it does not do this."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def try_lock(handle: int | IO[str]) -> bool:
    """Try to acquire an flock on an open file, without waiting; return whether it was acquired.

    It is released when the file is closed, or its process ends.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class JournalWriter:
    """One journal file, created and appended to by this process alone.

    `name` is relative to `root`. `end` is the offset of the next record. It moves only after a complete write. After
    any OSError from `append` the file must not be used any more.
    """

    def __init__(self, root: Path, process_id: uuid.UUID, number: int) -> None:
        self._create(root, f"{FOLDER}/{process_id.hex[:2]}/{process_id.hex}-{number:06}{SUFFIX}")

    @classmethod
    def at(cls, root: Path, name: str) -> "JournalWriter":
        """Create the file `name`, relative to `root`, instead of a journal of the process."""
        writer = cls.__new__(cls)
        writer._create(root, name)
        return writer

    def _create(self, root: Path, name: str) -> None:
        self.name = name
        self.end = 0
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            for parent in Path(name).parents:
                sync_folder(root / parent)
        except OSError:
            os.close(self._handle)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def append(self, buffers: Sequence[bytes]) -> None:
        """Write the buffers at the end and make them durable, with one writev and one fdatasync.

        More than IOV_MAX buffers need one writev for each IOV_MAX of them.

        Raises:
            OSError: The write or the sync failed. The file then contains none of the buffers, unless its truncation
                has failed too.
        """
        try:
            for batch in _batches(buffers):
                self._write(batch)
            os.fdatasync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self.end)
            raise
        self.end += sum(map(len, buffers))

    def _write(self, batch: Sequence[bytes]) -> None:
        expected = sum(map(len, batch))
        written = os.writev(self._handle, batch)
        if written != expected:
            # Write the rest to get the error, which is raised only if nothing can be written.
            os.write(self._handle, b"".join(batch)[written:])
            raise OSError(errno.ENOSPC, f"short write to {self.name}: {written} of {expected} bytes")

    def close(self) -> None:
        """Close the file and keep its content."""
        os.close(self._handle)


def _batches(buffers: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (buffers[start : start + _IOV_MAX] for start in range(0, len(buffers), _IOV_MAX))


class JournalReader:
    """A reader of chunks by their extents, for one window.

    Files are opened again for each window, because a network file system shows the writes of another host only after
    the file has been opened again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handles: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._handles.clear()

    def read(self, extent: Extent) -> bytes:
        """Return the payload at `extent`.

        Raises:
            ChunkDamagedError: The file is missing, or the payload has changed.
        """
        try:
            payload = os.pread(self._open(extent.journal_name), extent.size_bytes, extent.offset + HEADER_BYTES)
        except FileNotFoundError as error:
            raise ChunkDamagedError(f"The journal {extent.journal_name} is missing.") from error
        if len(payload) != extent.size_bytes or zlib.crc32(payload) != extent.crc32:
            raise ChunkDamagedError(f"The chunk at {extent.journal_name}:{extent.offset} is damaged.")
        return payload

    def read_record(self, extent: Extent) -> bytes:
        """Return the whole record at `extent`, header and payload.

        Raises:
            ChunkDamagedError: The file is missing, or the record has changed.
        """
        payload = self.read(extent)
        packed = os.pread(self._open(extent.journal_name), HEADER_BYTES, extent.offset)
        header = parse_header(packed)
        if (
            header is None
            or header.type is not RecordType.CHUNK
            or header.erased
            or header.payload_crc32 != extent.crc32
        ):
            raise ChunkDamagedError(f"The header at {extent.journal_name}:{extent.offset} is damaged.")
        return packed + payload

    def header(self, name: str, offset: int) -> Header | None:
        """Return the header at an offset of a journal; None if there is none.

        Raises:
            ChunkDamagedError: The file is missing.
        """
        try:
            return parse_header(os.pread(self._open(name), HEADER_BYTES, offset))
        except FileNotFoundError as error:
            raise ChunkDamagedError(f"The journal {name} is missing.") from error

    def _open(self, name: str) -> int:
        handle = self._handles.get(name)
        if handle is None:
            handle = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, handle)
            self._handles[name] = handle
        return handle


@contextlib.contextmanager
def journal_lock(path: Path) -> Iterator[bool]:
    """Try to acquire the journal's lock until the end of the block, without waiting.

    Yields:
        Whether the lock was acquired. If so, no process appends to the file, and no other caller acquires the lock
        before the end of the block.

    Raises:
        FileNotFoundError: There is no such file.
    """
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # The previous owner of the lock may have removed the file.
        yield try_lock(handle) and os.fstat(handle).st_nlink > 0
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class ScannedRecord:
    """A record that `scan` has found. `intact` is set if the CRC-32 of its payload is right."""

    offset: int
    header: Header
    payload: bytes
    intact: bool

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.offset + HEADER_BYTES + self.header.length_bytes


def scan(path: Path, start: int = 0) -> Iterator[ScannedRecord]:
    """Yield the records of a journal in order, up to the first place at which no complete record begins.

    Args:
        path: The journal file.
        start: The offset of the first record to read.
    """
    with path.open("rb") as file:
        offset = file.seek(start)
        while (header := parse_header(file.read(HEADER_BYTES))) is not None:
            payload = file.read(header.length_bytes)
            if len(payload) < header.length_bytes:
                return
            record = ScannedRecord(
                offset, header, payload, header.erased or zlib.crc32(payload) == header.payload_crc32
            )
            yield record
            offset = record.end


def resumes_at(path: Path, end: int) -> int | None:
    """Find the next record after the place where `scan` ended.

    A crash leaves an incomplete record at the end. After damage, the function searches for the next valid header. A
    payload can contain bytes that look like a header, so records that are found in this way are less certain.

    Args:
        path: The journal file.
        end: The offset where `scan` ended.

    Returns:
        The offset of the next record. It is `end` itself if the file has grown since, and None if there are no more
        records.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(end)
        header = parse_header(file.read(HEADER_BYTES))
        if header is not None:
            return end if end + HEADER_BYTES + header.length_bytes <= size_bytes else None
        file.seek(end)
        return _next_header(file, end)


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a journal where no record begins, although records follow it."""

    offset: int


def walk(path: Path) -> Iterator[ScannedRecord | Damage]:
    """Yield all records of a journal in order, and the damage between them (`scan`, `resumes_at`)."""
    start: int | None = 0
    while start is not None:
        end = start
        for record in scan(path, start):
            yield record
            end = record.end
        start = resumes_at(path, end)
        if start is not None and start > end:
            yield Damage(end)


def _next_header(file: IO[bytes], at: int) -> int | None:
    held = b""
    while block := file.read(_BLOCK_BYTES):
        held += block
        found = held.find(MAGIC)
        while found >= 0 and len(held) - found >= HEADER_BYTES:
            if parse_header(held[found : found + HEADER_BYTES]) is not None:
                return at + found
            found = held.find(MAGIC, found + 1)
        kept = len(held) - found if found >= 0 else len(MAGIC) - 1
        at, held = at + max(0, len(held) - kept), held[-kept:]
    return None


def erase(root: Path, extents: Sequence[Extent], own: Collection[str] = (), *, flags: int = ERASED) -> set[str]:
    """Overwrite payloads with zeros, mark their headers erased, and sync each file once.

    The records keep their length, so that the rest of the file can still be scanned. Missing files, and places that no
    longer contain the chunk, are skipped. A file to which another process appends is not touched, because on a network
    file system a host writes whole pages, as it last saw them.

    Args:
        root: The storage root.
        extents: The chunks.
        own: Names of files to which the caller may write, because it appends to them or holds their lock.
        flags: The flags for the headers.

    Returns:
        The names of the files that were not touched.
    """
    busy = set()
    for name, group in itertools.groupby(sorted(extents, key=lambda e: (e.journal_name, e.offset)), _name):
        with contextlib.suppress(FileNotFoundError), _writable(root / name, name in own) as handle:
            if handle is None:
                busy.add(name)
                continue
            for extent in group:
                _erase_one(handle, extent, flags)
            os.fdatasync(handle)
    return busy


def erase_sessions(path: Path, session_ids: Collection[uuid.UUID]) -> None:
    """Erase every chunk record of these sessions from a file whose lock the caller holds.

    Nothing is erased after damage, because bytes that look like a record there may be the payload of a client.
    """
    with _writable(path, is_own=True) as handle:
        if handle is None:
            return
        size_bytes, offset, is_changed = os.fstat(handle).st_size, 0, False
        while (header := parse_header(os.pread(handle, HEADER_BYTES, offset))) is not None:
            end = offset + HEADER_BYTES + header.length_bytes
            if end > size_bytes:
                break
            if header.type is RecordType.CHUNK and header.session_id in session_ids and not header.erased:
                _erase_one(handle, Extent("", offset, header.length_bytes, header.payload_crc32), ERASED)
                is_changed = True
            offset = end
        if is_changed:
            os.fdatasync(handle)


@contextlib.contextmanager
def _writable(path: Path, is_own: bool) -> Iterator[int | None]:
    """Open a file for writing; yield None instead of a descriptor if another process appends to it."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield handle if is_own or try_lock(handle) else None
    finally:
        os.close(handle)


def _name(extent: Extent) -> str:
    return extent.journal_name


def _erase_one(handle: int, extent: Extent, flags: int) -> None:
    header = parse_header(os.pread(handle, HEADER_BYTES, extent.offset))
    if header is None or header.type is not RecordType.CHUNK or header.length_bytes != extent.size_bytes:
        return
    erased = pack_header(
        RecordType.CHUNK,
        0,
        header.length_bytes,
        header.session_id.bytes,
        header.source_id,
        header.number,
        header.received_at_us,
        header.epoch,
        flags=flags,
    )
    os.pwrite(handle, erased + bytes(extent.size_bytes), extent.offset)
