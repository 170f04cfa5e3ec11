"""A clock that is set, by days perhaps: with SQLite it is the host's, which NTP puts right after a start.

The clock is `database_time` itself, shifted; what counts every second and is never set stays as it is.
"""

import uuid
from datetime import datetime, timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.ingest import clock as clock_module
from audio.ingest import heartbeat, sessions
from audio.ingest.clock import ClockWatch
from audio.models import AudioChunk, AudioConnection, AudioSession, Chore, IngestProcess, JournalFile, Recording
from audio.wire.parameters import ConnectionRequest

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
PAYLOADS = [bytes([number]) * 320 for number in range(1, 6)]


class Clock:
    """The database's clock, which somebody sets; and one web process that looks at it."""

    def __init__(self, monkeypatch) -> None:
        self._real, self._steady = clock_module.database_time, clock_module.steady_seconds
        self._shift = self._passed = timedelta()
        for place in ("audio.ingest.clock", "audio.ingest.sessions", "audio.ingest.heartbeat", "audio.upkeep.sweeps"):
            monkeypatch.setattr(f"{place}.database_time", self.read)
        monkeypatch.setattr(ingest, "database_time", self.read)
        for place in ("audio.ingest.clock", "audio.upkeep.clock"):
            monkeypatch.setattr(f"{place}.steady_seconds", lambda: self._steady() + self._passed.total_seconds())
        self._watch = ClockWatch()
        self.process_id = uuid.uuid4()

    def read(self) -> datetime:
        return self._real() + self._shift

    def set(self, **span: float) -> None:
        self._shift += timedelta(**span)

    def let_pass(self, **span: float) -> None:
        """Let time go by, on every clock."""
        self._passed += timedelta(**span)
        self.set(**span)

    def start(self) -> None:
        self._watch.read()
        heartbeat._register(self.process_id)

    def open(self):
        return sessions.open_connection(ConnectionRequest({}), None, self.process_id)

    def beat(self, *opened) -> None:
        heartbeat._heartbeat(self.process_id, {one.connection_id: one.producer for one in opened}, {}, self._watch)


@pytest.fixture
def clock(monkeypatch):
    made = Clock(monkeypatch)
    made.start()
    return made


@pytest.mark.parametrize("days", [3, -3])
@pytest.mark.parametrize("is_first", ["sweep", "beat"])
def test_a_live_session_outlives_a_clock_that_is_set(clock, days, is_first):
    live = clock.open()
    clock.beat(live)
    clock.set(days=days)
    for step in (["sweep", "beat", "sweep"], ["beat", "sweep", "sweep"])[is_first == "beat"]:
        upkeep.sweep() if step == "sweep" else clock.beat(live)
    session = AudioSession.objects.get(pk=live.session.pk)
    assert (session.status, session.dropped_at) == ("active", None)
    assert AudioConnection.objects.filter(session=session).exists()


@pytest.mark.parametrize("is_first", ["sweep", "beat"])
def test_a_grace_begins_anew_when_the_clock_is_put_forward(clock, settings, is_first):
    dropped = clock.open()
    sessions.remove_connection(dropped.connection_id)
    clock.beat()
    clock.set(days=3)
    if is_first == "sweep":
        upkeep.sweep()
    clock.beat()
    upkeep.sweep()
    assert AudioSession.objects.get().status == "active"
    clock.let_pass(seconds=settings.DISCONNECT_GRACE_SECONDS + 1)
    IngestProcess.objects.update(heartbeat_at=clock.read())
    assert upkeep.sweep().closed_sessions == 1


def test_a_grace_ends_although_the_clock_was_put_back(clock, settings):
    dropped = clock.open()
    sessions.remove_connection(dropped.connection_id)
    clock.set(days=-3)
    clock.beat()
    upkeep.run_chore("connections")
    assert AudioSession.objects.get().dropped_at <= clock.read()
    IngestProcess.objects.update(ready_at=clock.read() - timedelta(days=1))
    AudioSession.objects.update(dropped_at=clock.read() - timedelta(seconds=settings.DISCONNECT_GRACE_SECONDS + 1))
    assert upkeep.sweep().closed_sessions == 1


def test_a_session_is_closed_at_its_age_after_the_clock_was_set(clock, settings):
    live = clock.open()
    clock.set(days=3)
    clock.beat(live)
    AudioSession.objects.update(
        age_counts_from=clock.read() - timedelta(hours=settings.MAX_SESSION_DURATION_HOURS, seconds=1)
    )
    assert upkeep.sweep().closed_sessions == 1


def test_a_session_that_ended_while_the_clock_was_wrong_is_kept_for_its_days(clock, settings):
    settings.RETENTION_DAYS = 30
    ended = clock.open()
    AudioSession.objects.filter(pk=ended.session.pk).close(at=clock.read())
    clock.beat()
    clock.set(days=60)
    clock.beat()
    assert upkeep.run_chore("retention").deleted_sessions == 0
    clock.let_pass(days=31)
    AudioSession.objects.update(age_counts_from=clock.read() - timedelta(days=31))
    assert upkeep.run_chore("retention").deleted_sessions == 1


