"""Chores: maintenance that not every sweep does. A chore is enqueued when it is due, and a worker does it.

A sweep reads the few rows of chores in one query. It moves the due time of a row with a conditional update, so that
only one of many sweeps enqueues the chore. A lost task is enqueued again when the chore is due again. A chore may run
twice at the same time, or when it is not due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from audio import dispatch
from audio.models import Chore
from audio.upkeep import audits, clock, erasures, journals, leftovers, logins, removal, sessions, webhooks, work
from audio.upkeep.sweeps import Sweep

_LASTS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Chore:
    """A chore: its interval, one step of it for a worker, and all of its work at once."""

    interval: timedelta
    step: Callable[[Sweep], None]
    whole: Callable[[Sweep], None]


def _look_at_rows(sweep: Sweep) -> None:
    sessions.drop_deserted(sweep)
    work.take_back_future(sweep)


_CHORES = {
    "connections": _Chore(timedelta(minutes=1), _look_at_rows, _look_at_rows),
    "retention": _Chore(timedelta(minutes=10), removal.delete_expired, removal.delete_expired),
    erasures.NAME: _Chore(timedelta(minutes=1), erasures.erase_deleted, erasures.erase_deleted),
    "events": _Chore(timedelta(hours=1), webhooks.delete_old, webhooks.delete_old),
    audits.NAME: _Chore(timedelta(hours=1), audits.delete_old, audits.delete_old),
    logins.NAME: _Chore(timedelta(hours=24), logins.clear_expired, logins.clear_expired),
    "journals": _Chore(timedelta(hours=1), journals.release, journals.release_all),
    leftovers.NAME: _Chore(timedelta(minutes=5), leftovers.tidy_next, leftovers.tidy_all),
}


def enqueue_due(now: datetime) -> None:
    """Enqueue the first chore that is due.

    A sweep enqueues only one, because each is a write to the database, for which all others have to wait on SQLite.
    """
    due = dict(Chore.objects.values_list("name", "due_at"))
    for name, chore in _CHORES.items():
        # If a chore is due in more than its interval, the clock was put back, and the chore is due now.
        is_due = not now < due.get(name, now) <= now + chore.interval
        if is_due and _claim(name, due.get(name), now + chore.interval):
            dispatch.chore(name)
            return


def _claim(name: str, due_at: datetime | None, next_at: datetime) -> bool:
    """Move the time at which the chore is due; return whether no other sweep has done that."""
    if due_at is None:
        return Chore.objects.get_or_create(name=name, defaults={"due_at": next_at})[1]
    return bool(Chore.objects.filter(name=name, due_at=due_at).update(due_at=next_at))


def run(name: str) -> Sweep:
    """Run one step of a chore, which takes about a minute at most, and return its counts."""
    sweep = Sweep(lasts_seconds=_LASTS_SECONDS)
    clock.look(sweep)
    _CHORES[name].step(sweep)
    return sweep


def do_all(sweep: Sweep) -> None:
    """Do all work of every chore, whether it is due or not."""
    for chore in _CHORES.values():
        chore.whole(sweep)
