"""The life of sessions in a real database, also when two want the same thing at once."""

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from audio import dispatch
from audio.access.tickets import TICKET_SECONDS
from audio.errors import (
    InvalidSessionIdError,
    OneSourceOnlyError,
    ParameterConflictError,
    SessionClosedError,
    SessionNotFoundError,
    SupersededError,
    TooManyConnectionsError,
    TooManySessionsError,
)
from audio.ingest import sessions
from audio.ingest.committer import Committer, Delivery
from audio.ingest.pending import Append
from audio.ingest.types import Accepted
from audio.models import AudioConnection, AudioSession, AudioSource, IngestProcess
from audio.wire.parameters import ConnectionRequest
from tests.broker import requests_for
from tests.server import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

# Enough of them that two threads without a lock meet in the gap at least once.
ROUNDS = 10


@pytest.fixture
def process_id():
    return IngestProcess.objects.create(host="host", pid=1).pk


@pytest.fixture
def connect(process_id):
    """Opens a connection: `connect(session_id, source="mic", format="mp3")`."""

    def open_one(session_id: uuid.UUID | None = None, source: str | None = None, **named: Any) -> sessions.Opened:
        return sessions.open_connection(ConnectionRequest(named, source=source), session_id, process_id)

    return open_one


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Runs each function in a thread of its own, all at once; returns what they returned or raised."""
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait()
            return function()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(functions)) as threads:
        futures = [threads.submit(run, function) for function in functions]
    return [future.exception() or future.result() for future in futures]


def stored(session_id: uuid.UUID) -> AudioSession:
    return AudioSession.objects.select_related("recording").get(pk=session_id)


def test_opening_makes_a_session_a_source_a_connection_and_an_empty_recording(connect):
    opened = connect(sample_rate=48000, channels=2)
    session = stored(opened.session.pk)
    assert (session.status, session.sample_rate, session.channels, session.format) == ("active", 48000, 2, "wav")
    assert session.recording.state == "empty"
    assert session.dropped_at is None
    assert not opened.resumed
    assert list(session.open_connections.values_list("pk", flat=True)) == [opened.connection_id]
    assert (opened.source.name, opened.producer.epoch, opened.producer.number) == ("", None, 0)


def test_unnamed_connections_share_a_source_and_supersede_nobody(connect):
    first = connect()
    second = connect(first.session.pk)
    assert second.resumed
    assert (second.source.pk, second.producer.epoch) == (first.source.pk, None)
    assert stored(first.session.pk).open_connections.count() == 2
    assert AudioSource.objects.get().epoch == 0


def test_a_name_is_taken_over_by_its_newest_connection(connect, settings):
    """Its older row goes, so that a client that reconnects never runs into the limit with its own ghost."""
    settings.MAX_CONNECTIONS_PER_SESSION = 2
    first = connect(source="mic")
    other = connect(first.session.pk, source="desk")
    AudioSource.objects.filter(pk=first.source.pk).update(chunk_count=7)
    for epoch in (2, 3, 4):
        again = connect(first.session.pk, source="mic")
        assert (again.source.pk, again.producer.epoch, again.producer.number) == (first.source.pk, epoch, 7)
        rows = AudioConnection.objects.filter(session=first.session)
        assert set(rows.values_list("pk", "epoch")) == {(other.connection_id, 1), (again.connection_id, epoch)}
    with pytest.raises(TooManyConnectionsError) as caught:
        connect(first.session.pk, source="third")
    assert caught.value.details == {"limit": 2, "retry_after_seconds": 5}


def test_a_rejected_connection_leaves_everything_as_it_was(connect, settings):
    settings.MAX_CONNECTIONS_PER_SESSION = 1
    opened = connect(source="mic", sample_rate=8000)
    for request in ({"source": "other"}, {}, {"source": "mic", "sample_rate": 96000}):
        with pytest.raises((TooManyConnectionsError, ParameterConflictError)):
            connect(opened.session.pk, **request)
    assert list(AudioSource.objects.values_list("name", "epoch")) == [("mic", 1)]
    assert AudioConnection.objects.get().pk == opened.connection_id


def test_a_compressed_stream_takes_one_source_but_the_same_one_again(connect):
    opened = connect(source="mic", format="mp3")
    with pytest.raises(OneSourceOnlyError):
        connect(opened.session.pk, source="other")
    assert connect(opened.session.pk, source="mic").producer.epoch == 2
    files = connect(format="mp3", chunks="files")
    assert connect(files.session.pk).resumed


def test_the_limit_of_connections_frees_with_a_release(connect, settings):
    settings.MAX_CONNECTIONS_PER_SESSION = 2
    first = connect()
    second = connect(first.session.pk)
    with pytest.raises(TooManyConnectionsError):
        connect(first.session.pk)
    sessions.remove_connection(second.connection_id)
    assert connect(first.session.pk).resumed


def test_the_last_free_place_in_a_session_goes_to_one_of_two(connect, settings):
    settings.MAX_CONNECTIONS_PER_SESSION = 2
    for _ in range(ROUNDS):
        session_id = connect().session.pk
        results = at_once(lambda: connect(session_id), lambda: connect(session_id))  # noqa: B023 - run here
        assert sorted(type(result).__name__ for result in results) == ["Opened", "TooManyConnectionsError"]
        assert stored(session_id).open_connections.count() == 2


def test_the_last_free_session_goes_to_one_of_two(connect, settings):
    for number in range(ROUNDS):
        settings.MAX_CONCURRENT_SESSIONS = number + 1
        results = at_once(connect, lambda: sessions.create_session(sessions.default_parameters()))
        rejected = [result for result in results if isinstance(result, TooManySessionsError)]
        assert len(rejected) == 1, results
        assert AudioSession.objects.count() == number + 1


def test_two_that_open_one_name_at_once_are_not_both_current(connect):
    for _ in range(ROUNDS):
        session_id = connect().session.pk
        results = at_once(*[lambda: connect(session_id, source="mic")] * 2)  # noqa: B023 - run here
        assert sorted(result.producer.epoch for result in results) == [1, 2]
        newest = max(results, key=lambda result: result.producer.epoch)
        named = AudioConnection.objects.filter(session_id=session_id, source__name="mic")
        assert named.get().pk == newest.connection_id


def test_the_limit_of_sessions_counts_open_ones_and_lets_them_go_on(connect, settings):
    settings.MAX_CONCURRENT_SESSIONS = 2
    first = connect()
    second = sessions.create_session(sessions.default_parameters())
    sessions.pause_session(second.pk)
    for rejected in (connect, lambda: sessions.create_session(sessions.default_parameters())):
        with pytest.raises(TooManySessionsError) as caught:
            rejected()
        assert caught.value.details == {"limit": 2}
    assert connect(second.pk).resumed
    sessions.close_session(first.session.pk)
    assert not connect().resumed


def test_a_session_made_over_rest_counts_as_dropped_when_its_ticket_ends(connect):
    before = timezone.now()
    session = sessions.create_session(sessions.default_parameters(), user_id="clinic-7")
    after = timezone.now()
    assert before <= stored(session.pk).dropped_at - timedelta(seconds=TICKET_SECONDS) <= after
    assert connect(session.pk).session.user_id == "clinic-7"
    assert stored(session.pk).dropped_at is None


def test_a_session_is_dropped_when_its_last_connection_goes(connect):
    first = connect()
    second = connect(first.session.pk)
    sessions.remove_connection(first.connection_id)
    assert stored(first.session.pk).dropped_at is None
    before = timezone.now()
    sessions.remove_connection(second.connection_id)
    dropped_at = stored(first.session.pk).dropped_at
    assert before <= dropped_at <= timezone.now()
    sessions.remove_connection(second.connection_id)
    assert stored(first.session.pk).dropped_at == dropped_at
    connect(first.session.pk)
    assert stored(first.session.pk).dropped_at is None


def test_the_end_of_a_superseded_connection_drops_nothing(connect):
    old = connect(source="mic")
    connect(old.session.pk, source="mic")
    sessions.remove_connection(old.connection_id)
    assert stored(old.session.pk).dropped_at is None


def test_two_last_connections_that_end_at_once_leave_the_session_dropped(connect):
    for _ in range(ROUNDS):
        first = connect()
        second = connect(first.session.pk)
        ended = [first.connection_id, second.connection_id]
        assert at_once(*[lambda key=key: sessions.remove_connection(key) for key in ended]) == [None, None]
        assert stored(first.session.pk).dropped_at is not None


def test_a_closed_session_is_not_dropped(connect):
    opened = connect()
    sessions.close_session(opened.session.pk)
    sessions.remove_connection(opened.connection_id)
    session = stored(opened.session.pk)
    assert (session.status, session.dropped_at, session.open_connections.count()) == ("completed", None, 0)


def test_a_dead_process_takes_only_its_own_connections(connect, process_id):
    other = IngestProcess.objects.create(host="other", pid=2)
    alone, shared = connect(), connect()
    elsewhere = sessions.open_connection(ConnectionRequest({}), shared.session.pk, other.pk)
    assert sessions.remove_process(process_id)
    assert stored(alone.session.pk).dropped_at is not None
    assert stored(shared.session.pk).dropped_at is None
    assert AudioConnection.objects.get().pk == elsewhere.connection_id
    assert IngestProcess.objects.get() == other
    assert not sessions.remove_process(process_id)


@pytest.mark.parametrize("function", [sessions.close_session, sessions.pause_session, sessions.resume_session])
def test_a_superseded_connection_changes_nothing(connect, function):
    old = connect(source="mic")
    if function is sessions.resume_session:
        sessions.pause_session(old.session.pk, producer=old.producer)
    before = stored(old.session.pk).status
    new = connect(old.session.pk, source="mic")
    with pytest.raises(SupersededError):
        function(old.session.pk, producer=old.producer)
    assert stored(old.session.pk).status == before
    assert requests_for(old.session.pk) == []
    function(old.session.pk, producer=new.producer)
    function(old.session.pk, producer=connect().producer)


def test_what_the_media_decide_is_decided_once(connect):
    opened = connect(channels=2)
    assert opened.session.undecided == ["format", "sample_rate"]
    assert opened.producer.description["undecided"] == ["format", "sample_rate"]
    query = AudioSession.objects.filter(pk=opened.session.pk)
    assert (query.decide(channels=1), query.decide(format="webm"), query.decide(format="mp4")) == (0, 1, 0)
    assert (query.decide(sample_rate=37800), query.decide(sample_rate=8000)) == (1, 0)
    session = stored(opened.session.pk)
    assert (session.format, session.sample_rate, session.channels) == ("webm", 37800, 2)
    assert session.undecided == []


def test_each_session_of_a_query_is_decided_by_itself(connect):
    one, two = connect(format="mp3"), connect()
    assert AudioSession.objects.all().decide(format="flac") == 1
    assert (stored(one.session.pk).format, stored(two.session.pk).format) == ("mp3", "flac")


def test_of_two_that_decide_at_once_one_does_and_the_other_is_told(connect):
    for _ in range(ROUNDS):
        first = connect(chunks="files")
        second = connect(first.session.pk)
        results = at_once(
            lambda: sessions.decide_format(first.session.pk, first.connection_id, "webm"),  # noqa: B023 - run here
            lambda: sessions.decide_format(first.session.pk, second.connection_id, "mp4"),  # noqa: B023 - run here
        )
        assert {result.format for result in results} == {stored(first.session.pk).format}


def test_a_second_source_of_what_has_become_one_stream_is_rejected(connect):
    first = connect()
    second = connect(first.session.pk)
    assert sessions.decide_format(first.session.pk, first.connection_id, "webm").format == "webm"
    with pytest.raises(OneSourceOnlyError):
        sessions.decide_format(first.session.pk, second.connection_id, "webm")
    with pytest.raises(OneSourceOnlyError):
        connect(first.session.pk)
    sessions.remove_connection(first.connection_id)
    assert sessions.decide_format(first.session.pk, second.connection_id, "wav").format == "webm"


def test_the_format_of_a_session_that_was_deleted_meanwhile(connect):
    opened = connect()
    AudioSession.objects.all().delete()
    with pytest.raises(SessionNotFoundError):
        sessions.decide_format(opened.session.pk, opened.connection_id, "webm")


def test_naming_what_is_undecided_decides_it(connect):
    first = connect(chunks="files")
    second = connect(first.session.pk, sample_rate=24000, format="ogg", chunks="files")
    assert (second.session.undecided, second.session.sample_rate) == (["channels"], 24000)
    for wrong in ({"sample_rate": 8000}, {"format": "webm"}, {"chunks": "auto"}):
        with pytest.raises(ParameterConflictError):
            connect(first.session.pk, **wrong)
    assert stored(first.session.pk).format == "ogg"


def test_closing_is_final_asks_once_for_the_recording_and_may_be_repeated(connect):
    session_id = connect().session.pk
    closed = sessions.close_session(session_id)
    assert closed.status == "completed"
    assert closed.start_time <= closed.end_time <= timezone.now()
    assert sessions.close_session(session_id).end_time == closed.end_time
    assert requests_for(session_id) == [dispatch.CONCATENATE]
    with pytest.raises(SessionClosedError) as caught:
        connect(session_id)
    assert caught.value.details == {"status": "completed"}


def test_a_close_that_is_rolled_back_asks_for_nothing(connect):
    session_id = connect().session.pk
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert sessions.close_if(session_id, Q())
        raise ZeroDivisionError
    assert stored(session_id).is_open
    assert requests_for(session_id) == []


def test_a_close_whose_condition_holds_no_more_does_nothing(connect):
    session_id = connect().session.pk
    assert not sessions.close_if(session_id, Q(dropped_at__isnull=False))
    assert stored(session_id).is_open
    assert requests_for(session_id) == []


def test_one_of_two_that_close_at_once_asks_for_the_recording(connect):
    for _ in range(ROUNDS):
        session_id = connect().session.pk
        results = at_once(*[lambda: sessions.close_if(session_id, Q())] * 2)  # noqa: B023 - run here
        assert sorted(results) == [False, True]
        assert requests_for(session_id) == [dispatch.CONCATENATE]


def test_pausing_and_resuming_may_be_repeated_until_the_close(connect):
    session_id = connect().session.pk
    for _ in range(2):
        sessions.pause_session(session_id)
        assert stored(session_id).status == "paused"
    assert connect(session_id).session.status == "paused"
    for _ in range(2):
        sessions.resume_session(session_id)
        assert stored(session_id).status == "active"
    sessions.pause_session(session_id)
    assert sessions.close_session(session_id).status == "completed"
    for change in (sessions.pause_session, sessions.resume_session):
        with pytest.raises(SessionClosedError):
            change(session_id)
    assert stored(session_id).status == "completed"


@pytest.mark.parametrize("function", [sessions.close_session, sessions.pause_session, sessions.resume_session])
def test_a_session_that_does_not_exist(function):
    with pytest.raises(SessionNotFoundError):
        function(uuid.uuid4())


def test_continuing_a_session_that_does_not_exist(connect):
    unknown = uuid.uuid4()
    with pytest.raises(SessionNotFoundError) as caught:
        connect(unknown)
    assert caught.value.details == {"received": str(unknown)}


@pytest.mark.parametrize("text", ["", "1", "not-a-uuid", "g" * 32, "\0", "x" * 5000])
def test_an_id_that_is_no_uuid(text):
    with pytest.raises(InvalidSessionIdError) as caught:
        sessions.parse_session_id(text)
    assert len(caught.value.details["received"]) <= 64


def test_a_close_amid_commits_fixes_the_count(connect, tmp_path):
    """What was committed before the close is counted, nothing is after it, and every chunk has its answer."""
    opened = connect()
    delivered: list[Delivery] = []
    committer = Committer(tmp_path, uuid.uuid4(), delivered.extend, gather_seconds=0.0, journal_file_size_bytes=1 << 20)
    committer.start()
    submitted, enough = itertools.count(1), threading.Event()

    def submit() -> None:
        while not enough.is_set():
            committer.submit(Append(opened.producer, b"x" * 100, 0, None))
            room = next(submitted) - 50
            eventually(partial(lambda room: len(delivered) > room, room))

    thread = threading.Thread(target=submit)
    thread.start()
    eventually(lambda: len(delivered) >= 100)
    final = sessions.close_session(opened.session.pk).total_chunks
    eventually(lambda: delivered and isinstance(delivered[-1][1], SessionClosedError))
    enough.set()
    thread.join()
    committer.stop()
    accepted = [outcome.sequence for _, outcome in delivered if isinstance(outcome, Accepted)]
    rejected = [outcome for _, outcome in delivered[len(accepted) :]]
    assert len(delivered) == next(submitted) - 1
    assert accepted == list(range(1, final + 1))
    assert all(isinstance(outcome, SessionClosedError) for outcome in rejected)
    session = stored(opened.session.pk)
    assert (session.total_chunks, session.byte_count, session.chunks.count()) == (final, 100 * final, final)


@pytest.mark.parametrize(
    ("status", "transition", "after"),
    [
        ("active", "pause", "paused"),
        ("active", "resume", None),
        ("active", "close", "completed"),
        ("paused", "pause", None),
        ("paused", "resume", "active"),
        ("paused", "close", "completed"),
        *(("completed", name, None) for name in ("pause", "resume", "close")),
    ],
)
def test_every_transition_from_every_state(status, transition, after):
    """`after` is the state that it leads to, None where it is not allowed and moves nothing."""
    session = AudioSession.objects.create(sample_rate=8000, channels=1, format="wav", status=status)
    moved = getattr(AudioSession.objects.filter(pk=session.pk), transition)()
    session.refresh_from_db()
    assert (moved, session.status) == ((1, after) if after else (0, status))
    assert (session.end_time is not None) == (after == "completed")


def test_of_two_transitions_at_once_one_moves_the_session():
    for _ in range(ROUNDS):
        row = AudioSession.objects.create(sample_rate=8000, channels=1, format="wav")
        query = AudioSession.objects.filter(pk=row.pk)
        assert sorted(at_once(query.close, query.close)) == [0, 1]
