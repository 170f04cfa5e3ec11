"""RETENTION_DAYS: sessions that ended longer ago go, with every byte of them."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.models import AudioSession, DeletedSession
from audio.storage import paths
from audio.upkeep import Swept
from audio.upkeep.sweeps import Action

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
