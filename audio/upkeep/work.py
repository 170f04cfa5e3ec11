"""Work that the queue lost: recordings that were not made, tasks that nobody does, uploads."""

from datetime import timedelta

from django.conf import settings

from audio import dispatch
from audio.build import derive
from audio.models import BackgroundTask, Recording, RecordingState, SessionStatus
from audio.upkeep.rounds import Did, Round

REPEAT_AFTER = timedelta(seconds=30)
REPEAT_TASK_AFTER = timedelta(minutes=2)
REPEAT_UPLOAD_AFTER = timedelta(minutes=10)
REQUESTS_PER_SWEEP = 500


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


def request_tasks(round_: Round) -> None:
    """Asks again for background tasks that nobody has touched for a while; one that waits in the queue, or runs, is
    not done twice."""
    quiet = BackgroundTask.objects.open().filter(updated_at__lt=round_.now - REPEAT_TASK_AFTER)
    for task in list(quiet.order_by("updated_at")[:REQUESTS_PER_SWEEP]):
        mine = BackgroundTask.objects.filter(pk=task.pk, updated_at=task.updated_at)
        if not round_.acts or mine.update(updated_at=round_.now):
            if round_.acts:
                derive.request(task)
            round_.note(Did.REQUESTED_TASKS, task.pk)


def request_uploads(round_: Round) -> None:
    """Asks for the uploads of recordings that are still here and that nobody has touched for a while, a few at a time:
    what was recorded before there was a remote storage would fill the queue."""
    if not settings.RECORDINGS_STORAGE:
        return
    before = round_.now - REPEAT_UPLOAD_AFTER
    here = Recording.objects.filter(state=RecordingState.READY, is_local=True)
    room = REQUESTS_PER_SWEEP - here.filter(updated_at__gte=before).count()
    quiet = here.filter(updated_at__lt=before).order_by("updated_at").values_list("pk", "updated_at")
    for key, updated_at in list(quiet[: max(0, room)]):
        if not round_.acts or here.filter(pk=key, updated_at=updated_at).update(updated_at=round_.now):
            if round_.acts:
                dispatch.upload(key)
            round_.note(Did.REQUESTED_UPLOADS, key)
