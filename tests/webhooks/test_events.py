"""Events are stored in the transaction that changes the state, and published in the order of the commits."""

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from audio.ingest import sessions
from audio.jobs import rows, run
from audio.models import (
    AudioSession,
    BackgroundTask,
    EventType,
    Project,
    Recording,
    TaskKind,
    WebhookEndpoint,
    WebhookEvent,
)
from audio.webhooks import endpoints, events, outbox
from audio.wire.parameters import LABEL_MAX_LENGTH
from sercuescribe.addresses import public_url
from tests.sound import speech, wav_bytes

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def types(session_id: uuid.UUID | None = None) -> list[str]:
    found = WebhookEvent.objects.order_by("id")
    return list((found.filter(session_id=session_id) if session_id else found).values_list("type", flat=True))


def shown(event_type: str) -> dict:
    return events.payload(WebhookEvent.objects.select_related("project").get(type=event_type))


def test_events_have_the_longest_label_that_a_session_can_have():
    label = "😀" * LABEL_MAX_LENGTH
    session = ingest.create_session(ingest.default_parameters(), label)
    ingest.close_session(session.pk)
    upkeep.delete_session(session.pk)
    assert types(session.pk) == ["session.opened", "session.closed", "session.deleted"]
    assert shown("session.deleted")["data"]["user_id"] == label


def test_a_session_tells_of_its_life(recorded):
    session_id = recorded.session(wav_bytes(speech(1), 16000))
    assert types() == ["session.opened", "session.closed", "recording.ready"]
    ready = shown("recording.ready")
    recording = Recording.objects.get(pk=session_id)
    assert ready["timestamp"].endswith("+00:00")
    assert ready["data"] == {
        "session_id": str(session_id),
        "project": "default",
        "user_id": "somebody",
        "recording": {
            "state": "ready",
            "url": f"/api/audio/sessions/{session_id}/audio",
            "format": "wav",
            "size_bytes": recording.size_bytes,
            "sha256": recording.sha256,
            "duration_seconds": recording.duration_seconds,
            "warning_count": 0,
        },
    }
    assert len(recording.sha256) == 64
    closed = shown("session.closed")["data"]
    assert (closed["closed_by"], closed["total_chunks"]) == ("request", 1)
    upkeep.delete_session(session_id)
    assert types()[3:] == ["session.deleted"]
    assert shown("session.deleted")["data"]["total_chunks"] == 1


def test_urls_are_absolute_where_the_server_knows_its_own(recorded, settings):
    settings.PUBLIC_URL = public_url("https://scribe.example.org/audio")
    session_id = recorded.session(wav_bytes(speech(1), 16000))
    url = shown("recording.ready")["data"]["recording"]["url"]
    assert url == f"https://scribe.example.org/audio/api/audio/sessions/{session_id}/audio"


def test_a_recording_that_fails_tells_why(recorded):
    session_id = recorded.session(b"no audio at all" * 100, format="mp3")
    assert types() == ["session.opened", "session.closed", "recording.failed"]
    failed = shown("recording.failed")["data"]
    assert failed["recording"]["state"] == "failed" and failed["recording"]["url"] is None
    assert failed["error"]["code"] == Recording.objects.get(pk=session_id).error_code != ""


def test_tasks_tell_of_their_end(recorded):
    session_id = recorded.session(wav_bytes(speech(1), 16000))
    session = AudioSession.objects.get(pk=session_id)
    done = rows.enqueue(session, TaskKind.TRANSCODE, "flac")
    run.run(done.pk)
    assert types()[3:] == ["task.completed"]
    data = shown("task.completed")["data"]
    size = BackgroundTask.objects.get(pk=done.pk).size_bytes
    assert data["task"] == {
        "task_id": str(done.pk), "task": "transcode", "format": "flac", "status": "completed",
        "url": f"/api/audio/sessions/{session_id}/audio?format=flac", "size_bytes": size,
    }  # fmt: skip
    recorded.path(session_id).unlink()
    failed = rows.enqueue(session, TaskKind.TRANSCODE, "mp3")
    run.run(failed.pk)
    assert types()[4:] == ["task.failed"]
    data = shown("task.failed")["data"]
    assert data["task"]["url"] is None and data["error"]["code"]
    revoked = rows.enqueue(session, TaskKind.TRANSCODE, "ogg")
    rows.revoke(str(revoked.pk))
    assert len(types()) == 5


