"""Upkeep: sweeps that find in the database what the queue lost, and the removal of sessions.

A sweep needs nothing but the database, may run anywhere, any number of times, and by several at once: each
step is a conditional update or can be repeated.
"""

import itertools
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Min, Q
from django.utils import timezone

from audio import dispatch, ingest
from audio.build import derive, store
from audio.errors import SessionNotFound
from audio.journal.files import Extent, erase
from audio.models import (
    AudioChunk,
    AudioSession,
    BackgroundTask,
    IngestProcess,
    Recording,
    RecordingState,
    SessionStatus,
    TaskState,
)

DEAD_AFTER_HEARTBEATS = 4
_ROWS_PER_STATEMENT = 1000
_SESSIONS_PER_SWEEP = 500
_REPEAT_AFTER = timedelta(seconds=30)
_REPEAT_TASK_AFTER = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    dead_processes: int = 0
    closed_sessions: int = 0
    requested_recordings: int = 0
    requested_tasks: int = 0


def sweep() -> Swept:
    """Forgets dead processes, closes what is overdue, asks for recordings that were not made and for tasks that wait
    for too long; returns the counts."""
    now = ingest.database_time()
    dead = forget_dead_processes(before=now - timedelta(seconds=DEAD_AFTER_HEARTBEATS * settings.HEARTBEAT_SECONDS))
    return Swept(dead, _close_overdue(now), _request_recordings(now), _request_tasks(now))


def forget_dead_processes(before: datetime | None = None) -> int:
    """Removes processes whose last heartbeat was before then, all of them if no time is given, and their
    connections: their sessions count as dropped from now. Returns how many processes there were."""
    processes = IngestProcess.objects.all() if before is None else IngestProcess.objects.filter(heartbeat_at__lt=before)
    process_ids = list(processes.values_list("pk", flat=True))
    return sum(ingest.release_process(process_id, silent_since=before) for process_id in process_ids)


def _close_overdue(now: datetime) -> int:
    """Closes open sessions past their grace, or open for longer than any session may be.

    The grace counts from the later of the drop and the moment since which some server was there to reconnect to.
    """
    grace = timedelta(seconds=settings.DISCONNECT_GRACE_SECONDS)
    ready_at = IngestProcess.objects.aggregate(ready_at=Min("ready_at"))["ready_at"]
    due = Q(start_time__lte=now - timedelta(hours=settings.MAX_SESSION_DURATION_HOURS))
    if ready_at is not None and ready_at <= now - grace:
        due |= Q(dropped_at__lte=now - grace)
    keys = list(AudioSession.objects.open().filter(due).values_list("pk", flat=True)[:_SESSIONS_PER_SWEEP])
    return sum(ingest.close_if(key, due) for key in keys)


def _request_recordings(now: datetime) -> int:
    """Asks again for recordings of closed sessions that nobody has touched for a while."""
    unfinished = (
        Recording.objects.filter(
            state__in=[RecordingState.EMPTY, RecordingState.LIVE, RecordingState.BUILDING],
            session__status__in=[SessionStatus.COMPLETED, SessionStatus.ERROR],
            updated_at__lt=now - _REPEAT_AFTER,
        )
        .exclude(state=RecordingState.EMPTY, session__total_chunks=0)
        .values_list("pk", "updated_at")
    )
    asked = 0
    for key, updated_at in list(unfinished[:_SESSIONS_PER_SWEEP]):
        if Recording.objects.filter(pk=key, updated_at=updated_at).update(updated_at=now):
            dispatch.concatenate(key)
            asked += 1
    return asked


def expect_dead_runs() -> None:
    """Lets the next sweep ask again for each background task that seems to run: who ran it may have died.

    One that does run is not done twice, and tells within a second that it lives.
    """
    long_ago = timezone.now() - 2 * _REPEAT_TASK_AFTER
    BackgroundTask.objects.filter(state=TaskState.RUNNING).update(updated_at=long_ago)


def _request_tasks(now: datetime) -> int:
    """Asks again for background tasks that nobody has touched for a while; one that waits in the queue, or runs, is
    not done twice."""
    quiet = BackgroundTask.objects.open().filter(updated_at__lt=now - _REPEAT_TASK_AFTER)
    asked = 0
    for task in list(quiet.order_by("updated_at")[:_SESSIONS_PER_SWEEP]):
        if BackgroundTask.objects.filter(pk=task.pk, updated_at=task.updated_at).update(updated_at=now):
            derive.request(task)
            asked += 1
    return asked


def delete_session(session_id: uuid.UUID) -> None:
    """Removes a session and every byte of it: files, rows, and its payloads in the journals.

    Closes it first, so that nothing can be added meanwhile. Rows go a thousand at a time, because a long
    transaction on SQLite would delay every acknowledgement. Raises SessionNotFound.
    """
    ingest.close_session(session_id)
    chunks = AudioChunk.objects.filter(session_id=session_id)
    extents = chunks.order_by("sequence").values_list("journal__name", "offset", "size_bytes", "crc32")
    rows = extents.iterator(chunk_size=_ROWS_PER_STATEMENT)
    while batch := [Extent(*row) for row in itertools.islice(rows, _ROWS_PER_STATEMENT)]:
        erase(settings.AUDIO_STORAGE_PATH, batch)
    store.delete_files(session_id)
    while keys := list(chunks.values_list("pk", flat=True)[:_ROWS_PER_STATEMENT]):
        AudioChunk.objects.filter(pk__in=keys).delete()
    with transaction.atomic():
        # Its row before those of its sources, as the commit of chunks locks them.
        session = AudioSession.objects.select_for_update().filter(pk=session_id)
        was_there = session.first() is not None and AudioSession.objects.filter(pk=session_id).delete()[0]
    # Once more: a worker may have gone on as long as there was a row.
    store.delete_files(session_id)
    if not was_there:
        raise SessionNotFound
