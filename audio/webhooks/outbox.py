"""The outbox: events that were stored get a position, and a delivery for each endpoint that wants them."""

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, QuerySet

from audio.database import database_time
from audio.models import TEST_TYPE, WebhookDelivery, WebhookEndpoint, WebhookEvent

EVENTS_PER_TRANSACTION = 500
_LOCK = 1936946036  # any number, the same in every process


def publish() -> int:
    """Assign positions to the events that have none, and store their deliveries.

    Workers, sweeps and web processes whose clients listen call this. Only one of them works at a time, so that
    positions are in the order of the commits, and a reader that has seen a position has seen all before it.

    Returns:
        The number of events.
    """
    if not _unpublished().exists():
        return 0
    with transaction.atomic():
        _one_at_a_time()
        events = list(_unpublished().order_by("id")[:EVENTS_PER_TRANSACTION])
        last = last_position()
        for position, event in enumerate(events, last + 1):
            event.position = position
        WebhookEvent.objects.bulk_update(events, ["position"])
        deliveries = list(_deliveries_of(events))
        WebhookDelivery.objects.bulk_create(deliveries, ignore_conflicts=True)
    return len(events)


def last_position() -> int:
    """Return the position of the newest published event; 0 if there is none."""
    return WebhookEvent.objects.aggregate(last=Max("position"))["last"] or 0


def delete_old() -> int:
    """Delete events that are older than WEBHOOK_EVENT_DAYS, with their deliveries, and return how many there were.

    The newest event stays, so that positions never start again from the beginning.
    """
    before = database_time() - timedelta(days=settings.WEBHOOK_EVENT_DAYS)
    oldest = WebhookEvent.objects.filter(position__lt=last_position()).order_by("position")
    rows = oldest.values_list("pk", "at")[:EVENTS_PER_TRANSACTION]
    old = [key for key, at in rows if at < before]
    WebhookEvent.objects.filter(pk__in=old).delete()
    return len(old)


def _unpublished() -> QuerySet[WebhookEvent]:
    return WebhookEvent.objects.filter(position__isnull=True)


def _one_at_a_time() -> None:
    """Wait for another process that publishes. On SQLite, where every transaction begins IMMEDIATE, it waits anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _deliveries_of(events: Iterable[WebhookEvent]) -> Iterable[WebhookDelivery]:
    projects = {event.project_id for event in events if event.type != TEST_TYPE}
    endpoints = list(WebhookEndpoint.objects.filter(project__in=projects, is_enabled=True))
    now = database_time()
    for event in events:
        for endpoint in endpoints:
            if event.type != TEST_TYPE and endpoint.project_id == event.project_id and endpoint.wants(event.type):
                yield WebhookDelivery(endpoint=endpoint, event=event, created_at=now, due_at=now)
