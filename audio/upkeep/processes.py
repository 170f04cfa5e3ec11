"""The removal of dead web processes from the database, with their connections, and of tasks that only seem to run."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from audio import ingest
from audio.models import OPEN_STATUSES, AudioSession, BackgroundTask, IngestProcess, Recording, TaskState
from audio.upkeep.sweeps import Action, Sweep
from audio.upkeep.work import REPEAT_TASK_AFTER, REPEAT_UPLOAD_AFTER

DEAD_AFTER_HEARTBEATS = 4


def forget_silent(sweep: Sweep) -> None:
    """Remove the processes without a recent heartbeat."""
    silence = timedelta(seconds=DEAD_AFTER_HEARTBEATS * settings.HEARTBEAT_SECONDS)
    before = sweep.now - silence
    future = Q(heartbeat_at__gt=sweep.now + silence)
    for process in IngestProcess.objects.filter(Q(heartbeat_at__lt=before) | future):
        if process.heartbeat_at > sweep.now:
            # The clock was put back. If the process is silent, its silence counts from now.
            IngestProcess.objects.filter(future, pk=process.pk).update(heartbeat_at=sweep.now)
        elif sweep.dry_run or ingest.remove_process(process.pk, silent_since=before):
            sweep.note(Action.DEAD_PROCESSES, process)


def forget_dead_processes(before: datetime | None = None) -> int:
    """Remove processes and their connections, whose sessions count as dropped from now.

    Args:
        before: Only processes whose last heartbeat was earlier are removed; None removes all.

    Returns:
        The number of removed processes.
    """
    processes = IngestProcess.objects.all() if before is None else IngestProcess.objects.filter(heartbeat_at__lt=before)
    process_ids = list(processes.values_list("pk", flat=True))
    return sum(ingest.remove_process(process_id, silent_since=before) for process_id in process_ids)


def expect_dead_runs() -> None:
    """Make all running tasks due for the next sweep, because their workers may have died.

    A task that does run is not run twice, and shows within a second that it is alive.
    """
    long_ago = ingest.database_time() - 2 * REPEAT_TASK_AFTER
    BackgroundTask.objects.filter(state=TaskState.RUNNING).update(updated_at=long_ago)


def expect_empty_queue() -> None:
    """Make all waiting work due for the next sweep, because the queue was lost.

    Work that a worker has begun is enqueued too, but not done twice.
    """
    lately = ingest.database_time() - REPEAT_UPLOAD_AFTER
    long_ago = lately - REPEAT_UPLOAD_AFTER
    if settings.RECORDINGS_STORAGE:
        Recording.objects.here().filter(ready_at__isnull=False, updated_at__gte=lately).update(updated_at=long_ago)
    Recording.objects.unfinished().exclude(session__status__in=OPEN_STATUSES).update(updated_at=long_ago)
    BackgroundTask.objects.open().update(updated_at=long_ago)
    AudioSession.objects.filter(delete_requested_at__isnull=False).update(delete_requested_at=long_ago)
