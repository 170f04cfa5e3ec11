"""Chores: asked for when they are due, by one sweep of many; and what a sweep costs that finds nothing to do."""

import uuid
from datetime import timedelta
from importlib import import_module

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from audio import dispatch, ingest, upkeep
from audio.models import AudioConnection, AudioSession, BackgroundTask, Chore, IngestProcess, Recording
from audio.upkeep import Swept, chores, logins
from audio.upkeep.sweeps import Sweep
from audio.wire.parameters import ConnectionRequest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
NAMES = ["connections", "retention", "erasures", "events", "audit", "logins", "journals", "leftovers"]
QUERIES = 14


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The chores that were asked for."""
    names: list[str] = []
    monkeypatch.setattr(dispatch, "chore", lambda name: names.append(name))
    return names


def sweep_until_all_are_asked_for() -> None:
    for _ in NAMES:
        upkeep.sweep()


def test_every_chore_is_asked_for_once_until_it_is_due_again(asked):
    sweep_until_all_are_asked_for()
    assert asked == NAMES
    upkeep.sweep()
    assert asked == NAMES
    Chore.objects.filter(name="journals").update(due_at=timezone.now())
    upkeep.sweep()
    assert asked == [*NAMES, "journals"]


@pytest.mark.parametrize("asked_before", [False, True])
def test_of_two_sweeps_at_a_time_one_asks(asked, monkeypatch, asked_before):
    if asked_before:
        sweep_until_all_are_asked_for()
        asked.clear()
        Chore.objects.update(due_at=timezone.now())
    values_list = Chore.objects.values_list

    def another_comes_first(*names):
        due = list(values_list(*names))
        monkeypatch.setattr(Chore.objects, "values_list", values_list)
        upkeep.sweep()
        return due

    monkeypatch.setattr(Chore.objects, "values_list", another_comes_first)
    upkeep.sweep()
    assert asked == NAMES[:2]


# An open session that nobody is connected to


def test_a_session_whose_connection_was_removed_by_hand_is_dropped_from_now():
    process = IngestProcess.objects.create(host="host", pid=1)
    deserted, connected = (ingest.open_connection(ConnectionRequest({}), None, process.pk) for _ in range(2))
    AudioConnection.objects.filter(pk=deserted.connection_id).delete()
    before = timezone.now()
    assert upkeep.run_chore("connections") == Swept(dropped_sessions=1)
    assert AudioSession.objects.get(pk=deserted.session.pk).dropped_at >= before
    assert AudioSession.objects.get(pk=connected.session.pk).dropped_at is None
    assert upkeep.run_chore("connections") == Swept()


def test_a_session_to_which_somebody_connects_meanwhile_is_not_dropped(monkeypatch):
    process = IngestProcess.objects.create(host="host", pid=1)
    key = ingest.open_connection(ConnectionRequest({}), None, process.pk).session.pk
    AudioConnection.objects.all().delete()
    drop = ingest.drop_if_deserted

    def come_back_first(session_id: uuid.UUID) -> bool:
        ingest.open_connection(ConnectionRequest({}), key, process.pk)
        return drop(session_id)

    monkeypatch.setattr(ingest, "drop_if_deserted", come_back_first)
    assert upkeep.run_chore("connections") == Swept()
    assert AudioSession.objects.get(pk=key).dropped_at is None


# What a sweep costs


@pytest.fixture
def many_sessions() -> None:
    """Closed ones, with a recording and without a chunk; and some open ones that somebody records."""
    long_ago = timezone.now() - timedelta(days=100)
    ended = {"sample_rate": 16000, "channels": 1, "format": "wav", "status": "completed", "start_time": long_ago}
    made = [AudioSession(**ended, end_time=long_ago, total_chunks=number % 2) for number in range(2000)]
    AudioSession.objects.bulk_create(made)
    states = ["empty", "ready"]
    Recording.objects.bulk_create(Recording(session=s, state=states[s.total_chunks], sha256="0") for s in made)
    BackgroundTask.objects.bulk_create(
        BackgroundTask(session=session, kind="waveform", state="completed", updated_at=long_ago) for session in made
    )
    Recording.objects.update(updated_at=long_ago)
    process = IngestProcess.objects.create(host="host", pid=1, ready_at=long_ago)
    for _ in range(5):
        ingest.open_connection(ConnectionRequest({}), None, process.pk)


def test_a_sweep_with_nothing_to_do_is_a_few_queries_by_index(many_sessions, asked):
    sweep_until_all_are_asked_for()
    assert Recording.objects.unfinished().count() == 5
    # The choice of an index must not depend on when the database last looked at its tables by itself.
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    statements: list[tuple[str, tuple]] = []

    def note(execute, sql, params, many, context):
        statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert upkeep.sweep() == Swept()
    assert len(statements) <= QUERIES
    assert all(sql.startswith("SELECT") for sql, _ in statements)
    plans = [plan for sql, params in statements for plan in explained(sql, params)]
    large = ("audio_audiosession", "audio_recording", "audio_backgroundtask")
    scans = [
        line for line in plans if line.lstrip(" ->").startswith(("SCAN", "Seq Scan")) and any(t in line for t in large)
    ]
    assert [line for line in scans if "USING INDEX" not in line] == []
    for index in ("recording_unfinished", "recording_undigested", "session_open_dropped", "delivery_due"):
        assert any(f" {index} " in line for line in plans), index


def explained(sql: str, params: tuple) -> list[str]:
    """The plan, made with the parameters beside the statement, as it runs."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            return [row[3] for row in cursor.fetchall()]
        # With two thousand rows reading all of them is as fast, with a million it is not.
        cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sql}", params)
        plan = [row[0] for row in cursor.fetchall()]
        cursor.execute("RESET enable_seqscan")
        return plan


def test_expired_logins_are_deleted(db):
    store = import_module(settings.SESSION_ENGINE).SessionStore
    keys = {}
    for name, seconds in (("old", -1), ("new", 3600)):
        login = store()
        login.set_expiry(seconds)
        login.save()
        keys[name] = login.session_key
    logins.clear_expired(Sweep(dry_run=True))
    assert store().exists(keys["old"])
    chores.run("logins")
    assert not store().exists(keys["old"])
    assert store().exists(keys["new"])
