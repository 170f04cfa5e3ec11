"""One round of upkeep: what it looks at as the time, whether it acts, how long it may take, and what it did."""

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from audio.ingest import database_time


class Did(StrEnum):
    """What a round does. `UNEXPLAINED` is what it leaves alone because only a person can tell what it is."""

    DEAD_PROCESSES = "dead_processes"
    CLOSED_SESSIONS = "closed_sessions"
    REQUESTED_RECORDINGS = "requested_recordings"
    REQUESTED_TASKS = "requested_tasks"
    REQUESTED_UPLOADS = "requested_uploads"
    REQUESTED_DELETIONS = "requested_deletions"
    DROPPED_SESSIONS = "dropped_sessions"
    DELETED_SESSIONS = "deleted_sessions"
    ERASED_JOURNALS = "erased_journals"
    REMOVED_JOURNALS = "removed_journals"
    MOVED_SESSIONS = "moved_sessions"
    REMOVED_LEFTOVERS = "removed_leftovers"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Swept:
    """How much a round did, or would do: the names of `Did`."""

    dead_processes: int = 0
    closed_sessions: int = 0
    requested_recordings: int = 0
    requested_tasks: int = 0
    requested_uploads: int = 0
    requested_deletions: int = 0
    dropped_sessions: int = 0
    deleted_sessions: int = 0
    erased_journals: int = 0
    removed_journals: int = 0
    moved_sessions: int = 0
    removed_leftovers: int = 0
    unexplained: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by their names."""
        return asdict(self)


class Round:
    """A round in the making. One that does not act (`acts`) only notes what it would do.

    It begins nothing new once `lasts_seconds` are over; what is left is done by the next.
    """

    def __init__(self, acts: bool = True, lasts_seconds: float = float("inf")) -> None:
        self.now: datetime = database_time()
        self.acts = acts
        self.names: dict[Did, list[str]] = defaultdict(list)
        self._ends_at = time.monotonic() + lasts_seconds

    @property
    def is_over(self) -> bool:
        """Whether nothing new should be begun."""
        return time.monotonic() >= self._ends_at

    def note(self, did: Did, name: object) -> None:
        """Notes that this was done to what has that name, or would be."""
        self.names[did].append(str(name))

    def swept(self) -> Swept:
        """Returns the counts."""
        return Swept(**{did.value: len(names) for did, names in self.names.items()})
