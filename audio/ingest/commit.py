"""The commit transaction: it assigns sequences to the chunks of a batch and inserts their rows.

There is one transaction per batch. It locks the sessions and the named sources in the order of their keys, accepts or
rejects each chunk, updates the counters, and inserts the rows. The number of statements does not depend on the number
of chunks. Chunks of closed and paused sessions and of superseded connections are rejected. The statements are SQL,
because inserting a row through the ORM costs several times as much as the rest of the path of a chunk.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import structlog
from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction
from django.db import Error as DjangoDatabaseError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from audio.database import AWAY, database_time, is_full, rejection
from audio.errors import (
    AudioError,
    DatabaseUnavailableError,
    SessionClosedError,
    SessionNotFoundError,
    SessionPausedError,
    SupersededError,
)
from audio.ingest.statements import Statements, statements_for
from audio.ingest.types import Accepted, Outcome, Producer
from audio.models import AudioChunk, JournalFile, SessionStatus

logger = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_RETRY_SECONDS = 10.0
# IntegrityError: an earlier attempt may have inserted the rows without a confirmation of its commit.
_LOST = (*AWAY, IntegrityError)


class JournalledChunk(NamedTuple):
    """A chunk that is durable in the journal at `offset` and waits for its row."""

    producer: Producer
    offset: int
    size_bytes: int
    crc32: int
    received_at_us: int


@dataclass(slots=True)
class _Counters:
    status: str
    total_chunks: int
    added_chunks: int = 0
    added_bytes: int = 0


@dataclass(slots=True)
class _SourceCounters:
    epoch: int
    chunk_count: int
    added_chunks: int = 0


class RowWriter:
    """Writes the rows of chunks. It belongs to one thread, and replaces that thread's broken database connections."""

    def create_journal(self, name: str, process_id: uuid.UUID) -> int:
        """Create the row of a new journal.

        Args:
            name: The journal's name.
            process_id: The process that writes it.

        Returns:
            The key of the row.

        Raises:
            DatabaseUnavailableError: The database is away.
            StorageFullError: The database is full.
        """

        def create() -> int:
            defaults = {"process_id": process_id, "created_at": database_time()}
            return JournalFile.objects.get_or_create(name=name, defaults=defaults)[0].pk

        return self._persist(create)

    def commit(self, journal_id: int, batch: Sequence[JournalledChunk]) -> list[Outcome]:
        """Commit the chunks of a batch. When it returns, the accepted chunks are durable.

        Args:
            journal_id: The key of the journal's row.
            batch: Chunks of that journal, in the order of their offsets.

        Returns:
            Their outcomes, in the same order.

        Raises:
            DatabaseUnavailableError: The database is away. It is not known whether the chunks were committed.
            StorageFullError: The database is full.
        """
        attempts = 0

        def attempt() -> list[Outcome]:
            nonlocal attempts
            attempts += 1
            # Looked up once per batch, because Django's `connection` proxy looks it up for every attribute.
            connection = connections[DEFAULT_DB_ALIAS]
            with transaction.atomic(), connection.wrap_database_errors:
                return _Transaction(statements_for(connection), journal_id, batch).run(look_for_own_rows=attempts > 1)

        return self._persist(attempt)

    def _persist(self, function: Callable[[], T]) -> T:
        """Run the function until it succeeds, on a new connection after each failure."""
        try:
            return function()
        except DjangoDatabaseError as error:
            # A full disk stays full for longer than a chunk can wait.
            if not isinstance(error, _LOST) or is_full(error):
                raise rejection(error) from error
            logger.warning("commit_retried", error=str(error))
        connections[DEFAULT_DB_ALIAS].close()
        try:
            return _retrying()(function)
        except DjangoDatabaseError as error:
            logger.error("commit_failed", error=str(error))
            raise rejection(error) from error


def _retrying() -> Retrying:
    return Retrying(
        stop=stop_after_delay(_RETRY_SECONDS),
        wait=wait_exponential_jitter(multiplier=0.02, max=1.0),
        retry=retry_if_exception_type(_LOST),
        after=lambda state: connections[DEFAULT_DB_ALIAS].close(),
        reraise=True,
    )


