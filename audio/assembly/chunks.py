"""The pending chunks of a session: their rows, window by window, and their payloads from the journals."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from audio.errors import ChunkDamagedError, ChunkNotFoundError, ChunksReleasedError, MediaError
from audio.journal.files import Extent, JournalReader
from audio.media import plan
from audio.models import AudioChunk
from audio.storage.paths import root

OnDamage = Callable[[ChunkDamagedError, int], bytes]
_COLUMNS = ("sequence", "source_id", "journal__name", "offset", "size_bytes", "crc32")
_FIRST_ROWS = 256


@dataclass(frozen=True, slots=True)
class PendingChunk:
    """The sequence of a chunk, its source, and the place of its payload at the time when the row was read."""

    session_id: uuid.UUID
    sequence: int
    source_id: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk with its payload."""

    sequence: int
    source_id: int
    payload: bytes


def window_after(session_id: uuid.UUID, sequence: int) -> list[PendingChunk]:
    """Return the pending chunks after `sequence` that make one window, in order.

    Large chunks fill a window soon. So the first query reads few rows, and each further one reads twice as many.

    Raises:
        ChunkDamagedError: The row of a chunk between them is missing.
    """
    pending = AudioChunk.objects.filter(session_id=session_id).order_by("sequence").values_list(*_COLUMNS)
    rows: list[tuple[Any, ...]] = []
    wanted = _FIRST_ROWS
    while True:
        after = rows[-1][0] if rows else sequence
        found = list(pending.filter(sequence__gt=after)[:wanted])
        rows += found
        if len(found) < wanted or len(rows) >= plan.WINDOW_CHUNKS or plan.bounded([row[4] for row in rows]) < len(rows):
            return _window(session_id, sequence, rows)
        wanted = min(2 * wanted, plan.WINDOW_CHUNKS - len(rows))


def windows_after(places: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, list[PendingChunk]]:
    """Return a window for each of many sessions, in one query.

    Args:
        places: The sequence after which the window of each session begins.

    Returns:
        The windows, as `window_after` returns them. A session is absent if its row of a chunk is missing.
    """
    chosen = Q()
    for session_id, sequence in places.items():
        chosen |= Q(session_id=session_id, sequence__range=(sequence + 1, sequence + plan.WINDOW_CHUNKS))
    rows: dict[uuid.UUID, list[tuple[Any, ...]]] = {session_id: [] for session_id in places}
    for session_id, *row in AudioChunk.objects.filter(chosen).order_by().values_list("session_id", *_COLUMNS):
        rows[session_id].append(tuple(row))
    windows = {}
    for session_id, sequence in places.items():
        with contextlib.suppress(ChunkDamagedError):
            windows[session_id] = _window(session_id, sequence, sorted(rows[session_id]))
    return windows


def _window(session_id: uuid.UUID, sequence: int, rows: Sequence[tuple[Any, ...]]) -> list[PendingChunk]:
    """Return the chunks after `sequence` that make one window, from their rows in order."""
    waiting = [PendingChunk(session_id, row[0], row[1], Extent(*row[2:])) for row in rows]
    for expected, chunk in enumerate(waiting, start=sequence + 1):
        if chunk.sequence != expected:
            raise ChunkDamagedError(f"The row of chunk {expected} is missing.", sequence=expected)
    return waiting[: plan.bounded([chunk.extent.size_bytes for chunk in waiting])]


def read(waiting: Sequence[PendingChunk], on_damage: OnDamage | None = None) -> Iterator[Chunk]:
    """Yield the chunks of one window with their payloads.

    Args:
        waiting: The chunks.
        on_damage: Called with the error of each damaged chunk and its size in bytes. The bytes that it returns, if
            any, are yielded instead of the payload. Without it the error is raised.

    Raises:
        ChunkDamagedError, ChunksReleasedError: With the `sequence` of the chunk.
    """
    with JournalReader(root()) as reader:
        for chunk in waiting:
            try:
                with chunk_context(chunk.sequence):
                    payload = _payload(reader, chunk)
            except ChunkDamagedError as error:
                if on_damage is None:
                    raise
                payload = on_damage(error, chunk.extent.size_bytes)
            if payload:
                yield Chunk(chunk.sequence, chunk.source_id, payload)


def payload(session_id: uuid.UUID, sequence: int) -> bytes:
    """Return the bytes of one chunk of a session.

    Raises:
        ChunkNotFoundError, ChunksReleasedError, ChunkDamagedError: They cannot be read.
    """
    source_id, extent = _row(session_id, sequence)
    with JournalReader(root()) as reader, chunk_context(sequence):
        return _payload(reader, PendingChunk(session_id, sequence, source_id, extent))


def _payload(reader: JournalReader, chunk: PendingChunk) -> bytes:
    """Read a chunk; if it was moved since its row was read, read the row again."""
    extent = chunk.extent
    while True:
        try:
            return reader.read(extent)
        except ChunkDamagedError:
            _, moved_to = _row(chunk.session_id, chunk.sequence)
            if moved_to == extent:
                raise
            extent = moved_to


def _row(session_id: uuid.UUID, sequence: int) -> tuple[int, Extent]:
    """Return the source of a chunk, and its extent.

    Raises:
        ChunkNotFoundError, ChunksReleasedError: It does not exist, or is deleted.
    """
    rows = AudioChunk.objects.filter(session_id=session_id, sequence=sequence)
    row = rows.values_list("source_id", "journal__removed_at", "journal__name", "offset", "size_bytes", "crc32").first()
    if row is None:
        raise ChunkNotFoundError(sequence=sequence)
    if row[1] is not None:
        raise ChunksReleasedError(sequence=sequence)
    return row[0], Extent(*row[2:])


def are_released(session_id: uuid.UUID) -> bool:
    """Whether the bytes of a chunk of the session are gone, so that its recording can't be rebuilt."""
    return AudioChunk.objects.filter(session_id=session_id, journal__removed_at__isnull=False).exists()


def read_range(session_id: uuid.UUID, first: int, last: int, on_damage: OnDamage | None = None) -> Iterator[Chunk]:
    """Yield the chunks `first` to `last` of a session, window by window. `on_damage` is that of `read`."""
    while first <= last:
        window = [chunk for chunk in window_after(session_id, first - 1) if chunk.sequence <= last]
        if not window:
            raise ChunkDamagedError(f"The row of chunk {first} is missing.", sequence=first)
        yield from read(window, on_damage)
        first = window[-1].sequence + 1


@contextlib.contextmanager
def chunk_context(sequence: int) -> Iterator[None]:
    """Add the `sequence` of a chunk to the details of a media error that is raised in the block."""
    try:
        yield
    except MediaError as error:
        error.details.setdefault("sequence", sequence)
        raise
