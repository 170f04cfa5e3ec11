"""The committer with a real journal and a real database, and with the faults that a machine can have.

What `test_an_outcome_leaves_only_after_sync_and_commit` shows: at the moment an outcome is delivered, the journal
was synced up to the end of the chunk and the row is visible to another connection. It fails when the fdatasync or
the transaction is taken out or comes later. It can't show that the disk keeps what it confirmed.
"""

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from audio.errors import (
    AudioError,
    DatabaseUnavailableError,
    JournalFailedError,
    SessionClosedError,
    SessionPausedError,
    StorageFullError,
    SupersededError,
)
from audio.ingest import commit
from audio.ingest.committer import Committer, Delivery
from audio.ingest.pending import Append
from audio.ingest.types import Accepted, Outcome, Producer
from audio.journal.files import Extent, JournalReader, scan
from audio.journal.records import RecordType, parse_commit, parse_session, parse_void
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile
from tests.server import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def make_session(**fields: Any) -> AudioSession:
    return AudioSession.objects.create(sample_rate=16000, channels=1, format="wav", **fields)


def make_producer(session: AudioSession, name: str = "") -> Producer:
    source, _ = AudioSource.objects.get_or_create(session=session, name=name)
    if name:
        source.epoch += 1
        source.save()
    return Producer(
        session.pk, source.pk, source.epoch if name else None, session.project_id, {"format": "wav", "source": name}
    )


