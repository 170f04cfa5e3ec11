"""Deliveries to real endpoints that are down, hang, reject, redirect and come back."""

import socket
import threading
from datetime import timedelta
from ipaddress import ip_network

import pytest
from django.db import connections

from audio import ingest, upkeep
from audio.errors import WebhookDisabledError
from audio.ingest import sessions
from audio.models import DeliveryState, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from audio.webhooks import delivery, endpoints, http
from audio.webhooks.delivery import LEASE, RETRY_DELAYS, deliver_due
from tests.server import free_port
from tests.webhooks.conftest import deliver, pass_time
from tests.webhooks.receiver import answer

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def happen() -> None:
    sessions.create_session(ingest.default_parameters())


def only() -> WebhookDelivery:
    return WebhookDelivery.objects.get()


def attempts() -> list[tuple[int | None, str]]:
    return list(WebhookAttempt.objects.order_by("id").values_list("status_code", "error"))


def test_an_event_is_delivered_once_and_signed(hooked):
    receiver, _ = hooked()
    happen()
    deliver()
    deliver()
    ((message_id, event, headers),) = receiver.received
    assert receiver.errors == []
    assert event["type"] == "session.opened" and event["data"]["project"] == "default"
    assert message_id.startswith("msg_") and headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["user-agent"].startswith("SercueScribe/")
    assert only().state == DeliveryState.DELIVERED
    assert attempts() == [(204, "")]


@pytest.mark.parametrize("status", [500, 503, 404, 400])
def test_a_rejected_event_comes_again_with_the_same_id(hooked, status):
    receiver, endpoint = hooked(answer(status, b"not now"))
    happen()
    deliver()
    assert only().state == DeliveryState.PENDING
    endpoint.refresh_from_db()
    assert endpoint.failing_since is not None
    deliver()
    assert len(receiver.received) == 1
    pass_time(seconds=5)
    deliver()
    first, second = receiver.received
    assert first[0] == second[0] and first[1] == second[1]
    assert receiver.taken == [first[0]]
    assert attempts() == [(status, ""), (204, "")]
    assert WebhookAttempt.objects.first().answer == "not now"
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


def test_an_endpoint_that_is_down_gets_everything_when_it_is_back(hooked, make_receiver):
    receiver, _ = hooked()
    port = free_port()
    WebhookEndpoint.objects.update(url=f"http://127.0.0.1:{port}/")
    for _ in range(3):
        happen()
    deliver()
    assert [error.split(":")[0] for _, error in attempts()] == ["ConnectError"] * 3
    back = make_receiver(port=port)
    back.secrets = receiver.secrets
    pass_time(seconds=5)
    deliver()
    assert len(set(back.taken)) == 3


def test_an_endpoint_that_hangs_delays_no_other(hooked, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 1.0)
    hanging, _ = hooked()
    hanging.script = [hanging.hang] * 10
    healthy, _ = hooked()
    happen()
    deliver()
    assert len(healthy.taken) == 1
    assert WebhookDelivery.objects.filter(state=DeliveryState.PENDING).count() == 1
    assert (None, "The endpoint did not answer within 1 seconds.") in attempts()
    hanging.script = []
    pass_time(seconds=5)
    deliver()
    assert len(hanging.taken) == 1


def test_an_endpoint_that_never_ends_its_answer_is_not_waited_for(hooked, monkeypatch):
    """The first bytes are kept, and the rest is not read."""

    def babble(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x" * 1000)

    hooked(babble)
    happen()
    deliver()
    assert WebhookAttempt.objects.get().answer == "x" * 1000
    assert only().state == DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(hooked, make_receiver, status):
    inside = make_receiver()
    receiver, _ = hooked(answer(status, Location=inside.url))
    happen()
    deliver()
    ((code, error),) = attempts()
    assert code == status and "Redirects are not followed" in error
    assert inside.received == inside.errors == []
    pass_time(seconds=5)
    deliver()
    assert len(receiver.taken) == 1


class TestAddresses:
    @pytest.fixture(autouse=True)
    def listener(self):
        """A port of this machine on which nobody must ever connect."""
        with socket.create_server(("127.0.0.1", 0)) as self.socket:
            self.socket.settimeout(0.2)
            self.port = self.socket.getsockname()[1]
            yield

    def nobody_came(self) -> bool:
        try:
            self.socket.accept()
        except TimeoutError:
            return True
        return False

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1"])
    def test_a_host_inside_is_never_connected_to(self, hooked, settings, host):
        hooked()
        settings.WEBHOOK_ALLOWED_NETWORKS = []
        WebhookEndpoint.objects.update(url=f"https://{host}:{self.port}/")
        happen()
        deliver()
        ((status, error),) = attempts()
        assert status is None and "neither public nor inside of a network" in error
        assert self.nobody_came()

    def test_a_name_is_resolved_once(self, hooked, settings, monkeypatch):
        """A name that leads outside for the check and inside for the connection (DNS rebinding)."""
        answers = iter(["203.0.113.9", "127.0.0.1", "127.0.0.1"])
        asked = []

        def resolve(host, port, *_, **__):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

        hooked()
        settings.WEBHOOK_ALLOWED_NETWORKS = [ip_network("203.0.113.9/32")]
        WebhookEndpoint.objects.update(url=f"http://rebinding.example:{self.port}/")
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.5)
        happen()
        deliver()
        assert asked.count("rebinding.example") == 1
        assert self.nobody_came()

    def test_http_leads_only_to_networks_that_are_named(self, hooked, settings, monkeypatch):
        hooked()
        WebhookEndpoint.objects.update(url=f"http://public.example:{self.port}/")
        outside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", self.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: outside)
        happen()
        deliver()
        ((_, error),) = attempts()
        assert "not encrypted" in error


