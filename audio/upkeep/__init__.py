"""Maintenance: sweeps, garbage collection, and the removal of sessions.

A sweep finds lost tasks, and data that can be removed, in the database. It needs only the database. It may run on any
host, at any time, and together with other sweeps, because each step is a conditional update or can be repeated. Its own
work is a few indexed queries. Longer work (`audio.upkeep.chores`) is enqueued from time to time.
"""

from audio.upkeep import chores, clock, processes, removal, sessions, webhooks, work
from audio.upkeep.processes import DEAD_AFTER_HEARTBEATS, expect_dead_runs, expect_empty_queue, forget_dead_processes
from audio.upkeep.removal import delete_session, enqueue_deletion
from audio.upkeep.sweeps import Sweep, Swept

__all__ = [
    "DEAD_AFTER_HEARTBEATS",
    "Sweep",
    "Swept",
    "delete_session",
    "enqueue_deletion",
    "expect_dead_runs",
    "expect_empty_queue",
    "forget_dead_processes",
    "run_chore",
    "sweep",
    "sweep_all",
]


def sweep() -> Swept:
    """Do the short work of a sweep, enqueue the rest, and return the counts.

    Dead processes are forgotten and overdue sessions closed. Events are published. Lost recordings, tasks, uploads,
    deletions and deliveries, and the chores that are due, are enqueued.
    """
    sweep = Sweep()
    _sweep(sweep)
    chores.enqueue_due(sweep.now)
    return sweep.swept()


def sweep_all(dry_run: bool = False) -> Sweep:
    """Do all work at once, including the chores, and return the actions, or in a dry run the possible ones.

    Data that may be removed from a certain age on is removed, whether its chore is due or not.
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
    work.enqueue_recordings(sweep)
    work.enqueue_digests(sweep)
    work.enqueue_rebuilds(sweep)
    work.enqueue_tasks(sweep)
    work.enqueue_uploads(sweep)
    removal.enqueue_deletions(sweep)
    webhooks.publish(sweep)
