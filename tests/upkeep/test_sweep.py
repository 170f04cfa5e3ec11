"""The sweep of `audio.upkeep`, on real rows and with the real queue."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import Q
from django.utils import timezone

from audio import dispatch, ingest, upkeep
from audio.ingest import heartbeat, sessions
from audio.ingest.clock import ClockWatch
from audio.models import AudioConnection, AudioSession, IngestProcess, Recording
from audio.upkeep import Swept
from audio.wire.parameters import ConnectionRequest
from tests.broker import requests_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
GRACE_SECONDS = 30


@pytest.fixture(autouse=True)
def limits(settings):
    settings.DISCONNECT_GRACE_SECONDS = GRACE_SECONDS
    settings.MAX_SESSION_DURATION_HOURS = 24
    settings.HEARTBEAT_SECONDS = 5


def ago(**span: float) -> datetime:
    return timezone.now() - timedelta(**span)


def make_session(recording: dict | None = None, **fields) -> uuid.UUID:
    started = {"sample_rate": 16000, "channels": 1, "format": "wav", "start_time": ago(hours=6)}
    session = AudioSession.objects.create(**started | fields)
    Recording.objects.create(session=session)
    # Saving sets `updated_at`, an update does not.
    if recording:
        Recording.objects.filter(pk=session.pk).update(**recording)
    return session.pk


def make_process(**fields) -> IngestProcess:
    return IngestProcess.objects.create(**{"host": "host", "pid": 1, "ready_at": ago(hours=1), **fields})


def statuses(*session_ids: uuid.UUID) -> list[str]:
    return [AudioSession.objects.get(pk=key).status for key in session_ids]


def test_a_session_past_its_grace_is_closed_and_its_recording_asked_for():
    make_process()
    overdue = make_session(dropped_at=ago(seconds=GRACE_SECONDS + 1))
    within, connected = make_session(dropped_at=ago(seconds=GRACE_SECONDS - 15)), make_session(dropped_at=None)
    assert upkeep.sweep() == Swept(closed_sessions=1)
    assert statuses(overdue, within, connected) == ["completed", "active", "active"]
    assert AudioSession.objects.get(pk=overdue).end_time is not None
    assert [requests_for(key) for key in (overdue, within, connected)] == [[dispatch.CONCATENATE], [], []]
    assert upkeep.sweep() == Swept()


def test_pausing_does_not_lengthen_the_grace():
    make_process()
    paused = make_session(status="paused", dropped_at=ago(seconds=GRACE_SECONDS + 1))
    assert upkeep.sweep().closed_sessions == 1
    assert statuses(paused) == ["completed"]


def test_closed_sessions_stay_as_they_are():
    make_process()
    ended_at = ago(days=3)
    fields = {"dropped_at": ago(days=3), "start_time": ago(days=4), "end_time": ended_at}
    key = make_session(status="completed", recording={"state": "ready"}, **fields)
    assert upkeep.sweep() == Swept()
    assert statuses(key) == ["completed"]
    assert AudioSession.objects.get().end_time == ended_at


def test_a_session_that_lasts_too_long_is_closed_although_somebody_is_connected():
    process = make_process()
    long, young = make_session(start_time=ago(hours=24, seconds=1)), make_session(start_time=ago(hours=23))
    for key in (long, young):
        sessions.open_connection(ConnectionRequest({}), key, process.pk)
    assert upkeep.sweep().closed_sessions == 1
    assert statuses(long, young) == ["completed", "active"]


def test_while_no_server_lives_dropped_sessions_wait():
    key = make_session(dropped_at=ago(hours=5))
    assert upkeep.sweep() == Swept()
    assert statuses(key) == ["active"]


def test_the_grace_counts_from_when_the_oldest_living_server_was_ready():
    """Nobody could come back before that; and a server that joins later gives no session more time."""
    key = make_session(dropped_at=ago(hours=5))
    oldest = make_process(ready_at=ago(seconds=GRACE_SECONDS - 15))
    make_process(ready_at=ago(seconds=1))
    assert upkeep.sweep().closed_sessions == 0
    assert statuses(key) == ["active"]
    IngestProcess.objects.filter(pk=oldest.pk).update(ready_at=ago(seconds=GRACE_SECONDS + 1))
    assert upkeep.sweep().closed_sessions == 1
    assert statuses(key) == ["completed"]


def test_the_grace_counts_from_the_drop_when_a_server_was_there_before():
    key = make_session(dropped_at=ago(seconds=GRACE_SECONDS - 15))
    make_process(ready_at=ago(days=5))
    assert upkeep.sweep() == Swept()
    assert statuses(key) == ["active"]


def test_a_dead_server_is_none_to_come_back_to():
    key = make_session(dropped_at=ago(hours=5))
    make_process(ready_at=ago(hours=6), heartbeat_at=ago(minutes=10))
    make_process(ready_at=ago(seconds=1))
    assert upkeep.sweep() == Swept(dead_processes=1)
    assert statuses(key) == ["active"]


def test_a_session_whose_client_comes_back_meanwhile_is_not_closed(monkeypatch):
    """The sweep has found it overdue, and before it closes it somebody connects."""
    process = make_process()
    key = make_session(dropped_at=ago(hours=5))
    close_if = sessions.close_if

    def come_back_first(session_id: uuid.UUID, condition: Q) -> bool:
        sessions.open_connection(ConnectionRequest({}), key, process.pk)
        return close_if(session_id, condition)

    monkeypatch.setattr("audio.ingest.close_if", come_back_first)
    assert upkeep.sweep().closed_sessions == 0
    assert AudioConnection.objects.count() == 1
    assert statuses(key) == ["active"]


def test_a_silent_process_is_forgotten_and_its_sessions_are_dropped_from_now():
    silent, living = make_process(heartbeat_at=ago(seconds=21)), make_process(heartbeat_at=ago(seconds=10))
    lost = sessions.open_connection(ConnectionRequest({}), None, silent.pk)
    kept = sessions.open_connection(ConnectionRequest({}), None, living.pk)
    before = timezone.now()
    assert upkeep.sweep() == Swept(dead_processes=1)
    assert IngestProcess.objects.get() == living
    assert AudioConnection.objects.get().pk == kept.connection_id
    assert AudioSession.objects.get(pk=lost.session.pk).dropped_at >= before
    assert AudioSession.objects.get(pk=kept.session.pk).dropped_at is None


def test_a_process_that_gives_a_sign_of_life_meanwhile_is_not_forgotten(monkeypatch):
    """The sweep has found it silent, and before it forgets it the process beats again."""
    process = make_process(heartbeat_at=ago(minutes=1))
    opened = sessions.open_connection(ConnectionRequest({}), None, process.pk)
    remove_process = sessions.remove_process

    def beat_first(process_id: uuid.UUID, **options: datetime) -> bool:
        IngestProcess.objects.filter(pk=process_id).update(heartbeat_at=timezone.now())
        return remove_process(process_id, **options)

    monkeypatch.setattr("audio.ingest.remove_process", beat_first)
    assert upkeep.sweep() == Swept()
    assert AudioConnection.objects.get().pk == opened.connection_id
    assert AudioSession.objects.get().dropped_at is None


@pytest.mark.parametrize("hours", [1, -1])
def test_hosts_whose_clocks_differ_judge_by_the_database_s(monkeypatch, hours):
    """What one host writes about processes and drops, another one with a wrong clock reads. With SQLite all are on
    one host, and its clock is as good."""
    here = ingest.database_time()
    if connection.vendor == "postgresql":
        monkeypatch.setattr(timezone, "now", lambda: datetime.now(UTC) + timedelta(hours=hours))
    process_id = uuid.uuid4()
    heartbeat._register(process_id)
    opened = sessions.open_connection(ConnectionRequest({}), None, process_id)
    sessions.remove_connection(opened.connection_id)
    ticketed = sessions.create_session(sessions.default_parameters())
    assert upkeep.sweep() == Swept()
    heartbeat._heartbeat(process_id, {}, {}, ClockWatch())
    now = ingest.database_time()
    row = IngestProcess.objects.get()
    dropped_at = AudioSession.objects.get(pk=opened.session.pk).dropped_at
    assert here <= row.ready_at <= row.heartbeat_at <= now
    assert here <= dropped_at <= now <= AudioSession.objects.get(pk=ticketed.pk).dropped_at


def test_without_a_time_all_processes_are_forgotten():
    for _ in range(3):
        sessions.open_connection(ConnectionRequest({}), None, make_process().pk)
    assert upkeep.forget_dead_processes(before=ago(seconds=60)) == 0
    assert upkeep.forget_dead_processes() == 3
    assert (IngestProcess.objects.count(), AudioConnection.objects.count()) == (0, 0)
    assert not AudioSession.objects.filter(dropped_at__isnull=True).exists()


@pytest.mark.parametrize("state", ["empty", "live", "building"])
def test_an_unfinished_recording_is_asked_for_again_but_not_with_every_sweep(state):
    key = make_session(status="completed", total_chunks=5, recording={"state": state, "updated_at": ago(seconds=31)})
    assert upkeep.sweep() == Swept(requested_recordings=1)
    assert upkeep.sweep() == Swept()
    assert requests_for(key) == [dispatch.CONCATENATE]
    Recording.objects.filter(pk=key).update(updated_at=ago(seconds=31))
    assert upkeep.sweep() == Swept(requested_recordings=1)
    assert requests_for(key) == [dispatch.CONCATENATE] * 2


@pytest.mark.parametrize(
    ("status", "total_chunks", "state", "age_seconds"),
    [
        ("completed", 5, "building", 15),
        ("completed", 5, "ready", 3600),
        ("completed", 5, "failed", 3600),
        ("active", 5, "live", 3600),
        ("completed", 0, "empty", 3600),
    ],
    ids=["touched lately", "ready", "failed", "open", "nothing recorded"],
)
def test_a_recording_that_needs_no_reminder(status, total_chunks, state, age_seconds):
    recording = {"state": state, "sha256": "0" * 64, "updated_at": ago(seconds=age_seconds)}
    key = make_session(status=status, total_chunks=total_chunks, recording=recording)
    assert upkeep.sweep() == Swept()
    assert requests_for(key) == []


def test_a_sweep_takes_a_bounded_number_and_the_next_one_the_rest(monkeypatch):
    monkeypatch.setattr("audio.upkeep.sessions.SESSIONS_PER_SWEEP", 3)
    monkeypatch.setattr("audio.upkeep.work.REQUESTS_PER_SWEEP", 3)
    make_process()
    for _ in range(4):
        make_session(dropped_at=ago(hours=1))
        make_session(status="completed", total_chunks=1, recording={"updated_at": ago(hours=1)})
    assert [upkeep.sweep() for _ in range(3)] == [Swept(0, 3, 3), Swept(0, 1, 1), Swept()]


def test_a_recording_whose_digest_was_not_written_is_asked_for_again():
    session = make_session({"state": "ready", "sha256": ""}, status="completed", total_chunks=1)
    make_session({"state": "ready", "sha256": "0" * 64}, status="completed", total_chunks=1)
    Recording.objects.update(updated_at=timezone.now() - timedelta(minutes=1))
    assert upkeep.sweep().requested_recordings == 1
    assert requests_for(session) == [dispatch.CONCATENATE]
    assert upkeep.sweep().requested_recordings == 0
