"""The sending of due deliveries. A delivery is retried until the endpoint accepts it or three days are over.

Only the database says what was delivered, so a delivery that a process has lost is due again later. An endpoint gets
each event at least once, always with the same id.
"""

import json
import logging
import uuid
from collections import Counter
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from audio.database import database_time
from audio.models import DeliveryState, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from audio.webhooks import events, signing
from audio.webhooks.http import Answer, Message, post_all

logger = structlog.stdlib.get_logger(__name__)

# The delays before the attempts after the first, as Standard Webhooks suggests them. Together they take three days.
RETRY_DELAYS = (
    timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5),
    timedelta(hours=10), timedelta(hours=14), timedelta(hours=20), timedelta(hours=24),
)  # fmt: skip
# An endpoint is disabled if all its attempts have failed for this time.
DISABLE_AFTER = timedelta(days=3)
# A process that attempts a delivery claims it for this time, which is several times as long as an attempt may take.
LEASE = timedelta(seconds=60)
MESSAGES_PER_ROUND = 50
# A limit, so that one endpoint with many deliveries does not delay those of others.
MESSAGES_PER_ENDPOINT = 10
_LOOKED_AT = 10 * MESSAGES_PER_ROUND
_ERROR_CHARACTERS = 500
_GONE = 410


def is_due(now: datetime) -> bool:
    """Whether a delivery is due."""
    return WebhookDelivery.objects.pending().filter(due_at__lte=now).exists()


def deliver_due() -> int:
    """Attempt due deliveries, all at the same time, and return their number."""
    claimed = _claimed(database_time())
    if not claimed:
        return 0
    at = timezone.now()
    messages = [_message(delivery, at) for delivery in claimed]
    for delivery, answer in zip(claimed, post_all(messages, settings.WEBHOOK_ALLOWED_NETWORKS), strict=True):
        _store(delivery, answer, at)
    return len(claimed)


def _claimed(now: datetime) -> list[WebhookDelivery]:
    """Claim and return due deliveries: each has a new due time, which no other process has stored."""
    due = WebhookDelivery.objects.pending().filter(due_at__lte=now).select_related("event__project", "endpoint")
    per_endpoint: Counter[uuid.UUID] = Counter()
    claimed: list[WebhookDelivery] = []
    if not is_due(now):
        return claimed
    with transaction.atomic():
        for delivery in due.order_by("due_at", "pk")[:_LOOKED_AT]:
            per_endpoint[delivery.endpoint_id] += 1
            if per_endpoint[delivery.endpoint_id] > MESSAGES_PER_ENDPOINT or len(claimed) == MESSAGES_PER_ROUND:
                continue
            mine = WebhookDelivery.objects.pending().filter(pk=delivery.pk, due_at=delivery.due_at)
            if not delivery.endpoint.is_enabled:
                # It was disabled just before the delivery was stored.
                mine.update(state=DeliveryState.FAILED, ended_at=now)
                continue
            delivery.due_at = now + LEASE
            if mine.update(due_at=delivery.due_at):
                claimed.append(delivery)
    return claimed


def _message(delivery: WebhookDelivery, at: datetime) -> Message:
    event, endpoint = delivery.event, delivery.endpoint
    body = json.dumps(events.payload(event), ensure_ascii=False, separators=(",", ":"))
    valid = [each.secret for each in endpoint.secrets.all() if each.expires_at is None or each.expires_at > at]
    version = settings.SPECTACULAR_SETTINGS["VERSION"]
    headers = {"Content-Type": "application/json", "User-Agent": f"SercueScribe/{version}"}
    return Message(endpoint.url, headers | signing.headers(event.message_id, body, at, valid), body)


def _store(delivery: WebhookDelivery, answer: Answer, at: datetime) -> None:
    """Store an attempt, and its effect on the delivery and the endpoint."""
    with transaction.atomic():
        row = WebhookDelivery.objects.select_for_update().filter(pk=delivery.pk).first()
        if row is None:
            return
        WebhookAttempt.objects.create(
            delivery=row,
            at=at,
            duration_ms=answer.duration_ms,
            status_code=answer.status_code,
            error=answer.error[:_ERROR_CHARACTERS],
            answer=answer.text,
        )
        row.attempt_count += 1
        if answer.is_success:
            row.state, row.ended_at = DeliveryState.DELIVERED, database_time()
        elif row.state == DeliveryState.PENDING and row.due_at == delivery.due_at:
            _put_off(row)
        row.save(update_fields=["attempt_count", "state", "due_at", "ended_at"])
    _judge(delivery, answer)


def _put_off(row: WebhookDelivery) -> None:
    """Schedule the next attempt; after the last one the delivery has failed."""
    now = database_time()
    if row.attempt_count <= len(RETRY_DELAYS):
        row.due_at = now + RETRY_DELAYS[row.attempt_count - 1]
    else:
        row.state, row.ended_at = DeliveryState.FAILED, now


def _judge(delivery: WebhookDelivery, answer: Answer) -> None:
    """Store since when an endpoint fails. Disable it if it has failed for days, or answers that it is gone."""
    endpoint = WebhookEndpoint.objects.filter(pk=delivery.endpoint_id)
    if answer.is_success:
        endpoint.filter(failing_since__isnull=False).update(failing_since=None)
        return
    said = answer.error or f"it answered {answer.status_code}"
    # The URL may contain a secret of the receiver, so it is not logged.
    logger.warning("webhook_attempt_failed", webhook_id=str(delivery.endpoint_id), error=said)
    now = database_time()
    endpoint.filter(failing_since__isnull=True).update(failing_since=now)
    if answer.status_code == _GONE:
        disable(delivery.endpoint_id, "The endpoint answered 410 Gone.")
    elif endpoint.filter(failing_since__lte=now - DISABLE_AFTER).exists():
        disable(delivery.endpoint_id, f"All attempts of {DISABLE_AFTER.days} days have failed. The last one: {said}")


def disable(endpoint_id: uuid.UUID, reason: str = "") -> None:
    """Send nothing more to an endpoint. Its pending deliveries fail; they can be replayed once it is enabled again.

    Args:
        endpoint_id: The endpoint.
        reason: Why the server disables it; empty if a person does.
    """
    with transaction.atomic():
        enabled = WebhookEndpoint.objects.filter(pk=endpoint_id, is_enabled=True)
        if not enabled.update(is_enabled=False, disabled_reason=reason[:_ERROR_CHARACTERS]):
            return
        pending = WebhookDelivery.objects.pending().filter(endpoint=endpoint_id)
        pending.update(state=DeliveryState.FAILED, ended_at=database_time())
    level = logging.ERROR if reason else logging.INFO
    logger.log(level, "webhook_disabled", webhook_id=str(endpoint_id), reason=reason or "by request")
