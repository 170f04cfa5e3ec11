"""The retention: sessions that ended longer ago than it says go, with every byte of them."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.models import AudioSession, DeletedSession, Project
from audio.storage import paths
from audio.upkeep import Swept, removal
from audio.upkeep.sweeps import Action, Sweep
from tests.plans import captured, check

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


@pytest.fixture(autouse=True)
def keep(settings):
    settings.RETENTION_DAYS = 7


@pytest.fixture
def ended(recorded):
    """Makes a session with a recording that ended so many days ago."""

    def make(days: float) -> uuid.UUID:
        producer = recorded.open()
        recorded.store(producer, bytes(320))
        ingest.close_session(producer.session_id)
        concatenate(producer.session_id)
        at = timezone.now() - timedelta(days=days)
        AudioSession.objects.filter(pk=producer.session_id).update(end_time=at, start_time=at)
        return producer.session_id

    return make


def left() -> set[uuid.UUID]:
    return set(AudioSession.objects.values_list("pk", flat=True))


def expire() -> Swept:
    return upkeep.run_chore("retention")


def test_sessions_that_ended_long_ago_go_with_their_files(ended):
    old, older, young = ended(7.1), ended(30), ended(6.9)
    assert expire() == Swept(deleted_sessions=2)
    assert left() == {young}
    assert [paths.folder(key).exists() for key in (old, older, young)] == [False, False, True]
    assert set(DeletedSession.objects.values_list("pk", flat=True)) == {old, older}
    assert expire() == Swept()


def test_an_open_session_stays_however_old_it_is(recorded):
    key = recorded.open().session_id
    AudioSession.objects.filter(pk=key).update(start_time=timezone.now() - timedelta(days=30))
    assert expire() == Swept()
    assert left() == {key}


def test_without_a_number_of_days_they_stay_for_ever(ended, settings):
    settings.RETENTION_DAYS = 0
    key = ended(10_000)
    assert expire() == Swept()
    assert left() == {key}


def test_a_round_takes_a_bounded_number_the_oldest_first(ended, monkeypatch):
    monkeypatch.setattr("audio.upkeep.removal.SESSIONS_PER_ROUND", 1)
    old, older = ended(8), ended(9)
    assert expire() == Swept(deleted_sessions=1)
    assert left() == {old}
    assert older not in left()


def test_a_round_ends_in_time(ended, monkeypatch):
    monkeypatch.setattr("audio.upkeep.chores._LASTS_SECONDS", 0.0)
    key = ended(8)
    assert expire() == Swept()
    assert left() == {key}


def test_a_dry_run_names_what_would_go(ended):
    old, young = ended(8), ended(1)
    sweep = upkeep.sweep_all(dry_run=True)
    assert sweep.names[Action.DELETED_SESSIONS] == [str(old)]
    assert left() == {old, young}
    assert paths.folder(old).exists()


# Retentions of sessions and projects


def keep_for(key: uuid.UUID, days: int | None) -> uuid.UUID:
    ingest.change_details(key, {"retention_days": days})
    return key


def test_the_retention_of_a_session_counts_first(ended):
    short, long, forever = keep_for(ended(2), 1), keep_for(ended(30), 60), keep_for(ended(10_000), 0)
    due, again = keep_for(ended(61), 60), keep_for(keep_for(ended(30), 60), None)
    assert expire() == Swept(deleted_sessions=3)
    assert left() == {long, forever}
    assert {short, due, again} == set(DeletedSession.objects.values_list("pk", flat=True))


def test_the_retention_of_a_project_counts_before_that_of_the_server(ended):
    short, long, forever = (
        Project.objects.create(name=name, retention_days=days)
        for name, days in (("short", 1), ("long", 60), ("forever", 0))
    )

    def ended_in(project: Project, days: float) -> uuid.UUID:
        key = ended(days)
        AudioSession.objects.filter(pk=key).update(project=project)
        return key

    kept = {ended_in(short, 0.5), ended_in(long, 30), ended_in(forever, 10_000), ended(6), keep_for(ended(8), 9)}
    gone = {ended_in(short, 2), ended_in(long, 61), ended(8), keep_for(ended_in(forever, 2), 1)}
    assert expire() == Swept(deleted_sessions=len(gone))
    assert left() == kept


def test_without_a_retention_of_the_server_sessions_can_have_one(ended, settings):
    settings.RETENTION_DAYS = 0
    kept, _ = ended(30), keep_for(ended(30), 7)
    assert expire() == Swept(deleted_sessions=1)
    assert left() == {kept}


def test_a_retention_beyond_any_calendar(ended):
    Project.objects.update(retention_days=2**31 - 1)
    key = ended(10_000)
    assert expire() == Swept()
    assert left() == {key}


def test_the_expired_are_found_through_an_index(ended):
    """Those that are kept, or under a legal hold, are not passed over."""
    for days in range(3):
        keep_for(ended(30), 60 + days)
        ingest.change_details(ended(30), {"legal_hold": True})
    with captured() as queries:
        removal.delete_expired(Sweep(dry_run=True))
    assert check(queries, 10, is_filtered=False)
    if connection.vendor == "sqlite":
        looked = [query["sql"] for query in queries.captured_queries if '"audio_audiosession"' in query["sql"]]
        for sql in looked:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                (step,) = [row[3] for row in cursor.fetchall()]
            assert "session_kept_by_" in step, (sql, step)
