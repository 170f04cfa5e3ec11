"""Webhooks over REST, in the admin, and by command."""

import json
from io import StringIO
from urllib.parse import urlencode

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from audio import ingest
from audio.access import ANYONE, issue
from audio.ingest import sessions
from audio.models import (
    DEFAULT_PROJECT_ID,
    AuditEntry,
    DeliveryState,
    Project,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookSecret,
)
from audio.webhooks import endpoints
from tests.webhooks.conftest import deliver
from tests.webhooks.receiver import answer

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]
HOOK = "https://receiver.example/hook"


def post(client, path: str, **body):
    return client.post(path, body, content_type="application/json")


@pytest.fixture
def created(client):
    answered = post(client, "/api/webhooks", url=HOOK, event_types=["recording.ready"], description="mine")
    assert answered.status_code == 201, answered.content
    return answered.json()


def test_the_secret_is_shown_once(client, created):
    assert created["secret"].startswith("whsec_")
    assert created | {"project": "default", "url": HOOK, "is_enabled": True, "failing_since": None} == created
    shown = client.get(f"/api/webhooks/{created['id']}").json()
    assert shown == {name: value for name, value in created.items() if name != "secret"}
    assert client.get("/api/webhooks").json()["results"] == [shown]
    assert created["secret"] not in str(AuditEntry.objects.values_list("details"))
    assert AuditEntry.objects.get().action == "webhook.created"


@pytest.mark.parametrize(
    "url",
    [
        "", "receiver.example", "ftp://receiver.example", "http://receiver.example", "https://", "https://a b/",
        "https://user:secret@receiver.example", "https://receiver.example/#x", "https://receiver.example:0/",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25eth0]/",
        "https://receiver.example:99999/", "https://[", f"https://receiver.example/{'x' * 2000}", "https://exämple/",
        "https://receiver.example/\r\nX: y",
    ],
)  # fmt: skip
def test_an_invalid_url_is_rejected(client, url):
    answered = post(client, "/api/webhooks", url=url)
    assert answered.status_code == 400, answered.content
    assert answered.json()["code"] == "invalid_parameter"
    assert not WebhookEndpoint.objects.exists()


def test_a_form_names_types(client):
    answered = client.post("/api/webhooks", {"url": HOOK, "event_types": ["session.opened", "session.closed"]})
    assert answered.status_code == 201, answered.content
    client.raise_request_exception = False
    # Python reads no number of so many digits.
    form = urlencode({"url": HOOK, f"event_types[{'9' * 5000}]": "session.opened"})
    answered = client.post("/api/webhooks", form, content_type="application/x-www-form-urlencoded")
    assert (answered.status_code, answered.json()["parameter"]) == (400, "event_types")


def test_what_else_is_invalid_is_rejected(client, created):
    for wrong in ({"event_types": ["no.such"]}, {"event_types": [{}]}, {"urls": HOOK}, {"url": None}):
        assert post(client, "/api/webhooks", **{"url": HOOK} | wrong).status_code == 400
    path = f"/api/webhooks/{created['id']}"
    changed = client.patch(path, {"event_types": "recording.ready"}, content_type="application/json")
    assert changed.status_code == 400
    for missing in ("/api/webhooks/x", "/api/webhooks/123e4567-e89b-42d3-a456-426614174000"):
        assert client.get(missing).json()["code"] == "webhook_not_found"
    assert client.post(f"{path}/deliveries/x/replay").status_code == 404


def test_a_webhook_is_changed_disabled_and_deleted(client, created):
    path = f"/api/webhooks/{created['id']}"
    changes = {"url": "https://other.example/", "event_types": [], "is_enabled": False}
    assert client.patch(path, changes, content_type="application/json").json() == {
        **{name: value for name, value in created.items() if name != "secret"},
        **changes,
    }
    assert client.post(f"{path}/test").json()["code"] == "webhook_disabled"
    assert client.patch(path, {"is_enabled": True}, content_type="application/json").json()["is_enabled"]
    assert client.delete(path).status_code == 204
    assert not WebhookEndpoint.objects.exists() and not WebhookSecret.objects.exists()


def test_deliveries_are_shown_with_their_attempts_and_replayed(client, hooked):
    receiver, endpoint = hooked(answer(500, b"<oops>"))
    session = sessions.create_session(ingest.default_parameters())
    deliver()
    path = f"/api/webhooks/{endpoint.pk}/deliveries"
    (shown,) = client.get(path).json()["results"]
    assert shown["event_type"] == "session.opened" and shown["session_id"] == str(session.pk)
    assert shown["status"] == "pending" and shown["next_attempt_at"]
    (attempt,) = shown["attempts"]
    assert (attempt["status_code"], attempt["answer"], attempt["error"]) == (500, "<oops>", "")
    assert shown["event_id"] == receiver.received[0][0]
    assert client.post(f"{path}/{shown['id']}/replay").status_code == 202
    deliver()
    assert receiver.taken == [shown["event_id"]]
    (shown,) = client.get(path).json()["results"]
    assert (shown["status"], shown["next_attempt_at"], len(shown["attempts"])) == ("delivered", None, 2)


