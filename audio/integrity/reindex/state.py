"""PURE. The state of each session by its journals: its sources, the counts of their connections, and its chunks."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from audio.journal.records import Header


@dataclass(slots=True)
class ConnectionCounts:
    """The chunks of one epoch of a named source, as far as they are known.

    Attributes:
        first_number: The number of the first chunk.
        committed: How many of the chunks are named in commit records.
        last_number: The number of the last of these.
        last_count: The count of the source with this last chunk.
    """

    first_number: int
    committed: int = 0
    last_number: int = 0
    last_count: int = 0

    def take(self, number: int, count: int) -> None:
        """Count a chunk that a commit record names.

        Args:
            number: The number of the chunk in its source.
            count: The source's count with this chunk.
        """
        self.committed += 1
        if number > self.last_number:
            self.last_number, self.last_count = number, count

    def accepted_before(self) -> int:
        """Return the number of accepted chunks before the last committed one that no commit record names."""
        return self.last_count - (self.first_number - 1) - self.committed


@dataclass(frozen=True, slots=True)
class InFlightChunk:
    """A chunk that no commit record and no void record names.

    Attributes:
        journal_id: The key of the journal's row.
        offset: The offset of the record in the journal.
        header: The header of the record.
        after: The last sequence of the session that a commit record of the journal names; 0 if there is none.
    """

    journal_id: int
    offset: int
    header: Header
    after: int


@dataclass(frozen=True, slots=True)
class UnreadableChunk:
    """A damaged chunk that no commit record and no void record names, so that it may have been acknowledged.

    Attributes:
        file_name: The name of the journal.
        offset: The offset of the record in the journal.
        is_new: Whether the database had no row of this chunk or of a later one of the journal.
    """

    file_name: str
    offset: int
    is_new: bool


@dataclass(slots=True)
class JournaledSession:
    """The state of a session, and the numbers of what was restored.

    Attributes:
        key: The id of the session.
        is_restored: Whether the session itself is restored: the database lacks it, or an earlier run has not ended.
        is_known: Whether the database has the session, so that only missing chunks are added.
        is_deleted: Whether the session was deleted. It does not come back.
        is_uncertain: Whether chunks may be missing, misplaced, or were never acknowledged.
        chunks: The number of restored chunks that commit records name.
        descriptions: The contents of the session records, by the number of the source in the journals.
        source_ids: The keys of the rows of the sources, by the same number.
        connections: The counts of the connections of each named source, by the same number and the epoch.
        in_flight: The chunks in flight that may be restored.
        unreadable: The chunks in flight that are damaged.
        has_begun: Whether the session was looked up in the database.
    """

    key: uuid.UUID
    is_restored: bool = False
    is_known: bool = False
    is_deleted: bool = False
    is_uncertain: bool = False
    chunks: int = 0
    descriptions: dict[int, dict[str, Any]] = field(default_factory=dict)
    source_ids: dict[int, int] = field(default_factory=dict)
    connections: dict[int, dict[int, ConnectionCounts]] = field(default_factory=dict)
    in_flight: list[InFlightChunk] = field(default_factory=list)
    unreadable: list[UnreadableChunk] = field(default_factory=list)
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class CommittedChunk:
    """A chunk that a commit record names."""

    session: JournaledSession
    offset: int
    sequence: int
    header: Header
