"""Lost and due events and deliveries, and the removal of old events."""

from datetime import timedelta

from audio import dispatch
from audio.database import database_time
from audio.models import Chore
from audio.upkeep.sweeps import Action, Sweep
from audio.webhooks import delivery, outbox

NAME = "webhooks"
REPEAT_AFTER = timedelta(seconds=10)


def publish(sweep: Sweep) -> None:
    """Publish new events, and enqueue the deliveries that are due.

    Due deliveries are enqueued again after REPEAT_AFTER, because the worker may be busy.
    """
    if sweep.dry_run:
        return
    now = database_time() if outbox.publish() else sweep.now
    if delivery.is_due(now) and _claim(sweep):
        dispatch.webhooks()
        sweep.note(Action.REQUESTED_WEBHOOKS, NAME)


def _claim(sweep: Sweep) -> bool:
    """Move the time at which deliveries may be enqueued again, and return whether no other sweep has done that."""
    next_at = sweep.now + REPEAT_AFTER
    chore, is_new = Chore.objects.get_or_create(name=NAME, defaults={"due_at": next_at})
    if is_new:
        return True
    # If it is due in more than REPEAT_AFTER, the clock was put back.
    if sweep.now < chore.due_at <= next_at:
        return False
    return bool(Chore.objects.filter(name=NAME, due_at=chore.due_at).update(due_at=next_at))


def delete_old(sweep: Sweep) -> None:
    """Delete events that are older than WEBHOOK_EVENT_DAYS."""
    while not sweep.dry_run and not sweep.is_over and outbox.delete_old():
        pass