def test_a_sweep_that_comes_before_every_heartbeat_deletes_nothing_either(clock, settings):
    settings.RETENTION_DAYS = 30
    upkeep.sweep()
    clock.let_pass(hours=3)
    clock.beat()
    upkeep.sweep()
    ended, live = clock.open(), clock.open()
    AudioSession.objects.filter(pk=ended.session.pk).close(at=clock.read())
    clock.let_pass(minutes=5)
    clock.set(days=60)
    assert upkeep.run_chore("retention").deleted_sessions == 0
    upkeep.sweep()
    assert AudioSession.objects.get(pk=live.session.pk).status == "active"
    clock.let_pass(days=29)
    assert upkeep.run_chore("retention").deleted_sessions == 0
    clock.let_pass(days=2)
    assert upkeep.run_chore("retention").deleted_sessions == 1


def test_a_session_whose_times_contradict_each_other_is_not_deleted(clock, settings):
    settings.RETENTION_DAYS = 30
    key = clock.open().session.pk
    AudioSession.objects.filter(pk=key).close(at=clock.read() - timedelta(days=31))
    assert upkeep.run_chore("retention").deleted_sessions == 0
    AudioSession.objects.filter(pk=key).update(start_time=clock.read() - timedelta(days=32))
    assert upkeep.run_chore("retention").deleted_sessions == 1


def test_a_clock_put_back_for_a_moment_closes_nothing_by_a_host_that_did_not_see_it(clock, settings, monkeypatch):
    def sweep_of(host):
        monkeypatch.setattr("audio.upkeep.clock.socket.gethostname", lambda: host)
        return upkeep.sweep()

    live, dropped = clock.open(), clock.open()
    for host in ("one", "other"):
        sweep_of(host)
    clock.set(days=-30)
    sessions.remove_connection(dropped.connection_id)
    sweep_of("one")
    assert AudioSession.objects.filter(age_counts_from__lt=F("start_time")).count() == 2
    clock.set(days=30)
    assert sweep_of("other").closed_sessions == 0
    assert {one.status for one in AudioSession.objects.all()} == {"active"}
    clock.beat(live)
    # The grace begins now, and ends.
    upkeep.run_chore("connections")
    clock.let_pass(seconds=settings.DISCONNECT_GRACE_SECONDS + 1)
    IngestProcess.objects.update(ready_at=clock.read() - timedelta(days=1))
    clock.beat(live)
    assert sweep_of("other").closed_sessions == 1
    assert AudioSession.objects.get(pk=live.session.pk).status == "active"


def test_who_closes_a_session_takes_the_databases_time(clock, monkeypatch):
    """The closing host is behind by a month; with SQLite there is one host, whose clock is the database's."""
    from django.db import connection

    if connection.vendor == "postgresql":
        real = timezone.now
        monkeypatch.setattr(timezone, "now", lambda: real() - timedelta(days=31))
    before = clock.read()
    key = clock.open().session.pk
    ingest.close_session(key)
    assert before <= AudioSession.objects.get(pk=key).end_time <= clock.read()


def test_a_machine_that_only_stood_still_is_no_clock_that_was_set(monkeypatch):
    seconds = iter([100.0, 100.0, 4000.0, 4000.5, 4005.0, 4005.0])
    now = timezone.now()
    times = iter([now, now + timedelta(seconds=3900), now + timedelta(seconds=3905, days=1)])
    monkeypatch.setattr("audio.ingest.clock.steady_seconds", lambda: next(seconds))
    monkeypatch.setattr("audio.ingest.clock.database_time", lambda: next(times))
    watch = ClockWatch()
    assert [watch.read()[1] is not None for _ in range(3)] == [False, False, True]


def test_chores_and_work_go_on_although_the_clock_was_put_back(clock):
    for _ in range(6):
        upkeep.sweep()
    session = clock.open().session
    ingest.close_session(session.pk)
    AudioSession.objects.update(total_chunks=1)
    Recording.objects.update(updated_at=clock.read())
    clock.set(days=-3)
    asked = Chore.objects.filter(due_at__gt=clock.read() + timedelta(days=1)).count()
    for _ in range(6):
        upkeep.sweep()
    assert asked > 0
    assert not Chore.objects.filter(due_at__gt=clock.read() + timedelta(days=1)).exists()
    upkeep.run_chore("connections")
    clock.let_pass(seconds=31)
    assert upkeep.sweep().requested_recordings == 1


def test_the_chunks_of_a_recording_made_while_the_clock_was_wrong_are_kept(clock, recorded, settings):
    settings.JOURNAL_KEEP_DAYS = 30
    producer = recorded.open()
    recorded.store(producer, *PAYLOADS)
    ingest.close_session(producer.session_id)
    concatenate(producer.session_id)
    recorded.committer.stop()
    clock.beat()
    clock.set(days=60)
    clock.beat()
    JournalFile.objects.update(created_at=clock.read() - timedelta(days=60))
    assert upkeep.run_chore("journals").removed_journals == 0
    assert AudioChunk.objects.filter(journal__removed_at=None).count() == len(PAYLOADS)
