"""Processes that died without a word, and what they left in the database: connections, tasks that seem to run."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from audio import ingest
from audio.models import OPEN_STATUSES, AudioSession, BackgroundTask, IngestProcess, Recording, TaskState
from audio.upkeep.sweeps import Action, Sweep
from audio.upkeep.work import REPEAT_TASK_AFTER, REPEAT_UPLOAD_AFTER

DEAD_AFTER_HEARTBEATS = 4


def forget_silent(sweep: Sweep) -> None:
    """Forgets the processes whose heartbeat has been missing for too long."""
    silence = timedelta(seconds=DEAD_AFTER_HEARTBEATS * settings.HEARTBEAT_SECONDS)
    before = sweep.now - silence
    future = Q(heartbeat_at__gt=sweep.now + silence)
    for process in IngestProcess.objects.filter(Q(heartbeat_at__lt=before) | future):
        if process.heartbeat_at > sweep.now:
            # The clock was put back: its silence, if it is silent, begins now.
            IngestProcess.objects.filter(future, pk=process.pk).update(heartbeat_at=sweep.now)
        elif sweep.dry_run or ingest.remove_process(process.pk, silent_since=before):
            sweep.note(Action.DEAD_PROCESSES, process)


def forget_dead_processes(before: datetime | None = None) -> int:
    """Removes processes whose last heartbeat was before then, all of them if no time is given, and their
    connections: their sessions count as dropped from now. Returns how many processes there were."""
    processes = IngestProcess.objects.all() if before is None else IngestProcess.objects.filter(heartbeat_at__lt=before)
    process_ids = list(processes.values_list("pk", flat=True))
    return sum(ingest.remove_process(process_id, silent_since=before) for process_id in process_ids)


def expect_dead_runs() -> None:
    """Lets the next sweep ask again for each background task that seems to run: who ran it may have died.

    One that does run is not done twice, and tells within a second that it lives.
    """
    long_ago = ingest.database_time() - 2 * REPEAT_TASK_AFTER
    BackgroundTask.objects.filter(state=TaskState.RUNNING).update(updated_at=long_ago)


def expect_empty_queue() -> None:
    """Let the next sweep ask again for all work that waits, because the queue that held the requests is empty.

    What a worker has begun is asked for too, and is not done twice.
    """
    lately = ingest.database_time() - REPEAT_UPLOAD_AFTER
    long_ago = lately - REPEAT_UPLOAD_AFTER
    if settings.RECORDINGS_STORAGE:
        Recording.objects.here().filter(ready_at__isnull=False, updated_at__gte=lately).update(updated_at=long_ago)
    Recording.objects.unfinished().exclude(session__status__in=OPEN_STATUSES).update(updated_at=long_ago)
    BackgroundTask.objects.open().update(updated_at=long_ago)
    AudioSession.objects.filter(delete_requested_at__isnull=False).update(delete_requested_at=long_ago)