class _Transaction:
    """The statements of one attempt. Its caller holds the transaction open."""

    def __init__(self, statements: Statements, journal_id: int, batch: Sequence[JournalledChunk]) -> None:
        self._statements = statements
        self._journal_id = journal_id
        self._batch = batch
        self._sessions: dict[Any, _Counters] = {}
        self._sources: dict[int, _SourceCounters] = {}

    def run(self, look_for_own_rows: bool) -> list[Outcome]:
        self._lock_sessions()
        self._lock_sources()
        if look_for_own_rows and (own := self._own_rows()):
            return [own.get(chunk.offset) or self._rejected_before(chunk) for chunk in self._batch]
        outcomes = [self._decide(chunk) for chunk in self._batch]
        self._write_counters()
        self._insert([(p, o) for p, o in zip(self._batch, outcomes, strict=True) if isinstance(o, Accepted)])
        return outcomes

    def _rejected_before(self, chunk: JournalledChunk) -> AudioError:
        """Return why an earlier attempt, which was committed after all, rejected this chunk.

        If the reason is no longer known, the producer has to reconnect.
        """
        producer = chunk.producer
        session, source = self._sessions.get(producer.session_key), self._sources.get(producer.source_id)
        rejection = _rejection(producer, session, source) or DatabaseUnavailableError()
        return self._note(producer, rejection)

    @staticmethod
    def _note(producer: Producer, rejection: AudioError) -> AudioError:
        if rejection.close_code is not None or producer.epoch is not None:
            producer.rejection = rejection
        return rejection

    def _decide(self, chunk: JournalledChunk) -> Outcome:
        producer = chunk.producer
        session = self._sessions.get(producer.session_key)
        source = self._sources.get(producer.source_id)
        if (rejection := _rejection(producer, session, source)) is not None:
            return self._note(producer, rejection)
        assert session is not None  # noqa: S101 - _rejection answers for a missing one
        session.added_chunks += 1
        session.added_bytes += chunk.size_bytes
        if source is not None:
            source.added_chunks += 1
        return Accepted(
            sequence=session.total_chunks + session.added_chunks,
            source_count=source.chunk_count + source.added_chunks if source is not None else 0,
        )

    def _lock_sessions(self) -> None:
        keys = list({chunk.producer.session_key for chunk in self._batch})
        rows = self._statements.lock_sessions(keys)
        self._sessions = {key: _Counters(status, total) for key, status, total in rows}

    def _lock_sources(self) -> None:
        keys = {chunk.producer.source_id for chunk in self._batch if chunk.producer.epoch is not None}
        if keys:
            rows = self._statements.lock_sources(list(keys))
            self._sources = {key: _SourceCounters(epoch, count) for key, epoch, count in rows}

    def _own_rows(self) -> dict[int, Accepted]:
        """Return the chunks of this batch that an earlier attempt has committed, by their offsets."""
        rows = AudioChunk.objects.filter(
            journal_id=self._journal_id, offset__gte=self._batch[0].offset, offset__lte=self._batch[-1].offset
        ).values_list("offset", "sequence", "source__chunk_count")
        return {offset: Accepted(sequence, count) for offset, sequence, count in rows}

    def _write_counters(self) -> None:
        grown = [(s.added_chunks, s.added_bytes, key) for key, s in self._sessions.items() if s.added_chunks]
        if grown:
            self._statements.add_to_sessions(grown, datetime.now(UTC))
        sources = [(source.added_chunks, key) for key, source in self._sources.items() if source.added_chunks]
        if sources:
            self._statements.add_to_sources(sources)

    def _insert(self, accepted: list[tuple[JournalledChunk, Accepted]]) -> None:
        time = self._statements.time
        self._statements.insert_chunks(
            [
                (
                    chunk.producer.session_key,
                    outcome.sequence,
                    chunk.producer.source_id,
                    self._journal_id,
                    chunk.offset,
                    chunk.size_bytes,
                    chunk.crc32,
                    time(chunk.received_at_us),
                )
                for chunk, outcome in accepted
            ]
        )


def _rejection(producer: Producer, session: _Counters | None, source: _SourceCounters | None) -> AudioError | None:
    if producer.rejection is not None:
        return producer.rejection
    if session is None:
        return SessionNotFoundError("The session was deleted.")
    if producer.epoch is not None and (source is None or source.epoch != producer.epoch):
        return SupersededError()
    if session.status == SessionStatus.PAUSED:
        return SessionPausedError()
    return SessionClosedError() if session.status != SessionStatus.ACTIVE else None
