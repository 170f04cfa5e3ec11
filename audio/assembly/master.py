"""The master file of a session, which contains the audio so far, up to the committed length.

A file has one writer at a time, and is never truncated. A run creates a file with its own claim in the name, or
continues the file that the previous run has handed over. If that run may still be alive, or the file is not exactly as
it was committed, the new run copies the committed bytes into a file of its own, and does not touch the other one.
"""

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from audio.errors import MasterDamagedError
from audio.journal.files import sync_folder
from audio.media import wav
from audio.media.samples import PcmFormat

_BATCH_BYTES = 1 << 20


class Master:
    """An open master file. `size_bytes` is its length, including appended bytes that are not synced yet."""

    def __init__(self, path: Path) -> None:
        """Create the file, which must not exist."""
        self.path = path
        self.size_bytes = 0
        # The entries in its folders are not durable yet.
        self._is_new = True
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    @staticmethod
    def holds(path: Path, size_bytes: int) -> bool:
        """Return whether there is a file with at least this many bytes."""
        return _size_bytes(path) >= size_bytes

    @classmethod
    def handed_over(cls, path: Path, size_bytes: int) -> "Master | None":
        """Open the file of a run that has ended.

        Args:
            path: The file.
            size_bytes: The length that was committed.

        Returns:
            The master; None if the file is longer, because it then contains bytes that were not committed.

        Raises:
            MasterDamagedError: The file is missing or shorter.
        """
        if (there := _size_bytes(path)) < size_bytes:
            raise MasterDamagedError
        if there > size_bytes:
            return None
        master = cls.__new__(cls)
        master.path, master.size_bytes, master._is_new = path, size_bytes, False
        master._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        return master

    @classmethod
    def copied(cls, source: Path, path: Path, size_bytes: int) -> "Master":
        """Create the file with the first `size_bytes` bytes of another.

        Raises:
            MasterDamagedError: The other file is missing or shorter.
        """
        if _size_bytes(source) < size_bytes:
            raise MasterDamagedError
        master = cls(path)
        with source.open("rb") as file:
            while block := file.read(min(_BATCH_BYTES, size_bytes - master.size_bytes)):
                master._write(block)
        return master

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def cut_to(self, size_bytes: int) -> None:
        """Remove the bytes that this run has appended after a committed length."""
        os.ftruncate(self._handle, size_bytes)

    def append(self, pieces: Iterable[bytes]) -> None:
        """Write the pieces at the end, about a megabyte at a time."""
        batch: list[bytes] = []
        for piece in pieces:
            batch.append(piece)
            if len(batch) == 1 << 10 or len(piece) >= _BATCH_BYTES:
                self._write(b"".join(batch))
                batch = []
        self._write(b"".join(batch))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, self.size_bytes)
            self.size_bytes += written
            view = view[written:]

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to `size_bytes` bytes from `offset` on."""
        return os.pread(self._handle, size_bytes, offset)

    def patch(self, data: bytes, offset: int) -> None:
        """Overwrite existing bytes."""
        os.pwrite(self._handle, data, offset)

    def sync(self) -> None:
        """Make the content durable, and the folders too if the file is new."""
        os.fsync(self._handle)
        if self._is_new:
            for folder in itertools.islice(self.path.parents, 4):
                sync_folder(folder)
            self._is_new = False

    def finish_wav(self, pcm: PcmFormat) -> int:
        """Write the sizes and the pad byte of a WAV master, and return its size. The call can be repeated."""
        data_bytes = self.size_bytes - wav.HEADER_BYTES
        self.patch(wav.header(pcm, data_bytes), 0)
        if data_bytes % 2:
            self.patch(b"\0", self.size_bytes)
        self.sync()
        return self.size_bytes + data_bytes % 2


def _size_bytes(path: Path) -> int:
    """Return the length of a file; -1 if there is none."""
    return path.stat().st_size if path.exists() else -1
