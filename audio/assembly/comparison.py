"""The comparison of a ready recording with the audio of its chunks. It uses a limited amount of memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audio.models import Recording

_BLOCK_BYTES = 1 << 20


class RecordingDiffersError(Exception):
    """The recording differs from the audio of its chunks. The message says where."""


@dataclass(frozen=True, slots=True)
class ReadyRecording:
    """A recording to compare: its row, its file, and a folder for working files."""

    row: Recording
    path: Path
    work: Path


class Comparison:
    """A comparison of expected bytes with actual bytes, which come in pieces of different sizes."""

    def __init__(self, actual: Iterator[bytes]) -> None:
        self._actual = actual
        self._held = memoryview(b"")
        self._at = 0

    def expect(self, piece: bytes, is_exact: bool = True, masked: range = range(0)) -> None:
        """Compare a piece with the next actual bytes.

        Args:
            piece: The expected bytes.
            is_exact: Whether to compare the bytes, and not only their number.
            masked: Positions that are not compared.

        Raises:
            RecordingDiffersError: The bytes differ.
        """
        left = memoryview(piece)
        while left:
            if not self._held:
                self._held = memoryview(next(self._actual, b""))
            count = min(len(left), len(self._held))
            if not count:
                raise RecordingDiffersError(
                    f"The recording ends after {self._at} bytes of audio, but its chunks have more."
                )
            if is_exact and left[:count] != self._held[:count]:
                self._check_masked(bytes(left[:count]), bytes(self._held[:count]), masked)
            left, self._held, self._at = left[count:], self._held[count:], self._at + count

    def _check_masked(self, expected: bytes, actual: bytes, masked: range) -> None:
        pairs = enumerate(zip(expected, actual, strict=True), start=self._at)
        for at, (mine, theirs) in pairs:
            if mine != theirs and at not in masked:
                raise RecordingDiffersError(f"Byte {at} of the audio of the recording differs from its chunks.")

    def end(self) -> None:
        """Check that no bytes follow.

        Raises:
            RecordingDiffersError: There are more bytes.
        """
        if self._held or any(self._actual):
            raise RecordingDiffersError(
                f"The recording continues after {self._at} bytes of audio, where its chunks end."
            )


def blocks(path: Path, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
    """Yield a file's bytes from `start` on, at most `size_bytes` of them."""
    with path.open("rb") as file:
        file.seek(start)
        left = size_bytes
        while block := file.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
            left = None if left is None else left - len(block)
            yield block
