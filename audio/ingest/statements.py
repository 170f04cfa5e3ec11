"""The SQL of the commit transaction, in the dialects of SQLite and PostgreSQL.

The statements go directly to the driver, because Django's layers around a cursor cost as much as the statements
themselves. Their texts are constant, so the drivers parse them once.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from audio.models import AudioChunk, AudioSession, AudioSource

_SESSIONS = AudioSession._meta.db_table
_SOURCES = AudioSource._meta.db_table
_CHUNKS = AudioChunk._meta.db_table
_CHUNK_COLUMNS = 'session_id, sequence, source_id, journal_id, "offset", size_bytes, crc32, received_at'

_EPOCH = datetime(1970, 1, 1)  # times in SQLite have no time zone

Row = tuple[Any, ...]


class Statements(Protocol):
    """The statements of the transaction. Keys have the types of the driver."""

    def lock_sessions(self, keys: Sequence[Any]) -> Iterable[Row]:
        """Return (id, status, total_chunks) of the sessions, locked in the order of their keys."""

    def lock_sources(self, keys: Sequence[int]) -> Iterable[Row]:
        """Return (id, epoch, chunk_count) of the sources, locked in the order of their keys."""

    def add_to_sessions(self, added: Sequence[tuple[int, int, Any]], at: datetime) -> None:
        """Add (chunks, bytes) to the counters of each session (id), and set the time of its last chunk."""

    def add_to_sources(self, added: Sequence[tuple[int, int]]) -> None:
        """Add the number of chunks to the counter of each source (id)."""

    def insert_chunks(self, rows: Sequence[Row]) -> None:
        """Insert the rows of chunks, with times from `time`."""

    def time(self, microseconds: int) -> Any:
        """Convert a time in microseconds since the epoch to the type of the driver."""


class SqliteStatements:
    """The dialect of SQLite. There is one writer at a time, and the IMMEDIATE transaction has the only lock."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def lock_sessions(self, keys: Sequence[Any]) -> Iterable[Row]:
        """Return (id, status, total_chunks) of the sessions; the transaction has locked them."""
        sql = f"SELECT id, status, total_chunks FROM {_SESSIONS} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
        rows: Iterable[Row] = self._raw.execute(sql, (json.dumps(keys),)).fetchall()
        return rows

    def lock_sources(self, keys: Sequence[int]) -> Iterable[Row]:
        """Return (id, epoch, chunk_count) of the sources; the transaction has locked them."""
        sql = f"SELECT id, epoch, chunk_count FROM {_SOURCES} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
        rows: Iterable[Row] = self._raw.execute(sql, (json.dumps(keys),)).fetchall()
        return rows

    def add_to_sessions(self, added: Sequence[tuple[int, int, Any]], at: datetime) -> None:
        """Add to the counters of sessions with one statement for each."""
        now = at.replace(tzinfo=None).isoformat(" ")
        self._raw.executemany(
            f"UPDATE {_SESSIONS} SET total_chunks = total_chunks + ?, byte_count = byte_count + ?, last_chunk_at = ?"  # noqa: S608
            " WHERE id = ?",
            [(chunks, size_bytes, now, key) for chunks, size_bytes, key in added],
        )

    def add_to_sources(self, added: Sequence[tuple[int, int]]) -> None:
        """Add to the counters of sources with one statement for each."""
        self._raw.executemany(f"UPDATE {_SOURCES} SET chunk_count = chunk_count + ? WHERE id = ?", added)  # noqa: S608

    def insert_chunks(self, rows: Sequence[Row]) -> None:
        """Insert the rows of chunks."""
        self._raw.executemany(f"INSERT INTO {_CHUNKS} ({_CHUNK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608

    def time(self, microseconds: int) -> str:
        """Return a time as Django's DateTimeField stores it in SQLite: in UTC, without a time zone."""
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(" ")


class PostgresStatements:
    """The dialect of PostgreSQL. Rows are locked in the order of their keys, so that processes cannot deadlock."""

    def __init__(self, raw: Any) -> None:
        self._cursor = raw.cursor()

    def lock_sessions(self, keys: Sequence[Any]) -> Iterable[Row]:
        """Return (id, status, total_chunks) of the sessions, locked in the order of their keys."""
        sql = f"SELECT id, status, total_chunks FROM {_SESSIONS} WHERE id = ANY(%s) ORDER BY id FOR UPDATE"  # noqa: S608
        rows: Iterable[Row] = self._cursor.execute(sql, (list(keys),)).fetchall()
        return rows

    def lock_sources(self, keys: Sequence[int]) -> Iterable[Row]:
        """Return (id, epoch, chunk_count) of the sources, locked in the order of their keys."""
        sql = f"SELECT id, epoch, chunk_count FROM {_SOURCES} WHERE id = ANY(%s) ORDER BY id FOR UPDATE"  # noqa: S608
        rows: Iterable[Row] = self._cursor.execute(sql, (list(keys),)).fetchall()
        return rows

    def add_to_sessions(self, added: Sequence[tuple[int, int, Any]], at: datetime) -> None:
        """Add to the counters of sessions with one statement."""
        chunks, size_bytes, keys = (list(column) for column in zip(*added, strict=True))
        self._cursor.execute(
            f"UPDATE {_SESSIONS} SET total_chunks = total_chunks + added.chunks,"  # noqa: S608
            " byte_count = byte_count + added.bytes, last_chunk_at = %s"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[]) AS added (chunks, bytes, id)"
            f" WHERE {_SESSIONS}.id = added.id",
            (at, chunks, size_bytes, keys),
        )

    def add_to_sources(self, added: Sequence[tuple[int, int]]) -> None:
        """Add to the counters of sources with one statement."""
        chunks, keys = (list(column) for column in zip(*added, strict=True))
        self._cursor.execute(
            f"UPDATE {_SOURCES} SET chunk_count = chunk_count + added.chunks"  # noqa: S608
            f" FROM unnest(%s::bigint[], %s::bigint[]) AS added (chunks, id) WHERE {_SOURCES}.id = added.id",
            (chunks, keys),
        )

    def insert_chunks(self, rows: Sequence[Row]) -> None:
        """Insert the rows of chunks with COPY."""
        with self._cursor.copy(f"COPY {_CHUNKS} ({_CHUNK_COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def time(self, microseconds: int) -> datetime:
        """Return a time as a datetime in UTC."""
        return _EPOCH.replace(tzinfo=UTC) + timedelta(microseconds=microseconds)


def statements_for(connection: BaseDatabaseWrapper) -> Statements:
    """Return the statements for an open connection of Django's."""
    if connection.vendor == "postgresql":
        return PostgresStatements(connection.connection)
    return SqliteStatements(connection.connection)