def test_the_attempts_follow_the_schedule_and_then_end(hooked):
    receiver, _ = hooked(*[answer(500)] * 20)
    happen()
    deliver()
    for number, delay in enumerate(RETRY_DELAYS, 2):
        pass_time(seconds=delay.total_seconds() - 1)
        upkeep.sweep()
        deliver()
        assert only().attempt_count == number - 1
        pass_time(seconds=1)
        deliver()
        assert only().attempt_count == number
    assert sum(RETRY_DELAYS, timedelta()) > timedelta(days=3)
    assert only().state == DeliveryState.FAILED
    assert len({message_id for message_id, *_ in receiver.received}) == 1
    assert len(receiver.received) == 10


def test_an_endpoint_that_fails_for_days_is_disabled_and_says_so(hooked):
    receiver, endpoint = hooked(*[answer(500)] * 20)
    happen()
    deliver()
    for delay in RETRY_DELAYS:
        pass_time(seconds=delay.total_seconds())
        deliver()
    endpoint.refresh_from_db()
    assert not endpoint.is_enabled
    assert endpoint.disabled_reason == "All attempts of 3 days have failed. The last one: it answered 500"
    happen()
    deliver()
    assert len(receiver.received) == 10
    with pytest.raises(WebhookDisabledError) as told:
        endpoints.replay(only())
    assert told.value.details["reason"] == endpoint.disabled_reason


def test_one_event_that_is_rejected_disables_no_endpoint(hooked):
    """Other events arrive all the time."""
    receiver, endpoint = hooked(answer(500))
    happen()
    deliver()
    for delay in RETRY_DELAYS:
        receiver.script = []
        happen()
        deliver()
        receiver.script = [answer(500)]
        pass_time(seconds=delay.total_seconds())
        deliver()
    endpoint.refresh_from_db()
    assert endpoint.is_enabled
    assert WebhookDelivery.objects.filter(state=DeliveryState.FAILED).count() == 1


def test_an_endpoint_that_is_gone_is_disabled_at_once(hooked):
    _, endpoint = hooked(answer(410))
    happen()
    deliver()
    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_reason) == (False, "The endpoint answered 410 Gone.")
    assert only().state == DeliveryState.FAILED


def test_two_workers_do_not_both_send(hooked):
    receiver, _ = hooked()
    for _ in range(30):
        happen()
    upkeep.sweep()

    def work() -> None:
        while deliver_due():
            pass
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(receiver.received) == len(set(receiver.taken)) == 30


def test_a_worker_that_dies_between_the_claim_and_the_request_loses_nothing(hooked, monkeypatch):
    receiver, _ = hooked()
    happen()
    upkeep.sweep()

    class Died(BaseException):
        pass

    def die(*_):
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(delivery, "post_all", die)
        deliver_due()
    deliver()
    assert receiver.received == []
    pass_time(seconds=LEASE.total_seconds())
    deliver()
    assert len(receiver.taken) == 1


def test_the_sweep_finds_what_the_queue_has_lost(hooked, sent_tasks):
    receiver, _ = hooked(answer(500))
    happen()
    sent_tasks.clear()
    assert upkeep.sweep().requested_webhooks == 1
    assert upkeep.sweep().requested_webhooks == 0
    assert "sercuescribe.deliver_webhooks" in sent_tasks
    deliver()
    assert len(receiver.received) == 1


def test_secrets_are_rotated_without_a_gap(hooked):
    receiver, endpoint = hooked()
    old = receiver.secrets[0]
    new = endpoints.rotate(endpoint)
    assert new != old and new.startswith("whsec_")
    for known in ([old], [new]):
        receiver.secrets = known
        happen()
        deliver()
    assert len(receiver.taken) == 2 and receiver.errors == []
    endpoint.secrets.filter(expires_at__isnull=False).update(expires_at=ingest.database_time())
    receiver.secrets = [old]
    happen()
    deliver()
    assert len(receiver.errors) == 1
    endpoints.rotate(endpoint)
    assert endpoint.secrets.count() == 2


def test_a_delivery_is_replayed_with_its_id(hooked):
    receiver, _ = hooked()
    happen()
    deliver()
    endpoints.replay(only())
    deliver()
    first, second = receiver.received
    assert first[0] == second[0]
    assert attempts() == [(204, "")] * 2


def test_a_test_goes_to_one_endpoint_alone(hooked):
    receiver, endpoint = hooked(event_types=["session.deleted"])
    other, _ = hooked()
    endpoints.test(endpoint)
    deliver()
    assert [event["type"] for _, event, _ in receiver.received] == ["webhook.test"]
    assert other.received == []


def test_what_was_missed_is_recovered(hooked):
    before = ingest.database_time()
    happen()
    upkeep.sweep()
    receiver, endpoint = hooked()
    endpoints.change(endpoint, is_enabled=False)
    happen()
    deliver()
    endpoints.change(endpoint, is_enabled=True)
    happen()
    deliver()
    assert len(receiver.taken) == 1
    assert endpoints.recover(endpoint, before) == 2
    deliver()
    assert len(set(receiver.taken)) == 3 == len(receiver.taken)
    assert endpoints.recover(endpoint, before) == 0
