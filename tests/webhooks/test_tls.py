"""Deliveries over HTTPS: the certificate of the endpoint has to be valid for its host."""

from datetime import timedelta

import pytest

from audio import ingest
from audio.ingest import sessions
from audio.models import DeliveryState, WebhookAttempt, WebhookDelivery
from tests.webhooks.authority import Authority
from tests.webhooks.conftest import deliver

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


def test_an_endpoint_with_a_trusted_certificate_gets_its_events(hooked, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    receiver, _ = hooked(tls=authority.server())
    sessions.create_session(ingest.default_parameters())
    deliver()
    assert [event["type"] for _, event, _ in receiver.received] == ["session.opened"]
    assert WebhookDelivery.objects.get().state == DeliveryState.DELIVERED


@pytest.mark.parametrize(
    ("certificate", "is_trusted", "reason"),
    [
        ({}, False, "unable to get local issuer certificate"),
        ({"host": "example.org"}, True, "Hostname mismatch"),
        ({"lasts": timedelta(days=-1)}, True, "certificate has expired"),
    ],
)
def test_an_endpoint_that_could_be_somebody_else_gets_nothing(
    hooked, authority, monkeypatch, certificate, is_trusted, reason
):
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    receiver, _ = hooked(tls=authority.server(**certificate))
    sessions.create_session(ingest.default_parameters())
    deliver()
    assert receiver.received == receiver.errors == []
    assert WebhookDelivery.objects.get().state == DeliveryState.PENDING
    assert reason in WebhookAttempt.objects.get().error


def test_an_endpoint_that_speaks_no_tls_gets_nothing(hooked):
    receiver, endpoint = hooked()
    endpoint.url = endpoint.url.replace("http:", "https:")
    endpoint.save()
    sessions.create_session(ingest.default_parameters())
    deliver()
    assert receiver.received == receiver.errors == []
    assert WebhookDelivery.objects.get().state == DeliveryState.PENDING
