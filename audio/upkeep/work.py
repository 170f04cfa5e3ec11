"""Work that the queue lost: recordings that were not made, tasks that nobody does, uploads."""

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
    """Lets work that seems to be touched in the future, because the clock was put back since, wait from now."""
    future = sweep.now + REPEAT_AFTER
    recordings = Recording.objects
    waiting = [recordings.unfinished(), recordings.undigested(), recordings.to_rebuild(), BackgroundTask.objects.open()]
    for pending in waiting if not sweep.dry_run else []:
        # One by one, so that no two rows are locked at a time.
        for key in list(pending.filter(updated_at__gt=future).values_list("pk", flat=True)[:REQUESTS_PER_SWEEP]):
            pending.filter(pk=key).update(updated_at=sweep.now)


def request_recordings(sweep: Sweep) -> None:
    """Asks again for recordings of closed sessions that nobody has touched for a while."""
    unfinished = Recording.objects.unfinished().filter(
        session__status__in=[SessionStatus.COMPLETED, SessionStatus.ERROR], updated_at__lt=sweep.now - REPEAT_AFTER
    )
    rows = unfinished.values_list("pk", "updated_at", "session__total_chunks")[:REQUESTS_PER_SWEEP]
    void = []
    for key, updated_at, total_chunks in list(rows):
        if not total_chunks:
            void.append(key)
        elif sweep.dry_run or Recording.objects.filter(pk=key, updated_at=updated_at).update(updated_at=sweep.now):
            if not sweep.dry_run:
                dispatch.concatenate(key)
            sweep.note(Action.REQUESTED_RECORDINGS, key)
    if void and not sweep.dry_run:
        # No later sweep needs to look at them.
        Recording.objects.filter(pk__in=void).update(is_void=True)


def request_rebuilds(sweep: Sweep) -> None:
    """Asks again for recordings that are to be made anew and that nobody has touched for a while."""
    quiet = Recording.objects.to_rebuild().filter(updated_at__lt=sweep.now - REPEAT_AFTER)
    _ask_again(sweep, Action.REQUESTED_RECORDINGS, quiet, lambda recording: dispatch.concatenate(recording.pk))


def request_digests(sweep: Sweep) -> None:
    """Asks again for the SHA-256 of recordings whose worker died between making them and reading them once more."""
    undigested = Recording.objects.undigested().filter(updated_at__lt=sweep.now - REPEAT_AFTER)
    _ask_again(sweep, Action.REQUESTED_RECORDINGS, undigested, lambda recording: dispatch.concatenate(recording.pk))


def request_tasks(sweep: Sweep) -> None:
    """Asks again for background tasks that nobody has touched for a while; one that waits in the queue, or runs, is
    not done twice."""
    quiet = BackgroundTask.objects.open().filter(updated_at__lt=sweep.now - REPEAT_TASK_AFTER)
    _ask_again(sweep, Action.REQUESTED_TASKS, quiet, rows.send)


def request_uploads(sweep: Sweep) -> None:
    """Asks for the uploads of recordings that are still here and that nobody has touched for a while, a few at a time:
    what was recorded before there was a remote storage would fill the queue."""
    if not settings.RECORDINGS_STORAGE:
        return
    before = sweep.now - REPEAT_UPLOAD_AFTER
    here = Recording.objects.here()
    room = REQUESTS_PER_SWEEP - here.filter(updated_at__gte=before).count()
    quiet = here.filter(updated_at__lt=before)
    _ask_again(sweep, Action.REQUESTED_UPLOADS, quiet, lambda recording: dispatch.upload(recording.pk), max(0, room))


def _ask_again(
    sweep: Sweep, did: Action, quiet: QuerySet[Row], ask: Callable[[Row], None], count: int | None = None
) -> None:
    """Asks for the work on rows that wait for it, those that have waited longest first. Moving the time in a row is
    what decides who of several sweeps asks."""
    for row in list(quiet.order_by("updated_at")[: REQUESTS_PER_SWEEP if count is None else count]):
        if sweep.dry_run or quiet.filter(pk=row.pk, updated_at=row.updated_at).update(updated_at=sweep.now):
            if not sweep.dry_run:
                ask(row)
            sweep.note(did, row.pk)
