"""The endpoints of projects: create, change and test them, rotate their secrets, and replay deliveries."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from audio import dispatch
from audio.database import database_time
from audio.errors import InvalidParameterError, WebhookDisabledError
from audio.models import (
    TEST_TYPE,
    DeliveryState,
    EventType,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)
from audio.models.webhooks import URL_MAX_LENGTH, unknown_types
from audio.pages import in_pages
from audio.webhooks import delivery, outbox, signing
from audio.webhooks.networks import is_allowed, is_named, parsed

# The time for which the previous secret still signs too, so that the receiver can change to the new one.
ROTATION = timedelta(hours=24)
_RECEIVED_CHARACTERS = 200


def create(
    project_id: int, url: str, event_types: Sequence[str] = (), description: str = ""
) -> tuple[WebhookEndpoint, str]:
    """Create an endpoint with a secret, and return both.

    Raises:
        InvalidParameterError: The URL or a type is not valid.
    """
    check_url(url)
    check_types(event_types)
    with transaction.atomic():
        endpoint = WebhookEndpoint.objects.create(
            project_id=project_id, url=url, event_types=list(event_types), description=description
        )
        secret = WebhookSecret.objects.create(endpoint=endpoint, secret=signing.new_secret())
    return endpoint, secret.secret


def change(endpoint: WebhookEndpoint, **values: object) -> None:
    """Change columns of an endpoint: `url`, `event_types`, `description` or `is_enabled`.

    Raises:
        InvalidParameterError: The URL or a type is not valid.
    """
    if "url" in values:
        check_url(str(values["url"]))
    if "event_types" in values:
        check_types(values["event_types"])  # type: ignore[arg-type]  # its serializer has made it a list
    is_enabled = values.pop("is_enabled", None)
    row = WebhookEndpoint.objects.filter(pk=endpoint.pk)
    if values:
        row.update(**values)
    if is_enabled is False:
        delivery.disable(endpoint.pk)
    elif is_enabled is True:
        row.filter(is_enabled=False).update(is_enabled=True, disabled_reason="", failing_since=None)


def rotate(endpoint: WebhookEndpoint) -> str:
    """Create and return a new secret of an endpoint. The previous one signs too for ROTATION; older ones end."""
    now = database_time()
    with transaction.atomic():
        WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
        endpoint.secrets.filter(expires_at__isnull=False).delete()
        endpoint.secrets.update(expires_at=now + ROTATION)
        return WebhookSecret.objects.create(endpoint=endpoint, secret=signing.new_secret(), created_at=now).secret


def test(endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Send an event of the type `webhook.test` to an endpoint, and return its delivery.

    Raises:
        WebhookDisabledError: The endpoint is disabled.
    """
    require_enabled(endpoint)
    now = database_time()
    with transaction.atomic():
        event = WebhookEvent.objects.create(type=TEST_TYPE, project_id=endpoint.project_id, at=now)
        sent = WebhookDelivery.objects.create(endpoint=endpoint, event=event, created_at=now, due_at=now)
        transaction.on_commit(dispatch.webhooks)
    return sent


def replay(sent: WebhookDelivery) -> None:
    """Send an event again, with the same id, whether it was delivered or not.

    Raises:
        WebhookDisabledError: The endpoint is disabled.
    """
    require_enabled(sent.endpoint)
    _begin_anew([sent.pk])
    dispatch.webhooks()


def recover(endpoint: WebhookEndpoint, since: datetime) -> int:
    """Send all events since a time that were not delivered to an endpoint, even those from before it existed.

    Returns:
        The number of events.

    Raises:
        WebhookDisabledError: The endpoint is disabled.
    """
    require_enabled(endpoint)
    while outbox.publish():
        pass
    count = 0
    types = endpoint.event_types or EventType.values
    wanted = WebhookEvent.objects.filter(project=endpoint.project_id, type__in=types, at__gte=since)
    for page in in_pages(wanted, "position", "pk", size=outbox.EVENTS_PER_TRANSACTION):
        count += _send_again(endpoint, [key for _, key in page])
    dispatch.webhooks()
    return count


def _send_again(endpoint: WebhookEndpoint, keys: Sequence[int]) -> int:
    """Send those events of some that were not delivered to an endpoint, and return how many there were."""
    now = database_time()
    mine = WebhookDelivery.objects.filter(endpoint=endpoint, event__in=keys)
    known = set(mine.values_list("event_id", flat=True))
    failed = list(mine.filter(state=DeliveryState.FAILED).values_list("pk", flat=True))
    missed = [key for key in keys if key not in known]
    rows = [WebhookDelivery(endpoint=endpoint, event_id=key, created_at=now, due_at=now) for key in missed]
    WebhookDelivery.objects.bulk_create(rows, ignore_conflicts=True)
    _begin_anew(failed)
    return len(failed) + len(missed)


def _begin_anew(keys: Sequence[uuid.UUID]) -> None:
    rows = WebhookDelivery.objects.filter(pk__in=keys)
    rows.update(state=DeliveryState.PENDING, attempt_count=0, due_at=database_time(), ended_at=None)


def require_enabled(endpoint: WebhookEndpoint) -> None:
    """Raise WebhookDisabledError if an endpoint is disabled."""
    if not endpoint.is_enabled:
        raise (
            WebhookDisabledError(reason=endpoint.disabled_reason) if endpoint.disabled_reason else WebhookDisabledError
        )


def check_types(types: Sequence[str]) -> None:
    """Raise InvalidParameterError if one of the names is not a type of event."""
    if unknown := unknown_types(types):
        raise InvalidParameterError(
            f"There is no event {unknown[0][:64]!r}.",
            parameter="event_types",
            received=unknown[0][:64],
            valid_values=list(EventType.values),
        )


def check_url(url: str) -> None:
    """Check the URL of an endpoint, as far as that is possible before its host is resolved.

    Raises:
        InvalidParameterError: The URL is not valid, or leads to an address that is not allowed.
    """
    if sentence := _fault(url):
        raise InvalidParameterError(sentence, parameter="url", received=url[:_RECEIVED_CHARACTERS])


def _fault(url: str) -> str:
    allowed = settings.WEBHOOK_ALLOWED_NETWORKS
    try:
        parts = urlsplit(url)
        host, is_whole = parts.hostname or "", parts.port != 0 and url.isascii() and url.isprintable()
    except ValueError:
        return "The URL can't be read. Write it like https://host/path."
    if not host or not is_whole or " " in url or len(url) > URL_MAX_LENGTH or parts.scheme not in ("http", "https"):
        return f"The URL must be like https://host/path, in ASCII, of at most {URL_MAX_LENGTH} characters."
    if "@" in parts.netloc or parts.fragment:
        return "The URL must contain no user, password or fragment."
    address = parsed(host)
    if parts.scheme == "http" and not (is_named(address, allowed) if address else allowed):
        return "The URL must begin with https://. Only a host in WEBHOOK_ALLOWED_NETWORKS may use http://."
    if address and not is_allowed(address, allowed):
        return "The address is not public. The operator of the server may name its network in WEBHOOK_ALLOWED_NETWORKS."
    return ""
