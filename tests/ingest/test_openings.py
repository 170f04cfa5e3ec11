"""The openings of a crowd: the same rows as of one client, with a fixed number of statements."""

import threading
import uuid
from typing import Any

import pytest
from django.db import connection, connections
from django.forms.models import model_to_dict
from django.test.utils import CaptureQueriesContext

from audio.access import ANYONE, STRANGER
from audio.errors import (
    NotAuthenticatedError,
    OverloadedError,
    ProjectNotFoundError,
    TooManySessionsError,
)
from audio.ingest import sessions
from audio.ingest.openings import Opening, open_new
from audio.ingest.sessions import Opened
from audio.models import (
    DEFAULT_PROJECT_ID,
    AudioConnection,
    AudioSession,
    AudioSource,
    AuditEntry,
    IngestProcess,
    MetadataEntry,
    Project,
    Recording,
    WebhookEvent,
)
from audio.wire.parameters import ConnectionRequest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

ADDRESS = "192.0.2.7"


@pytest.fixture
def process_id(transactional_db) -> uuid.UUID:
    return IngestProcess.objects.create(host="here", pid=1).pk


def opening(named: dict[str, Any] | None = None, *, is_gone: bool = False, who=ANYONE, **request: Any) -> Opening:
    return Opening(ConnectionRequest(named or {}, **request), None, who, ADDRESS, lambda: is_gone)


def kinds(results: list[Any]) -> list[type]:
    return [type(result) for result in results]


def rows_of(found: Opened) -> dict[str, Any]:
    """Everything that was stored for an opening, without its keys and times."""
    key = found.session.pk
    session = model_to_dict(AudioSession.objects.get(pk=key), exclude=["start_time"])
    source = AudioSource.objects.values("name", "epoch", "chunk_count").get(session=key)
    row = AudioConnection.objects.values("process_id", "epoch").get(pk=found.connection_id, session=key)
    event = WebhookEvent.objects.values("type", "project_id", "user_id").get(session_id=key)
    audit = AuditEntry.objects.values("project", "actor", "action", "address").get(session_id=key)
    state = Recording.objects.get(pk=key).state
    digests = set(MetadataEntry.objects.filter(session=key).values_list("digest", flat=True))
    return {"session": session, **source, **row, **event, **audit, "state": state, "digests": digests}


@pytest.mark.parametrize(
    "request_of",
    [
        {},
        {"named": {"format": "wav", "sample_rate": 16000}, "source": "mic", "user_id": "Ana"},
        {"name": "Interview", "metadata": {"room": "4", "floor": "2"}, "project": "default"},
    ],
)
def test_a_crowd_gets_the_rows_of_single_clients(process_id, request_of):
    results = open_new([opening(**request_of) for _ in range(3)], process_id)
    alone = opening(**request_of).open_alone(process_id)
    for found in results:
        assert isinstance(found, Opened)
        assert rows_of(found) == rows_of(alone)
        started = found.session.start_time
        assert WebhookEvent.objects.get(session_id=found.session.pk).data == {"started_at": started.isoformat()}
        assert found.resumed is False
        description = {**found.producer.description, "start_time": None}
        assert description == {**alone.producer.description, "start_time": None}
        assert (found.producer.epoch, found.producer.number) == (alone.producer.epoch, alone.producer.number)


def test_the_statements_do_not_grow_with_the_crowd(process_id):
    counts = []
    for count in (1, 16):
        with CaptureQueriesContext(connection) as queries:
            assert kinds(open_new([opening() for _ in range(count)], process_id)) == [Opened] * count
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 14


def test_each_rejection_is_that_of_its_client_alone(process_id):
    crowd = [opening(), opening(project="nobody's"), opening(is_gone=True), opening(who=STRANGER), opening()]
    results = open_new(crowd, process_id)
    assert kinds(results) == [Opened, ProjectNotFoundError, OverloadedError, NotAuthenticatedError, Opened]
    assert AudioSession.objects.count() == AudioConnection.objects.count() == 2


def test_the_last_free_sessions_go_to_the_first_of_a_crowd(process_id, settings):
    settings.MAX_CONCURRENT_SESSIONS = 3
    results = open_new([opening() for _ in range(5)], process_id)
    assert kinds(results) == [Opened] * 3 + [TooManySessionsError] * 2
    assert AudioSession.objects.count() == 3


def test_crowds_of_two_processes_do_not_exceed_the_limit_together(process_id, settings):
    settings.MAX_CONCURRENT_SESSIONS = 20
    results: list[Any] = []

    def open_some() -> None:
        try:
            results.extend(open_new([opening() for _ in range(16)], process_id))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=open_some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Opened) for result in results) == AudioSession.objects.count() == 20


def test_far_from_the_limit_nobody_waits_for_a_lock(process_id, settings, monkeypatch):
    asked: list[None] = []
    monkeypatch.setattr(sessions, "_one_at_a_time", lambda: asked.append(None))
    settings.MAX_CONCURRENT_SESSIONS = 10000
    open_new([opening() for _ in range(5)], process_id)
    assert asked == []
    settings.MAX_CONCURRENT_SESSIONS = 5
    open_new([opening()], process_id)
    assert asked == [None]


def test_the_sessions_of_a_project_with_limits_are_opened_alone(process_id):
    """A look at the limits takes longer than the rest, and the chunks of others pass between two of them."""
    Project.objects.filter(pk=DEFAULT_PROJECT_ID).update(max_open_sessions=2)
    Project.objects.create(name="free")
    crowd = [opening(), opening(project="free"), opening(), opening(), opening(project="free")]
    assert kinds(open_new(crowd, process_id)) == [type(None), Opened, type(None), type(None), Opened]