def test_a_test_and_a_new_secret(client, hooked):
    receiver, endpoint = hooked()
    rotated = client.post(f"/api/webhooks/{endpoint.pk}/rotate").json()
    receiver.secrets = [rotated["secret"]]
    assert client.post(f"/api/webhooks/{endpoint.pk}/test").status_code == 202
    deliver()
    assert [event["type"] for _, event, _ in receiver.received] == ["webhook.test"]


class TestAccess:
    @pytest.fixture(autouse=True)
    def two_projects(self, settings):
        settings.REQUIRE_AUTH = True
        self.mine = Project.objects.get(pk=DEFAULT_PROJECT_ID)
        self.other = Project.objects.create(name="other")
        self.hook, _ = endpoints.create(self.mine.pk, HOOK)
        self.foreign, _ = endpoints.create(self.other.pk, HOOK)
        self.keys = {scope: issue.key(self.mine, scope, [scope], ANYONE)[1] for scope in ("read", "record", "manage")}

    def get(self, client, path: str, scope: str | None):
        headers = {"Authorization": f"Bearer {self.keys[scope]}"} if scope else {}
        return client.get(path, headers=headers)

    def test_only_those_who_manage_the_project_see_its_webhooks(self, client):
        listed = self.get(client, "/api/webhooks", "manage").json()["results"]
        assert [each["id"] for each in listed] == [str(self.hook.pk)]
        for path in ("/api/webhooks", f"/api/webhooks/{self.hook.pk}", f"/api/webhooks/{self.hook.pk}/deliveries"):
            statuses = [self.get(client, path, scope).status_code for scope in (None, "read", "record", "manage")]
            assert statuses == [401, 403, 403, 200], path

    def test_what_belongs_to_another_project_does_not_exist(self, client):
        path = f"/api/webhooks/{self.foreign.pk}"
        authorization = {"Authorization": f"Bearer {self.keys['manage']}"}
        for method, below in (
            ("get", ""), ("patch", ""), ("delete", ""), ("post", "/rotate"), ("post", "/test"), ("get", "/deliveries"),
        ):  # fmt: skip
            answered = getattr(client, method)(path + below, headers=authorization)
            assert (answered.status_code, answered.json()["code"]) == (404, "webhook_not_found"), (method, below)
        assert WebhookEndpoint.objects.filter(pk=self.foreign.pk).exists()


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("webhooks", *arguments, stdout=output)
    return output.getvalue()


def test_the_command(hooked):
    receiver, endpoint = hooked(answer(500))
    sessions.create_session(ingest.default_parameters())
    deliver()
    assert "enabled" in run("list") and "failing since" in run("list")
    assert json.loads(run("list", "--json"))["url"] == receiver.url
    run("test", str(endpoint.pk))
    run("replay", str(WebhookDelivery.objects.earliest("created_at").pk))
    deliver()
    assert sorted(event["type"] for _, event, _ in receiver.received[1:]) == ["session.opened", "webhook.test"]
    endpoints.change(endpoint, is_enabled=False)
    sessions.create_session(ingest.default_parameters())
    deliver()
    assert "disabled" in run("list")
    endpoints.change(endpoint, is_enabled=True)
    WebhookDelivery.objects.update(state=DeliveryState.FAILED)
    assert run("replay", str(endpoint.pk), "--hours", "1") == "2 events will be sent.\n"
    created = json.loads(run("create", HOOK, "--event", "task.failed", "--json"))
    assert WebhookEndpoint.objects.get(pk=created["id"]).event_types == ["task.failed"]
    for wrong in (["test", "x"], ["test", str(WebhookDelivery.objects.first().pk)], ["replay", created["id"]]):
        with pytest.raises(CommandError):
            run(*wrong)
    with pytest.raises(CommandError, match="https://"):
        run("create", "ftp://receiver.example")


def test_the_admin_shows_webhooks_and_sends_again(admin_client, hooked):
    receiver, endpoint = hooked(answer(500, b"<oops>"))
    sessions.create_session(ingest.default_parameters())
    deliver()
    sent = WebhookDelivery.objects.get()
    for path, shown in (
        ("webhookendpoint/", receiver.url), (f"webhookendpoint/{endpoint.pk}/change/", "session.opened"),
        ("webhookdelivery/", "pending"), (f"webhookdelivery/{sent.pk}/change/", "&lt;oops&gt;"),
        ("webhookevent/", "session.opened"),
    ):  # fmt: skip
        page = admin_client.get(f"/admin/audio/{path}")
        assert page.status_code == 200 and shown in page.content.decode(), path
        assert receiver.secrets[0] not in page.content.decode()
    act = {"action": "replay_selected", "_selected_action": [str(sent.pk)]}
    admin_client.post("/admin/audio/webhookdelivery/", act)
    for action in ("disable_selected", "enable_selected", "test_selected"):
        admin_client.post("/admin/audio/webhookendpoint/", {"action": action, "_selected_action": [str(endpoint.pk)]})
        endpoint.refresh_from_db()
        assert endpoint.is_enabled == (action != "disable_selected")
    deliver()
    assert {event["type"] for _, event, _ in receiver.received[1:]} == {"webhook.test"}
    endpoints.replay(sent)
    deliver()
    assert len(receiver.taken) == 2
