"""The time by which processes judge each other: the database's, because the clocks of hosts differ.

What a host alone looks at (when a chunk arrived) it may take from its own clock. And that clock may be set, by days
where a machine has no battery: how long something has lasted is then told by one that never is (`ClockWatch`).
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.utils import timezone


def database_time() -> datetime:
    """Return the time of now on PostgreSQL's clock; with SQLite all are on one host, and its clock is as good."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        # Inside of a transaction now() would be when that began.
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Reading:
    """What `database_time` said, and between which moments of the steady clock."""

    now: datetime
    asked_at_seconds: float
    answered_at_seconds: float


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The clock was set: now it says `now`; from `since` to `until` it had said something else."""

    since: datetime
    until: datetime
    now: datetime


# By so much the two clocks may differ between two looks.
TOLERANCE = timedelta(seconds=10)


class ClockWatch:
    """Notices that the database's clock was set, by a clock of this host that counts every second and is never set."""

    def __init__(self) -> None:
        self._first: Reading | None = None
        self._last: Reading | None = None

    def read(self) -> tuple[datetime, ClockSet | None]:
        """Read the database's clock.

        Returns:
            The time, and what is known if the clock was set since the last reading.
        """
        asked_at_seconds = steady_seconds()
        reading = Reading(database_time(), asked_at_seconds, steady_seconds())
        first, last, self._last = self._first, self._last, reading
        if first is None or last is None:
            self._first = reading
            return reading.now, None
        least = timedelta(seconds=reading.asked_at_seconds - last.answered_at_seconds)
        most = timedelta(seconds=reading.answered_at_seconds - last.asked_at_seconds)
        if least - TOLERANCE <= reading.now - last.now <= most + TOLERANCE:
            return reading.now, None
        self._first = reading
        return reading.now, ClockSet(first.now, last.now + most + TOLERANCE, reading.now)


def steady_seconds() -> float:
    """Return a time that counts every second of this host and is never set."""
    # Linux has one that goes on while the machine sleeps.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
