"""Work that the queue lost: recordings that were not made, tasks that nobody does, uploads."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from django.conf import settings
from django.db.models import QuerySet

from audio import dispatch
from audio.jobs import rows
from audio.models import BackgroundTask, Recording, SessionStatus
from audio.upkeep.rounds import Did, Round

Row = TypeVar("Row", Recording, BackgroundTask)

REPEAT_AFTER = timedelta(seconds=30)
REPEAT_TASK_AFTER = timedelta(minutes=2)
REPEAT_UPLOAD_AFTER = timedelta(minutes=10)
REQUESTS_PER_SWEEP = 500


def take_back_future(round_: Round) -> None:
    """Lets work that seems to be touched in the future, because the clock was put back since, wait from now."""
    future = round_.now + REPEAT_AFTER
    recordings = Recording.objects
    waiting = [recordings.unfinished(), recordings.undigested(), recordings.to_rebuild(), BackgroundTask.objects.open()]
    for pending in waiting if round_.acts else []:
        # One by one, so that no two rows are locked at a time.
        for key in list(pending.filter(updated_at__gt=future).values_list("pk", flat=True)[:REQUESTS_PER_SWEEP]):
            pending.filter(pk=key).update(updated_at=round_.now)


def request_recordings(round_: Round) -> None:
    """Asks again for recordings of closed sessions that nobody has touched for a while."""
    unfinished = Recording.objects.unfinished().filter(
        session__status__in=[SessionStatus.COMPLETED, SessionStatus.ERROR], updated_at__lt=round_.now - REPEAT_AFTER
    )
    rows = unfinished.values_list("pk", "updated_at", "session__total_chunks")[:REQUESTS_PER_SWEEP]
    void = []
    for key, updated_at, total_chunks in list(rows):
        if not total_chunks:
            void.append(key)
        elif not round_.acts or Recording.objects.filter(pk=key, updated_at=updated_at).update(updated_at=round_.now):
            if round_.acts:
                dispatch.concatenate(key)
            round_.note(Did.REQUESTED_RECORDINGS, key)
    if void and round_.acts:
        # No later sweep needs to look at them.
        Recording.objects.filter(pk__in=void).update(is_void=True)


def request_rebuilds(round_: Round) -> None:
    """Asks again for recordings that are to be made anew and that nobody has touched for a while."""
    quiet = Recording.objects.to_rebuild().filter(updated_at__lt=round_.now - REPEAT_AFTER)
    _ask_again(round_, Did.REQUESTED_RECORDINGS, quiet, lambda recording: dispatch.concatenate(recording.pk))


def request_digests(round_: Round) -> None:
    """Asks again for the SHA-256 of recordings whose worker died between making them and reading them once more."""
    undigested = Recording.objects.undigested().filter(updated_at__lt=round_.now - REPEAT_AFTER)
    _ask_again(round_, Did.REQUESTED_RECORDINGS, undigested, lambda recording: dispatch.concatenate(recording.pk))


def request_tasks(round_: Round) -> None:
    """Asks again for background tasks that nobody has touched for a while; one that waits in the queue, or runs, is
    not done twice."""
    quiet = BackgroundTask.objects.open().filter(updated_at__lt=round_.now - REPEAT_TASK_AFTER)
    _ask_again(round_, Did.REQUESTED_TASKS, quiet, rows.send)


def request_uploads(round_: Round) -> None:
    """Asks for the uploads of recordings that are still here and that nobody has touched for a while, a few at a time:
    what was recorded before there was a remote storage would fill the queue."""
    if not settings.RECORDINGS_STORAGE:
        return
    before = round_.now - REPEAT_UPLOAD_AFTER
    here = Recording.objects.here()
    room = REQUESTS_PER_SWEEP - here.filter(updated_at__gte=before).count()
    quiet = here.filter(updated_at__lt=before)
    _ask_again(round_, Did.REQUESTED_UPLOADS, quiet, lambda recording: dispatch.upload(recording.pk), max(0, room))


def _ask_again(
    round_: Round, did: Did, quiet: QuerySet[Row], ask: Callable[[Row], None], count: int | None = None
) -> None:
    """Asks for the work on rows that wait for it, those that have waited longest first. Moving the time in a row is
    what decides who of several sweeps asks."""
    for row in list(quiet.order_by("updated_at")[: REQUESTS_PER_SWEEP if count is None else count]):
        if not round_.acts or quiet.filter(pk=row.pk, updated_at=row.updated_at).update(updated_at=round_.now):
            if round_.acts:
                ask(row)
            round_.note(did, row.pk)
