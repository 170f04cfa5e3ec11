"""Work that the queue has lost: recordings, background tasks and uploads."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from django.conf import settings
from django.db.models import QuerySet

from audio import dispatch
from audio.jobs import rows
from audio.models import BackgroundTask, Recording, SessionStatus
from audio.upkeep.sweeps import Action, Sweep

Row = TypeVar("Row", Recording, BackgroundTask)

REPEAT_AFTER = timedelta(seconds=30)
REPEAT_TASK_AFTER = timedelta(minutes=2)
REPEAT_UPLOAD_AFTER = timedelta(minutes=10)
REQUESTS_PER_SWEEP = 500


def take_back_future(sweep: Sweep) -> None:
    """Set update times that are in the future, because the clock was set back, to now."""
    future = sweep.now + REPEAT_AFTER
    recordings = Recording.objects
    waiting = [recordings.unfinished(), recordings.undigested(), recordings.to_rebuild(), BackgroundTask.objects.open()]
    for pending in waiting if not sweep.dry_run else []:
        # Rows are updated one by one, so that no two are locked at a time.
        for key in list(pending.filter(updated_at__gt=future).values_list("pk", flat=True)[:REQUESTS_PER_SWEEP]):
            pending.filter(pk=key).update(updated_at=sweep.now)


def enqueue_recordings(sweep: Sweep) -> None:
    """Enqueue recordings of closed sessions that were not updated for a while."""
    unfinished = Recording.objects.unfinished().filter(
        session__status=SessionStatus.COMPLETED, updated_at__lt=sweep.now - REPEAT_AFTER
    )
    rows = unfinished.values_list("pk", "updated_at", "session__total_chunks")[:REQUESTS_PER_SWEEP]
    without_audio = []
    for key, updated_at, total_chunks in list(rows):
        if not total_chunks:
            without_audio.append(key)
        elif sweep.dry_run or Recording.objects.filter(pk=key, updated_at=updated_at).update(updated_at=sweep.now):
            if not sweep.dry_run:
                dispatch.concatenate(key)
            sweep.note(Action.REQUESTED_RECORDINGS, key)
    if without_audio and not sweep.dry_run:
        # Later sweeps skip these recordings.
        Recording.objects.filter(pk__in=without_audio).update(is_without_audio=True)


def enqueue_rebuilds(sweep: Sweep) -> None:
    """Enqueue requested rebuilds of recordings that were not updated for a while."""
    quiet = Recording.objects.to_rebuild().filter(updated_at__lt=sweep.now - REPEAT_AFTER)
    # In the order of their index. In that of the updates, SQLite would read all recordings.
    requested = quiet.order_by("rebuild_requested_at")
    _enqueue_again(sweep, Action.REQUESTED_RECORDINGS, requested, lambda recording: dispatch.concatenate(recording.pk))


def enqueue_digests(sweep: Sweep) -> None:
    """Enqueue the SHA-256 of recordings whose worker died before it was computed."""
    undigested = Recording.objects.undigested().filter(updated_at__lt=sweep.now - REPEAT_AFTER).order_by("updated_at")
    _enqueue_again(sweep, Action.REQUESTED_RECORDINGS, undigested, lambda recording: dispatch.concatenate(recording.pk))


def enqueue_tasks(sweep: Sweep) -> None:
    """Enqueue background tasks that were not updated for a while.

    A task that is still in the queue, or runs, is not done twice.
    """
    quiet = BackgroundTask.objects.open().filter(updated_at__lt=sweep.now - REPEAT_TASK_AFTER).order_by("updated_at")
    _enqueue_again(sweep, Action.REQUESTED_TASKS, quiet, rows.send)


def enqueue_uploads(sweep: Sweep) -> None:
    """Enqueue the uploads of recordings that were not updated for a while.

    Only some are enqueued at a time, because older recordings would fill the queue when a remote storage is first set
    up.
    """
    if not settings.RECORDINGS_STORAGE:
        return
    before = sweep.now - REPEAT_UPLOAD_AFTER
    here = Recording.objects.here()
    room = REQUESTS_PER_SWEEP - here.filter(updated_at__gte=before).count()
    quiet = here.filter(updated_at__lt=before).order_by("updated_at")
    _enqueue_again(
        sweep, Action.REQUESTED_UPLOADS, quiet, lambda recording: dispatch.upload(recording.pk), max(0, room)
    )


def _enqueue_again(
    sweep: Sweep, action: Action, quiet: QuerySet[Row], enqueue: Callable[[Row], None], count: int | None = None
) -> None:
    """Enqueue the work on rows, in their order.

    The update of the time in a row decides which of several sweeps enqueues the work.
    """
    for row in list(quiet[: REQUESTS_PER_SWEEP if count is None else count]):
        if sweep.dry_run or quiet.filter(pk=row.pk, updated_at=row.updated_at).update(updated_at=sweep.now):
            if not sweep.dry_run:
                enqueue(row)
            sweep.note(action, row.pk)
