"""The rows of a reindexing, and the statements that insert and read them."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction

from audio.integrity.reindex.outcomes import free_sequences
from audio.integrity.reindex.state import ConnectionCounts, InFlightChunk, JournaledSession
from audio.journal.records import Header
from audio.models import (
    DEFAULT_PROJECT_NAME,
    AudioChunk,
    AudioSession,
    AudioSource,
    Project,
    Recovery,
    SessionStatus,
)
from audio.pages import in_pages
from audio.wire.parameters import parse_metadata

# When a chunk was received, its size and its CRC-32.
Identity = tuple[datetime, int, int]
ROWS_PER_STATEMENT = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def session_row(key: uuid.UUID, description: dict[str, Any]) -> AudioSession:
    """Return the unsaved row of a session, with an unsaved project, from the description in a session record.

    Descriptions of early versions contain no details and no project.

    Raises:
        KeyError, ValueError, TypeError, AttributeError, ValidationError, InvalidParameterError: The description is
            wrong.
    """
    row = AudioSession(
        pk=key,
        status=SessionStatus.COMPLETED,
        recovered=Recovery.PENDING,
        user_id=description["user_id"],
        start_time=datetime.fromisoformat(description["start_time"]),
        chunk_mode=description["chunks"],
        undecided=description.get("undecided", []),
        project=Project(name=description.get("project", DEFAULT_PROJECT_NAME)),
        name=description.get("name"),
        metadata=parse_metadata(description.get("metadata", {})),
        retention_days=description.get("retention_days"),
        legal_hold=description.get("legal_hold", False),
        **{name: description[name] for name in ("sample_rate", "channels", "format", "encoding")},
    )
    row.project.clean_fields()
    row.clean_fields(exclude=["project"])
    return row


def chunk_row(session: JournaledSession, header: Header, journal_id: int, offset: int, sequence: int) -> AudioChunk:
    """Return the row of a chunk, not saved, whose source has a row."""
    return AudioChunk(
        session_id=session.key,
        sequence=sequence,
        source_id=session.source_ids[header.source_id],
        journal_id=journal_id,
        offset=offset,
        size_bytes=header.length_bytes,
        crc32=header.payload_crc32,
        received_at=_received_at(header),
    )


def _received_at(header: Header) -> datetime:
    return _EPOCH + timedelta(microseconds=header.received_at_us)


def insert(rows: Sequence[AudioChunk]) -> None:
    """Insert the rows that do not exist yet."""
    AudioChunk.objects.bulk_create(rows, batch_size=ROWS_PER_STATEMENT, ignore_conflicts=True)


def insert_counted(session: JournaledSession, rows: Sequence[AudioChunk]) -> None:
    """Insert chunks of a session that the database knows, and update its counters, in one transaction."""
    if not rows:
        return
    with transaction.atomic():
        mine = AudioSession.objects.filter(pk=session.key)
        row = mine.select_for_update().get()
        AudioChunk.objects.bulk_create(rows, batch_size=ROWS_PER_STATEMENT)
        at = max(chunk.received_at for chunk in rows)
        mine.update(
            total_chunks=max(row.total_chunks, *(chunk.sequence for chunk in rows)),
            byte_count=row.byte_count + sum(chunk.size_bytes for chunk in rows),
            last_chunk_at=max(at, row.last_chunk_at or at),
            recovered=row.recovered or Recovery.EXACT,
        )
        for source_id, connections in session.connections.items():
            if connections and source_id in session.source_ids:
                _count_in_source(session.source_ids[source_id], connections, rows)


def _count_in_source(key: int, connections: dict[int, ConnectionCounts], rows: Sequence[AudioChunk]) -> None:
    source = AudioSource.objects.select_for_update().get(pk=key)
    added = sum(chunk.source_id == key for chunk in rows)
    epoch = max(source.epoch, *connections)
    AudioSource.objects.filter(pk=key).update(epoch=epoch, chunk_count=source.chunk_count + added)


def complete_source(key: int, connections: dict[int, ConnectionCounts]) -> None:
    """Update the counters of a named source."""
    if connections:
        count = AudioChunk.objects.filter(source_id=key, session__sources=key).count()
        AudioSource.objects.filter(pk=key).update(epoch=max(connections), chunk_count=count)


def identity(header: Header) -> Identity:
    """Return the values that identify a chunk in any journal."""
    return _received_at(header), header.length_bytes, header.payload_crc32


def identities(session: JournaledSession, sequences: Iterable[int]) -> dict[int, Identity]:
    """Return the identity of each chunk of the session that has one of these sequences, by its sequence."""
    rows = AudioChunk.objects.filter(session_id=session.key, sequence__in=sequences)
    return {row[0]: row[1:] for row in rows.values_list("sequence", "received_at", "size_bytes", "crc32")}


def without_moved(session: JournaledSession, chunks: Sequence[InFlightChunk]) -> list[InFlightChunk]:
    """Leave out chunks that were moved to another journal, in which a commit record names them."""
    rows = AudioChunk.objects.filter(session_id=session.key)
    times = [_received_at(chunk.header) for chunk in chunks]
    there = set(rows.filter(received_at__in=times).values_list("source_id", "received_at", "size_bytes", "crc32"))
    return [
        chunk
        for chunk, at in zip(chunks, times, strict=True)
        if (session.source_ids[chunk.header.source_id], at, chunk.header.length_bytes, chunk.header.payload_crc32)
        not in there
    ]


def in_flight_rows(session: JournaledSession, chunks: Sequence[InFlightChunk]) -> list[AudioChunk]:
    """Return the rows of chunks that were in flight, not saved, each with the sequence that it gets."""
    sequences = free_sequences(chunks, *_gaps(session.key))
    return [
        chunk_row(session, chunk.header, chunk.journal_id, chunk.offset, sequence)
        for chunk, sequence in zip(chunks, sequences, strict=True)
    ]


def _gaps(session_id: uuid.UUID) -> tuple[list[tuple[int, int]], int]:
    """Return the ranges of sequences that no row has, and the last sequence of a row."""
    gaps, last = [], 0
    for page in in_pages(AudioChunk.objects.filter(session_id=session_id), "sequence"):
        for (sequence,) in page:
            if sequence > last + 1:
                gaps.append((last + 1, sequence - 1))
            last = sequence
    return gaps, last
