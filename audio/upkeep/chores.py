"""What not every sweep does: each chore is asked for when its row says that it is due, and a worker does it.

A sweep looks at these few rows in one query. Moving the time in one of them is a conditional update, so that of many
sweeps, on many hosts, one asks. What the queue loses is asked for again when it is due again; two runs of one chore
at a time do each other no harm, and neither does a run when none was due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from audio import dispatch
from audio.models import Chore
from audio.upkeep import clock, erasures, journals, leftovers, removal, sessions, work
from audio.upkeep.sweeps import Sweep

_LASTS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Chore:
    """How often a chore is asked for; one step of it, as a worker takes it; and all of it at once."""

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
    "journals": _Chore(timedelta(hours=1), journals.release, journals.release_all),
    leftovers.NAME: _Chore(timedelta(minutes=5), leftovers.tidy_next, leftovers.tidy_all),
}


def ask_for_due(now: datetime) -> None:
    """Asks the workers for a chore that is due: one a sweep, because each is a write, which on SQLite keeps all others
    waiting."""
    due = dict(Chore.objects.values_list("name", "due_at"))
    for name, chore in _CHORES.items():
        # One that is due in more than its interval has seen the clock put back.
        is_due = not now < due.get(name, now) <= now + chore.interval
        if is_due and _claim(name, due.get(name), now + chore.interval):
            dispatch.chore(name)
            return


def _claim(name: str, due_at: datetime | None, next_at: datetime) -> bool:
    """Moves the time at which the chore is due; returns whether nobody else has."""
    if due_at is None:
        return Chore.objects.get_or_create(name=name, defaults={"due_at": next_at})[1]
    return bool(Chore.objects.filter(name=name, due_at=due_at).update(due_at=next_at))


def run(name: str) -> Sweep:
    """Takes one step of the chore of that name, which lasts a minute or so at most; returns what it did."""
    sweep = Sweep(lasts_seconds=_LASTS_SECONDS)
    clock.look(sweep)
    _CHORES[name].step(sweep)
    return sweep


def do_all(sweep: Sweep) -> None:
    """Does every chore, whether it is due or not, to its end."""
    for chore in _CHORES.values():
        chore.whole(sweep)
