"""Lists of sessions with several conditions: the choice of the condition that is looked up in an index.

An index in the order of the list finds the sessions of one condition, and reads only those of a page. But only one of
several conditions can use its index, and some conditions have no such index, such as the beginning of a name. The
databases choose by estimates, which SQLite does not even have, and may read or sort a whole table.

So the sessions of each condition are counted, up to FEW. If a condition has no more, its sessions are looked up by
their keys and sorted. If every condition has more, the list is read in its order until a page is full. That is far only
if each condition has many sessions, and hardly any session meets all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from django.db.models import Exists, Func, OuterRef, QuerySet

from audio.models import AudioSession, MetadataEntry

FEW = 1000

Sessions = QuerySet[AudioSession, Any]


class Unindexed(Func):
    """A column for which SQLite uses no index."""

    template = "%(expressions)s"
    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Return the column with a plus, which changes nothing else."""
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


class Condition(Protocol):
    """A condition on sessions."""

    def keys(self) -> "QuerySet[Any, UUID]":
        """Return the keys of the sessions that meet it, through an index."""

    def check(self, sessions: Sessions) -> Sessions:
        """Filter sessions that are found in another way."""

    def walk(self, sessions: Sessions) -> list[Sessions]:
        """Filter sessions through an index in their order, in parts if that takes several; none if there is no such."""


@dataclass(frozen=True, slots=True)
class OnColumn:
    """A condition on a column. There is an index in the order of the list for each of the values in `walked`."""

    column: str
    lookup: str
    value: Any
    walked: Sequence[Any] = ()

    def keys(self) -> "QuerySet[Any, UUID]":
        """Return the keys of the sessions that meet it."""
        found = AudioSession.objects.filter(**{f"{self.column}__{self.lookup}": self.value})
        return found.order_by().values_list("pk", flat=True)

    def check(self, sessions: Sessions) -> Sessions:
        """Filter sessions without the column's index."""
        alias = f"unindexed_{self.column}"
        return sessions.alias(**{alias: Unindexed(self.column)}).filter(**{f"{alias}__{self.lookup}": self.value})

    def walk(self, sessions: Sessions) -> list[Sessions]:
        """Filter sessions by each of the values."""
        return [sessions.filter(**{self.column: value}) for value in self.walked]


@dataclass(frozen=True, slots=True)
class OnMetadata:
    """A condition on a key of the metadata and its value, by their digest."""

    digest: UUID

    def keys(self) -> "QuerySet[Any, UUID]":
        """Return the keys of the sessions that meet it."""
        return MetadataEntry.objects.filter(digest=self.digest).values_list("session_id", flat=True)

    def check(self, sessions: Sessions) -> Sessions:
        """Filter sessions by a look-up for each."""
        return sessions.filter(Exists(MetadataEntry.objects.filter(digest=self.digest, session=OuterRef("pk"))))

    def walk(self, sessions: Sessions) -> list[Sessions]:
        """Return nothing: the index has another order."""
        return []


def equal(column: str, value: Any) -> OnColumn:
    """Return the condition that a column with an index in the order of the list has this value."""
    return OnColumn(column, "exact", value, (value,))


def one_of(column: str, values: Sequence[Any]) -> OnColumn:
    """Return the condition that a column with an index in the order of the list has one of these values."""
    return OnColumn(column, "in", values, values)


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Sessions that meet some conditions.

    Attributes:
        parts: One or several queries, whose results do not overlap. The first rows of each are found fast.
        are_few: Whether there is one part of at most FEW sessions, which have to be sorted. PostgreSQL may read a whole
            index to save itself that, unless it is not asked for an order.
    """

    parts: list[Sessions]
    are_few: bool


def narrowed(sessions: Sessions, conditions: Sequence[Condition]) -> Narrowed:
    """Filter sessions by all conditions."""
    driving = None if len(conditions) == 1 and conditions[0].walk(sessions) else _of_few(conditions)
    are_few = driving is not None
    if driving is not None:
        parts = [sessions.filter(pk__in=list(driving.keys()))]
    else:
        driving = next((each for each in conditions if each.walk(sessions)), None)
        parts = driving.walk(sessions) if driving else [sessions]
    checked = [_checked(part, (each for each in conditions if each is not driving)) for part in parts]
    return Narrowed(checked, are_few)


def _of_few(conditions: Iterable[Condition]) -> Condition | None:
    """Return the first condition that few sessions meet."""
    return next((each for each in conditions if each.keys()[: FEW + 1].count() <= FEW), None)


def _checked(sessions: Sessions, conditions: Iterable[Condition]) -> Sessions:
    for condition in conditions:
        sessions = condition.check(sessions)
    return sessions
