"""The state of one sweep: its time, its deadline, whether it is a dry run, and its actions."""

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from audio.ingest import database_time


class Action(StrEnum):
    """An action of a sweep. `UNEXPLAINED` counts the files and problems that need the decision of a person."""

    DEAD_PROCESSES = "dead_processes"
    CLOSED_SESSIONS = "closed_sessions"
    REQUESTED_RECORDINGS = "requested_recordings"
    REQUESTED_TASKS = "requested_tasks"
    REQUESTED_UPLOADS = "requested_uploads"
    REQUESTED_DELETIONS = "requested_deletions"
    REQUESTED_WEBHOOKS = "requested_webhooks"
    DROPPED_SESSIONS = "dropped_sessions"
    DELETED_SESSIONS = "deleted_sessions"
    ERASED_JOURNALS = "erased_journals"
    REMOVED_JOURNALS = "removed_journals"
    MOVED_SESSIONS = "moved_sessions"
    REMOVED_LEFTOVERS = "removed_leftovers"
    DELETED_AUDIT_ENTRIES = "deleted_audit_entries"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Swept:
    """The number of times that a sweep took each `Action`, or in a dry run would take it."""

    dead_processes: int = 0
    closed_sessions: int = 0
    requested_recordings: int = 0
    requested_tasks: int = 0
    requested_uploads: int = 0
    requested_deletions: int = 0
    requested_webhooks: int = 0
    dropped_sessions: int = 0
    deleted_sessions: int = 0
    erased_journals: int = 0
    removed_journals: int = 0
    moved_sessions: int = 0
    removed_leftovers: int = 0
    deleted_audit_entries: int = 0
    unexplained: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by their names."""
        return asdict(self)


class Sweep:
    """One sweep, or one step of a chore.

    In a dry run it only notes its actions. It begins nothing new after `lasts_seconds`; the next sweep continues.
    """

    def __init__(self, dry_run: bool = False, lasts_seconds: float = float("inf")) -> None:
        self.now: datetime = database_time()
        self.dry_run = dry_run
        self.names: dict[Action, list[str]] = defaultdict(list)
        self._ends_at = time.monotonic() + lasts_seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over, so that no new work should begin."""
        return time.monotonic() >= self._ends_at

    def note(self, action: Action, name: object) -> None:
        """Note an action, or in a dry run a possible one."""
        self.names[action].append(str(name))

    def swept(self) -> Swept:
        """Return the counts."""
        return Swept(**{action.value: len(names) for action, names in self.names.items()})
