"""Upkeep: sweeps that find in the database what the queue lost and what may go, and the removal of sessions.

A sweep needs nothing but the database, may run anywhere, any number of times, and by several at once: each
step is a conditional update or can be repeated. What it does every time costs a few indexed queries; what takes longer
(`audio.upkeep.chores`) it asks a worker for, now and then.
"""

from audio.upkeep import chores, clock, processes, removal, sessions, work
from audio.upkeep.processes import DEAD_AFTER_HEARTBEATS, expect_dead_runs, expect_empty_queue, forget_dead_processes
from audio.upkeep.removal import delete_session, request_deletion
from audio.upkeep.rounds import Round, Swept

__all__ = [
    "DEAD_AFTER_HEARTBEATS",
    "Round",
    "Swept",
    "delete_session",
    "expect_dead_runs",
    "expect_empty_queue",
    "forget_dead_processes",
    "request_deletion",
    "run_chore",
    "sweep",
    "sweep_all",
]


def sweep() -> Swept:
    """Forgets dead processes, closes what is overdue, asks for recordings that were not made, for tasks that wait for
    too long, for uploads, for deletions and for the chores that are due; returns the counts."""
    round_ = Round()
    _sweep(round_)
    chores.ask_for_due(round_.now)
    return round_.swept()


def sweep_all(acts: bool = True) -> Round:
    """Does all that there is to do at once, the chores too, instead of asking for them; returns what it did, or what
    it would do if it does not act. What may go with an age goes from that age on, due or not."""
    round_ = Round(acts)
    _sweep(round_)
    chores.do_all(round_)
    return round_


def run_chore(name: str) -> Swept:
    """Takes one step of the chore of that name; returns the counts."""
    return chores.run(name).swept()


def _sweep(round_: Round) -> None:
    clock.look(round_)
    processes.forget_silent(round_)
    sessions.close_overdue(round_)
    work.request_recordings(round_)
    work.request_digests(round_)
    work.request_rebuilds(round_)
    work.request_tasks(round_)
    work.request_uploads(round_)
    removal.request_deletions(round_)
