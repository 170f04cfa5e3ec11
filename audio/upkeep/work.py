"""Work that the queue lost: recordings that were not made, tasks that nobody does."""

from datetime import timedelta

from audio import dispatch
from audio.build import derive
from audio.models import BackgroundTask, Recording, SessionStatus
from audio.upkeep.rounds import Did, Round

REPEAT_AFTER = timedelta(seconds=30)
REPEAT_TASK_AFTER = timedelta(minutes=2)
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
