"""The chunks of a session that wait for concatenation: rows by the window, payloads from the journals."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audio.build.store import root
from audio.errors import ChunkDamaged, ChunkNotFound, MediaError
from audio.journal.files import Extent, JournalReader
from audio.media import plan
from audio.models import AudioChunk


@dataclass(frozen=True, slots=True)
class Waiting:
    """A chunk's place in the session, its source, and where its payload is."""

    sequence: int
    source_id: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk with its payload."""

    sequence: int
    source_id: int
    payload: bytes


def window_after(session_id: uuid.UUID, sequence: int) -> list[Waiting]:
    """Returns the chunks behind `sequence` that make one window, in order, in one query.

    Raises ChunkDamaged if the row of one between them is missing.
    """
    rows = (
        AudioChunk.objects.filter(session_id=session_id, sequence__gt=sequence)
        .order_by("sequence")
        .values_list("sequence", "source_id", "journal__name", "offset", "size_bytes", "crc32")[: plan.WINDOW_CHUNKS]
    )
    waiting = [Waiting(row[0], row[1], Extent(*row[2:])) for row in rows]
    for expected, chunk in enumerate(waiting, start=sequence + 1):
        if chunk.sequence != expected:
            raise ChunkDamaged(f"The row of chunk {expected} is missing.", sequence=expected)
    return waiting[: plan.bounded([chunk.extent.size_bytes for chunk in waiting])]


def read(waiting: Sequence[Waiting]) -> Iterator[Chunk]:
    """Takes the chunks of one window; gives them with their payloads, or raises ChunkDamaged with its `sequence`."""
    with JournalReader(root()) as reader:
        for chunk in waiting:
            with blaming(chunk.sequence):
                payload = reader.read(chunk.extent)
            yield Chunk(chunk.sequence, chunk.source_id, payload)


def payload(session_id: uuid.UUID, sequence: int) -> bytes:
    """Takes a session's id and the sequence of a chunk; returns its bytes as they came.

    Raises ChunkNotFound or ChunkDamaged.
    """
    row = (
        AudioChunk.objects.filter(session_id=session_id, sequence=sequence)
        .values_list("journal__name", "offset", "size_bytes", "crc32")
        .first()
    )
    if row is None:
        raise ChunkNotFound(sequence=sequence)
    with JournalReader(root()) as reader, blaming(sequence):
        return reader.read(Extent(*row))


def read_range(session_id: uuid.UUID, first: int, last: int) -> Iterator[Chunk]:
    """Gives the chunks `first` to `last` of a session, window by window."""
    while first <= last:
        window = [chunk for chunk in window_after(session_id, first - 1) if chunk.sequence <= last]
        if not window:
            raise ChunkDamaged(f"The row of chunk {first} is missing.", sequence=first)
        yield from read(window)
        first = window[-1].sequence + 1


class blaming:  # noqa: N801 - reads as a verb
    """A block in which a media error is that of one chunk: its details get the chunk's `sequence`."""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MediaError):
            error.details.setdefault("sequence", self._sequence)
