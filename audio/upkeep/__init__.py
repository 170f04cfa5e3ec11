"""Upkeep: sweeps that find in the database what the queue lost and what may go, and the removal of sessions.

A sweep needs nothing but the database, may run anywhere, any number of times, and by several at once: each
step is a conditional update or can be repeated. What it does every time costs a few indexed queries; what takes longer
(`audio.upkeep.chores`) it asks a worker for, now and then.
"""

from audio.upkeep import chores, clock, processes, removal, sessions, work
from audio.upkeep.processes import DEAD_AFTER_HEARTBEATS, expect_dead_runs, expect_empty_queue, forget_dead_processes
from audio.upkeep.removal import delete_session, request_deletion
from audio.upkeep.sweeps import Sweep, Swept

__all__ = [
    "DEAD_AFTER_HEARTBEATS",
    "Sweep",
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
    """Do the short work of a sweep, enqueue the rest, and return the counts.

    Dead processes are forgotten and overdue sessions closed. Lost recordings, tasks, uploads and deletions, and the
    chores that are due, are enqueued.
    """
    sweep = Sweep()
    _sweep(sweep)
    chores.ask_for_due(sweep.now)
    return sweep.swept()


def sweep_all(dry_run: bool = False) -> Sweep:
    """Do everything at once, including the chores, and return what was done, or in a dry run would be.

    What may be removed from a certain age on is removed, whether its chore is due or not.
    """
    sweep = Sweep(dry_run)
    _sweep(sweep)
    chores.do_all(sweep)
    return sweep


def run_chore(name: str) -> Swept:
    """Do one step of a chore and return the counts."""
    return chores.run(name).swept()


def _sweep(sweep: Sweep) -> None:
    clock.look(sweep)
    processes.forget_silent(sweep)
    sessions.close_overdue(sweep)
    work.request_recordings(sweep)
    work.request_digests(sweep)
    work.request_rebuilds(sweep)
    work.request_tasks(sweep)
    work.request_uploads(sweep)
    removal.request_deletions(sweep)
