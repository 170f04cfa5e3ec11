"""The master file of a session: what is concatenated so far, up to the length that the database tells."""

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from audio.errors import MasterDamaged
from audio.journal.files import sync_folder
from audio.media import wav
from audio.media.wav import PcmFormat

_BATCH_BYTES = 1 << 20


class Master:
    """An open master file. `size_bytes` is its length with what was appended, synced or not."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Opens the file and cuts off what no commit covers; raises MasterDamaged if it is shorter than that.

        One of which nothing is covered is made anew: whoever still reads an earlier recording keeps that.
        """
        self.path = path
        self.size_bytes = size_bytes
        # A file that no commit covers may have been made by a run that died before it synced the folder.
        self._is_new = not size_bytes
        if self._is_new:
            path.unlink(missing_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if os.fstat(self._handle).st_size < size_bytes:
            self.close()
            raise MasterDamaged
        os.ftruncate(self._handle, size_bytes)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)

    def append(self, pieces: Iterable[bytes]) -> None:
        """Writes the pieces at the end, a megabyte or so at a time."""
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
        """Returns up to `size_bytes` bytes from `offset` on."""
        return os.pread(self._handle, size_bytes, offset)

    def patch(self, data: bytes, offset: int) -> None:
        """Writes over what is there already."""
        os.pwrite(self._handle, data, offset)

    def sync(self) -> None:
        """Makes the content durable, and the names that lead to it if the file is new."""
        os.fsync(self._handle)
        if self._is_new:
            for folder in itertools.islice(self.path.parents, 4):
                sync_folder(folder)
            self._is_new = False

    def finish_wav(self, pcm: PcmFormat) -> int:
        """Writes the sizes into the header of a WAV master, and the pad byte; returns the file's size. Repeatable."""
        data_bytes = self.size_bytes - wav.HEADER_BYTES
        self.patch(wav.header(pcm, data_bytes), 0)
        if data_bytes % 2:
            self.patch(b"\0", self.size_bytes)
        self.sync()
        return self.size_bytes + data_bytes % 2
