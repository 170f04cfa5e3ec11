"""The task that delivers events to the endpoints of webhooks."""

import time

import structlog
from celery import shared_task

from audio import dispatch
from audio.database import AWAY
from audio.dispatch import DELIVER_WEBHOOKS
from audio.webhooks import outbox
from audio.webhooks.delivery import deliver_due

logger = structlog.stdlib.get_logger(__name__)

# After that the task goes to the end of the queue, because the worker may have other queues too.
_LASTS_SECONDS = 20.0


@shared_task(name=DELIVER_WEBHOOKS, ignore_result=True)
def deliver_webhooks() -> None:
    """Deliver what is due. If the database is not available, the next sweep enqueues the task again."""
    ends_at = time.monotonic() + _LASTS_SECONDS
    try:
        while outbox.publish() or deliver_due():
            if time.monotonic() >= ends_at:
                dispatch.webhooks()
                return
    except AWAY as error:
        logger.warning("webhooks_put_off", error=str(error))
