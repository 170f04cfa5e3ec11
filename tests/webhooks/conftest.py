"""Endpoints of webhooks for tests, on this machine."""

import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from ipaddress import ip_network

import pytest
from celery import current_app
from django.db.models import F

from audio.models import DEFAULT_PROJECT_ID, WebhookDelivery, WebhookEndpoint
from audio.webhooks import endpoints, outbox
from audio.webhooks.delivery import deliver_due
from tests.webhooks.receiver import Behaviour, Receiver


@pytest.fixture(autouse=True)
def sent_tasks(monkeypatch) -> list[str]:
    """The names of the tasks that were sent to the broker, which no worker of a test without a server takes."""
    names: list[str] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, **_: names.append(name))
    return names


@pytest.fixture
def make_receiver() -> Iterator[Callable[..., Receiver]]:
    receivers: list[Receiver] = []

    def make(*script: Behaviour, port: int = 0, tls: ssl.SSLContext | None = None) -> Receiver:
        receivers.append(Receiver(*script, port=port, tls=tls))
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.close()


@pytest.fixture
def hooked(make_receiver, settings, db) -> Callable[..., tuple[Receiver, WebhookEndpoint]]:
    """Makes a receiver and an endpoint of the default project that leads to it."""
    settings.WEBHOOK_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]

    def hook(
        *script: Behaviour, event_types=(), project_id=DEFAULT_PROJECT_ID, tls=None
    ) -> tuple[Receiver, WebhookEndpoint]:
        receiver = make_receiver(*script, tls=tls)
        endpoint, secret = endpoints.create(project_id, receiver.url, event_types)
        receiver.secrets.append(secret)
        return receiver, endpoint

    return hook


def deliver() -> None:
    """Does what the worker does: publishes and sends until nothing is due."""
    while outbox.publish() or deliver_due():
        pass


def pass_time(**span: float) -> None:
    """Lets that much time pass for all deliveries and endpoints, by moving what is stored into the past."""
    past = timedelta(**span)
    WebhookDelivery.objects.update(due_at=F("due_at") - past)
    WebhookEndpoint.objects.filter(failing_since__isnull=False).update(failing_since=F("failing_since") - past)
