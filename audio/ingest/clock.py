"""The clock of the database. Times that several processes compare come from it, because the clocks of hosts differ.

A time that no other host compares, such as the arrival of a chunk, may come from the clock of the host. Any clock may
be set, even by days on a machine without a battery. `ClockWatch` notices this with a steady clock, which is never set.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from audio.database import database_time as database_time


@dataclass(frozen=True, slots=True)
class Reading:
    """A time of the database's clock, and the times of the steady clock before and after it was read."""

    now: datetime
    asked_at_seconds: float
    answered_at_seconds: float


@dataclass(frozen=True, slots=True)
class ClockSet:
    """A change of the clock: it shows `now`, and before that it showed the times from `since` to `until`."""

    since: datetime
    until: datetime
    now: datetime


# The two clocks may differ by this much between two readings.
TOLERANCE = timedelta(seconds=10)


class ClockWatch:
    """Notices that the database's clock was set, by comparing it with the steady clock of this host."""

    def __init__(self) -> None:
        self._first: Reading | None = None
        self._last: Reading | None = None

    def read(self) -> tuple[datetime, ClockSet | None]:
        """Read the database's clock.

        Returns:
            The time, and the change of the clock if it was set since the last reading.
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
    # On Linux, this clock also counts while the machine sleeps.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