def test_a_rebuild_tells_of_the_new_recording(recorded):
    session_id = recorded.session(wav_bytes(speech(1), 16000))
    rebuild(session_id)
    concatenate(session_id)
    assert types()[2:] == ["recording.ready", "recording.ready"]


def test_nothing_is_told_of_what_did_not_happen():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        sessions.create_session(ingest.default_parameters())
        raise ZeroDivisionError
    assert types() == []
    session = sessions.create_session(ingest.default_parameters())
    ingest.close_session(session.pk)
    ingest.close_session(session.pk)
    assert types() == ["session.opened", "session.closed"]


def test_a_hint_is_sent_only_where_somebody_wants_events(sent_tasks, hooked):
    sessions.create_session(ingest.default_parameters())
    assert "sercuescribe.deliver_webhooks" not in sent_tasks
    hooked()
    sessions.create_session(ingest.default_parameters())
    assert sent_tasks.count("sercuescribe.deliver_webhooks") == 1


def test_each_endpoint_gets_what_it_wants_of_its_own_project(hooked):
    _, everything = hooked()
    _, some = hooked(event_types=["session.closed"])
    _, disabled = hooked()
    endpoints.change(disabled, is_enabled=False)
    other = Project.objects.create(name="other")
    _, foreign = hooked(project_id=other.pk)
    session = sessions.create_session(ingest.default_parameters())
    ingest.close_session(session.pk)
    assert outbox.publish() == 2
    assert outbox.publish() == 0
    wanted = {
        endpoint.pk: [sent.event.type for sent in endpoint.deliveries.order_by("event_id")]
        for endpoint in WebhookEndpoint.objects.all()
    }
    assert wanted == {
        everything.pk: ["session.opened", "session.closed"], some.pk: ["session.closed"],
        disabled.pk: [], foreign.pk: [],
    }  # fmt: skip


def test_positions_are_in_the_order_of_the_commits():
    """A reader that has seen position 1 must not miss an event that was inserted before it and committed later."""
    inserted, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            WebhookEvent.objects.create(type=EventType.SESSION_OPENED, project_id=1)
            inserted.set()
            go_on.wait(60)
        connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert inserted.wait(60)
    if connection.vendor == "sqlite":
        go_on.set()  # its writers wait for each other
    fast = WebhookEvent.objects.create(type=EventType.SESSION_CLOSED, project_id=1)
    committed = list(WebhookEvent.objects.order_by("id").values_list("pk", flat=True))
    outbox.publish()
    go_on.set()
    thread.join()
    outbox.publish()
    (late,) = WebhookEvent.objects.exclude(pk=fast.pk)
    assert late.pk < fast.pk
    expected = [*committed, *({late.pk} - {*committed})]
    assert list(WebhookEvent.objects.order_by("position").values_list("pk", flat=True)) == expected
    assert sorted(WebhookEvent.objects.values_list("position", flat=True)) == [1, 2]


def test_old_events_go_and_the_newest_stays(hooked, settings):
    hooked()
    for _ in range(3):
        sessions.create_session(ingest.default_parameters())
    outbox.publish()
    WebhookEvent.objects.update(at=timezone.now() - timedelta(days=settings.WEBHOOK_EVENT_DAYS + 1))
    sessions.create_session(ingest.default_parameters())
    upkeep.run_chore("events")
    assert list(WebhookEvent.objects.order_by("id").values_list("position", flat=True)) == [3, None]
    upkeep.sweep()
    upkeep.run_chore("events")
    assert list(WebhookEvent.objects.values_list("position", flat=True)) == [4]
    assert WebhookEndpoint.objects.get().deliveries.count() == 1
