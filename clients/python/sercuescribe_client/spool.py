"""The spools in which chunks wait until the server has acknowledged them: in memory, or in temporary files.

A spool of files is for pipes, which cannot be read twice. It consists of files of a few megabytes. A file is removed
when all of its chunks are acknowledged, so a working connection needs one file.
"""

import tempfile
from typing import IO, Protocol

FILE_BYTES = 16 * 1024 * 1024


class Stored(Protocol):
    """A chunk that waits."""

    @property
    def size_bytes(self) -> int:
        """The size of the chunk."""

    def read(self) -> bytes:
        """Return the chunk."""

    def discard(self) -> None:
        """Forget the chunk, because the server has it."""


class Spool(Protocol):
    """The chunks that wait."""

    def put(self, payload: bytes) -> Stored:
        """Store a chunk."""

    def close(self) -> None:
        """Forget all chunks."""


class _InMemory:
    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    @property
    def size_bytes(self) -> int:
        return len(self._payload)

    def read(self) -> bytes:
        return self._payload

    def discard(self) -> None:
        """The memory is free when nobody refers to the chunk any more."""


class MemorySpool:
    """Chunks in memory."""

    def put(self, payload: bytes) -> Stored:
        """Store a chunk."""
        return _InMemory(payload)

    def close(self) -> None:
        """Do nothing: the memory is free when nobody refers to the chunks any more."""


class _File:
    """One of the files, which removes itself after its last chunk."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed after its last chunk
        self._waiting = 0
        self.size_bytes = 0
        self.is_full = False

    @property
    def is_closed(self) -> bool:
        return self._file.closed

    def put(self, payload: bytes) -> "_OnDisk":
        self._file.seek(self.size_bytes)
        self._file.write(payload)
        chunk = _OnDisk(self, self.size_bytes, len(payload))
        self.size_bytes += len(payload)
        self._waiting += 1
        return chunk

    def read(self, offset: int, size_bytes: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size_bytes)

    def discard_one(self) -> None:
        self._waiting -= 1
        if self._waiting:
            return
        if self.is_full:
            self._file.close()
        else:
            self._file.truncate(0)
            self.size_bytes = 0

    def close(self) -> None:
        self._file.close()


class _OnDisk:
    def __init__(self, file: _File, offset: int, size_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read(self) -> bytes:
        return self._file.read(self._offset, self._size_bytes)

    def discard(self) -> None:
        self._file.discard_one()


class FileSpool:
    """Chunks in temporary files without names."""

    def __init__(self) -> None:
        self._files: list[_File] = []

    def put(self, payload: bytes) -> Stored:
        """Store a chunk.

        Raises:
            OSError: The disk is full.
        """
        if not self._files or self._files[-1].size_bytes >= FILE_BYTES:
            for full in self._files[-1:]:
                full.is_full = True
            self._files = [file for file in self._files if not file.is_closed] + [_File()]
        return self._files[-1].put(payload)

    def close(self) -> None:
        """Forget all chunks and remove the files."""
        for file in self._files:
            file.close()