@dataclass
class Run:
    """A committer on a folder, and what it delivered."""

    root: Any
    size_bytes: int = 1 << 20
    gather_seconds: float = 0.0
    check: Callable[[list[Delivery]], None] = lambda delivered: None
    process_id: uuid.UUID = field(default_factory=uuid.uuid4)
    delivered: list[tuple[Append, Outcome]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.committer = Committer(self.root, self.process_id, self._deliver, self.gather_seconds, self.size_bytes)

    def _deliver(self, delivered: list[Delivery]) -> None:
        self.check(delivered)
        self.delivered.extend(delivered)

    def submit(self, producer: Producer, *payloads: bytes) -> None:
        for payload in payloads:
            self.committer.submit(Append(producer, payload, time.time_ns() // 1000, None))

    def outcomes(self, count: int) -> list[Outcome]:
        eventually(lambda: len(self.delivered) >= count)
        return [outcome for _, outcome in self.delivered]

    def store(self, producer: Producer, *payloads: bytes) -> list[Outcome]:
        before = len(self.delivered)
        self.submit(producer, *payloads)
        return self.outcomes(before + len(payloads))[before:]


@pytest.fixture
def run(tmp_path):
    runs: list[Run] = []

    def start(**options: Any) -> Run:
        made = Run(tmp_path, **options)
        runs.append(made)
        made.committer.start()
        return made

    yield start
    for each in runs:
        each.committer.stop()


def payloads_of(session: AudioSession, root) -> list[bytes]:
    rows = AudioChunk.objects.filter(session=session).values_list("journal__name", "offset", "size_bytes", "crc32")
    with JournalReader(root) as reader:
        return [reader.read(Extent(*row)) for row in rows]


def records(root) -> list:
    return [record for path in sorted(root.glob("journals/*/*.journal")) for record in scan(path)]


def test_chunks_get_places_rows_and_counters(run, tmp_path):
    session = make_session()
    committer = run()
    assert committer.store(make_producer(session, "mic"), b"one", b"two", b"three") == [
        Accepted(1, 1),
        Accepted(2, 2),
        Accepted(3, 3),
    ]
    session.refresh_from_db()
    assert (session.total_chunks, session.byte_count) == (3, 11)
    assert payloads_of(session, tmp_path) == [b"one", b"two", b"three"]
    chunk = AudioChunk.objects.get(session=session, sequence=2)
    assert abs(chunk.received_at.timestamp() - time.time()) < 60
    assert chunk.source.name == "mic"


def test_a_rejected_chunk_of_a_named_source_is_a_wall(run):
    session = make_session()
    committer, mic, unnamed = run(), make_producer(session, "mic"), make_producer(session)
    assert committer.store(mic, b"1") == [Accepted(1, 1)]
    AudioSession.objects.filter(pk=session.pk).pause()
    assert [type(outcome) for outcome in committer.store(mic, b"2", b"3")] == [SessionPausedError] * 2
    assert [type(outcome) for outcome in committer.store(unnamed, b"x")] == [SessionPausedError]
    AudioSession.objects.filter(pk=session.pk).resume()
    assert [type(outcome) for outcome in committer.store(mic, b"4")] == [SessionPausedError]
    assert committer.store(unnamed, b"y") == [Accepted(2, 0)]
    mic.rejection = None
    assert committer.store(mic, b"2", b"3") == [Accepted(3, 2), Accepted(4, 3)]


def test_an_outcome_leaves_only_after_sync_and_commit(run, tmp_path, monkeypatch):
    synced: dict[str, int] = {}
    real_sync = os.fdatasync

    def observed_sync(handle: int) -> None:
        real_sync(handle)
        synced[os.readlink(f"/proc/self/fd/{handle}")] = os.fstat(handle).st_size

    monkeypatch.setattr(os, "fdatasync", observed_sync)
    wrong: list[str] = []

    def look(delivered: list[Delivery]) -> None:
        visible: list[tuple] = []
        other = threading.Thread(target=lambda: visible.extend(_rows_seen_by_another_connection()))
        other.start()
        other.join()
        ends = {(key, sequence): (name, offset) for key, sequence, name, offset in visible}
        for append, outcome in delivered:
            place = ends.get((append.producer.session_id, outcome.sequence))
            if place is None:
                wrong.append(f"delivered before the row was committed: {outcome}")
            elif synced.get(str(tmp_path / place[0]), 0) < place[1] + 64 + len(append.payload):
                wrong.append(f"delivered before the journal was synced: {outcome}")

    committer = run(check=look)
    producers = [make_producer(make_session()) for _ in range(3)]
    for number in range(20):
        for producer in producers:
            committer.submit(producer, b"x" * number)
    committer.outcomes(60)
    assert wrong == []


def _rows_seen_by_another_connection() -> list[tuple]:
    try:
        return list(AudioChunk.objects.values_list("session_id", "sequence", "journal__name", "offset"))
    finally:
        connection.close()


def test_a_batch_costs_one_write_one_sync_and_one_transaction(run, monkeypatch):
    calls: list[str] = []
    for name in ("writev", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))
    producers = [make_producer(make_session()) for _ in range(20)]
    committer = run(gather_seconds=0.0)
    committer.store(producers[0], b"warm")
    calls.clear()
    appends = [Append(producer, b"x" * 100, 0, None) for producer in producers for _ in range(5)]
    for append in appends[:-1]:
        committer.committer._pending.add(append)  # the committer waits to be told
    committer.committer.submit(appends[-1])
    committer.outcomes(101)
    assert calls == ["writev", "fdatasync"]


def test_two_processes_give_one_session_dense_places(run, tmp_path):
    session = make_session()
    producer = make_producer(session)
    first, second = run(), run()
    for number in range(100):
        (first if number % 2 else second).submit(producer, str(number).encode())
    outcomes = first.outcomes(50) + second.outcomes(50)
    assert sorted(o.sequence for o in outcomes) == list(range(1, 101))
    assert sorted(payloads_of(session, tmp_path)) == sorted(str(number).encode() for number in range(100))


def test_closed_paused_and_superseded_are_rejected_and_voided(run, tmp_path):
    closed, paused, taken = make_session(status="completed"), make_session(status="paused"), make_session()
    old = make_producer(taken, "mic")
    new = make_producer(taken, "mic")
    committer = run()
    outcomes = [*committer.store(make_producer(closed), b"a"), *committer.store(make_producer(paused), b"b")]
    outcomes += committer.store(old, b"c")
    assert [type(outcome) for outcome in outcomes] == [SessionClosedError, SessionPausedError, SupersededError]
    assert committer.store(new, b"d") == [Accepted(1, 1)]
    committer.committer.stop()
    chunks = {record.offset for record in records(tmp_path) if record.header.type is RecordType.CHUNK}
    voided = {o for r in records(tmp_path) if r.header.type is RecordType.VOID for o in parse_void(r.payload)}
    kept = {e.offset for r in records(tmp_path) if r.header.type is RecordType.COMMIT for e in parse_commit(r.payload)}
    assert len(voided) == 3
    assert voided | kept == chunks
    assert kept == {AudioChunk.objects.get().offset}


def test_a_paused_producer_may_go_on_a_failed_one_may_not(run):
    session = make_session(status="paused")
    producer = make_producer(session)
    committer = run()
    committer.store(producer, b"a")
    AudioSession.objects.resume()
    assert committer.store(producer, b"b") == [Accepted(1, 0)]
    AudioSession.objects.close()
    committer.store(producer, b"c")
    AudioSession.objects.update(status="active")
    (outcome,) = committer.store(producer, b"d")
    assert isinstance(outcome, SessionClosedError)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EIO, JournalFailedError), (errno.ENOSPC, StorageFullError), (errno.EDQUOT, StorageFullError)],
)
def test_after_a_failed_sync_the_file_is_given_up(run, tmp_path, monkeypatch, number, expected):
    """The failed batch is rejected, its producer stores nothing more, and others go on in another file."""
    broken, healthy = make_producer(make_session()), make_producer(make_session())
    committer = run()
    assert committer.store(broken, b"before") == [Accepted(1, 0)]
    real = os.fdatasync

    def fail_once(handle: int) -> None:
        monkeypatch.setattr(os, "fdatasync", real)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fdatasync", fail_once)
    (outcome,) = committer.store(broken, b"lost")
    assert isinstance(outcome, expected)
    (outcome,) = committer.store(broken, b"after the hole")
    assert isinstance(outcome, expected)
    assert committer.store(healthy, b"other") == [Accepted(1, 0)]
    names = list(AudioChunk.objects.order_by("pk").values_list("journal__name", flat=True))
    assert len(set(names)) == 2
    assert AudioChunk.objects.count() == 2


def test_a_short_write_is_a_full_disk(run, monkeypatch, tmp_path):
    producer = make_producer(make_session())
    committer = run()
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda handle, buffers: real(handle, [b"".join(buffers)[:10]]))
    (outcome,) = committer.store(producer, b"x" * 100)
    assert isinstance(outcome, StorageFullError)
    assert AudioChunk.objects.count() == 0
    # The full disk is not left with what nobody will read.
    assert [path.stat().st_size for path in tmp_path.rglob("*.journal")] == [0]


def test_a_commit_whose_answer_was_lost_is_not_repeated(run, tmp_path, monkeypatch):
    """The transaction commits, and the connection breaks before it says so."""
    session = make_session()
    producer = make_producer(session, "mic")
    committer = run()
    real = transaction.Atomic.__exit__
    lost = iter([True])

    def commit_then_break(self: Any, *exception: Any) -> Any:
        done = real(self, *exception)
        if threading.current_thread().name == "committer" and next(lost, False):
            raise OperationalError("the connection broke")
        return done

    committer.store(producer, b"first")
    monkeypatch.setattr(transaction.Atomic, "__exit__", commit_then_break)
    assert [o.sequence for o in committer.store(producer, b"second", b"third")] == [2, 3]
    session.refresh_from_db()
    assert (session.total_chunks, AudioSource.objects.get(session=session).chunk_count) == (3, 3)
    assert payloads_of(session, tmp_path) == [b"first", b"second", b"third"]


def test_a_database_that_stays_away_rejects_and_the_next_batch_goes_on(run, monkeypatch):
    monkeypatch.setattr(commit, "_RETRY_SECONDS", 0.3)
    first, second = make_producer(make_session()), make_producer(make_session())
    committer = run()
    committer.store(first, b"before")
    real = commit._Transaction.run

    def away(self: Any, look_for_own_rows: bool) -> Any:
        raise OperationalError("no route to host")

    monkeypatch.setattr(commit._Transaction, "run", away)
    (outcome,) = committer.store(first, b"lost")
    assert isinstance(outcome, DatabaseUnavailableError)
    monkeypatch.setattr(commit._Transaction, "run", real)
    assert committer.store(second, b"other") == [Accepted(1, 0)]
    (outcome,) = committer.store(first, b"after the hole")
    assert isinstance(outcome, AudioError)


def test_a_connection_that_the_server_ends_is_replaced(run):
    """PostgreSQL ends the committer's backend; SQLite has no server that could, there the connection is closed."""
    producer = make_producer(make_session())
    committer = run()
    committer.store(producer, b"a")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
    assert committer.store(producer, b"b") == [Accepted(2, 0)]


def test_journals_roll_by_size_and_describe_their_sessions(run, tmp_path):
    session = make_session()
    producer = make_producer(session, "mic")
    committer = run(size_bytes=10_000)
    for _ in range(12):
        committer.store(producer, b"x" * 2000)
    committer.committer.stop()
    paths = sorted(tmp_path.glob("journals/*/*.journal"))
    assert len(paths) == JournalFile.objects.count() == 3
    for path in paths:
        found = list(scan(path))
        (description,) = [r for r in found if r.header.type is RecordType.SESSION]
        assert (description.header.session_id, parse_session(description.payload)["source"]) == (session.pk, "mic")
        committed = [e for r in found if r.header.type is RecordType.COMMIT for e in parse_commit(r.payload)]
        rows = AudioChunk.objects.filter(journal__name=str(path.relative_to(tmp_path)))
        assert {(e.offset, e.sequence) for e in committed} == set(rows.values_list("offset", "sequence"))


def test_stopping_commits_what_is_pending(run):
    producer = make_producer(make_session())
    committer = run(gather_seconds=0.05)
    committer.submit(producer, *[b"x"] * 100)
    committer.committer.stop()
    assert len(committer.delivered) == AudioChunk.objects.count() == 100
