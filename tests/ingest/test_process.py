"""The ingest of a process on a real event loop, with a real database and a real Redis.

The connections are `tests.ingest.live.Client`, which has no socket. The last test uses a real server.
"""

import asyncio
import os
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Sequence

import psutil
import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from audio import dispatch, events, upkeep
from audio.access import ANYONE
from audio.errors import DatabaseUnavailableError, LimitReachedError
from audio.ingest import connections as live_connections
from audio.ingest import heartbeat, process, sessions, windows
from audio.ingest.openings import Opening
from audio.ingest.process import Ingest
from audio.ingest.sessions import Opened
from audio.ingest.types import Accepted
from audio.models import (
    DEFAULT_PROJECT_ID,
    AudioChunk,
    AudioConnection,
    AudioSession,
    AudioSource,
    IngestProcess,
    Project,
)
from audio.wire.parameters import ConnectionRequest
from tests.broker import requests_for, shown_for
from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.ingest.live import Client, after_heartbeats, deafen, listeners, until
from tests.server import DEADLINE_SECONDS, eventually

pytestmark = [pytest.mark.database]
with_rows = pytest.mark.django_db(transaction=True)


def open_elsewhere(session_id: uuid.UUID, source: str) -> sessions.Opened:
    """Another process opens a connection."""
    other = IngestProcess.objects.create(host="other", pid=1)
    return sessions.open_connection(ConnectionRequest({}, source=source), session_id, other.pk)


@with_rows
async def test_a_process_is_registered_and_says_that_it_lives(ingest):
    row = await ingest.run(IngestProcess.objects.get)
    assert (row.pk, row.pid) == (ingest.process_id, os.getpid())
    await after_heartbeats(ingest)
    later = await ingest.run(IngestProcess.objects.get)
    assert later.heartbeat_at > row.heartbeat_at
    assert later.ready_at == row.ready_at


@with_rows
async def test_a_close_elsewhere_is_heard_at_once(ingest, connect, settings):
    settings.HEARTBEAT_SECONDS = 3600
    await after_heartbeats(ingest, 1)  # the wait that had begun before
    client, bystander = await connect(), await connect()
    await until(listeners)
    await ingest.run(sessions.close_session, client.producer.session_id)
    await until(lambda: client.told)
    assert (client.told, bystander.told) == (["closed"], [])


@with_rows
async def test_a_take_over_elsewhere_is_heard_at_once(ingest, connect, settings):
    settings.HEARTBEAT_SECONDS = 3600
    await after_heartbeats(ingest, 1)
    old = await connect(source="mic")
    bystanders = [await connect(old.producer.session_id, source="desk"), await connect(old.producer.session_id)]
    await until(listeners)
    opened = await ingest.run(open_elsewhere, old.producer.session_id, "mic")
    await events.source_superseded(opened.source.pk, opened.source.epoch)
    await until(lambda: old.told)
    assert (old.told, [each.told for each in bystanders]) == (["superseded"], [[], []])


@with_rows
async def test_a_close_that_the_channel_layer_lost_is_found_in_the_database(ingest, connect):
    client, bystander = await connect(), await connect()
    await deafen()
    await ingest.run(sessions.close_session, client.producer.session_id)
    await until(lambda: client.told)
    await after_heartbeats(ingest)
    assert set(client.told) == {"closed"}
    assert bystander.told == []


@with_rows
async def test_a_take_over_that_the_channel_layer_lost_is_found_in_the_database(ingest, connect):
    old = await connect(source="mic")
    bystander = await connect(old.producer.session_id, source="desk")
    await deafen()
    await ingest.run(open_elsewhere, old.producer.session_id, "mic")
    await until(lambda: old.told)
    assert set(old.told) == {"superseded"}
    assert bystander.told == []


@with_rows
async def test_without_a_channel_layer_sessions_open_close_and_are_found_closed(settings, tmp_path, ingest, connect):
    """Redis is away: the ingest takes chunks all the same, and a close reaches it by the database."""
    nowhere = {"hosts": [f"unix://{tmp_path}/redis.sock"], "prefix": "sercuescribe"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": nowhere}}
    second = Ingest()
    await second.started()
    opened = await second.run(sessions.open_connection, ConnectionRequest({}), None, second.process_id)
    client = Client(second, opened)
    second.add(client)
    client.send(b"abcd")
    await until(lambda: client.outcomes == [Accepted(1, 0)])
    await second.run(sessions.close_session, opened.session.pk)
    await until(lambda: client.told)
    assert set(client.told) == {"closed"}
    await second.drain()


@with_rows
async def test_a_process_that_was_taken_for_dead_puts_its_connections_back(ingest, connect):
    named, unnamed, taken = await connect(source="mic"), await connect(), await connect(source="mic")
    await deafen()
    await ingest.run(_take_for_dead, taken.producer.session_id)
    await until(lambda: taken.told)
    await after_heartbeats(ingest)
    assert (named.told, unnamed.told, set(taken.told)) == ([], [], {"superseded"})
    rows = await ingest.run(_connections_of, ingest.process_id)
    assert rows == {
        (named.connection_id, named.producer.session_id, 1),
        (unnamed.connection_id, unnamed.producer.session_id, 0),
    }
    named.send(b"ab")
    await until(lambda: named.outcomes)
    assert named.outcomes == [Accepted(1, 1)]


@with_rows
async def test_sessions_of_a_process_that_was_taken_for_dead_are_dropped_no_more(ingest, connect, settings):
    settings.DISCONNECT_GRACE_SECONDS = 0
    await connect()
    await deafen()
    await ingest.run(upkeep.forget_dead_processes)
    await after_heartbeats(ingest)
    swept = await ingest.run(upkeep.sweep)
    assert swept.closed_sessions == 0
    assert (await ingest.run(AudioSession.objects.get)).dropped_at is None


@with_rows
async def test_a_close_while_it_was_taken_for_dead_is_found(ingest, connect):
    client = await connect()
    await deafen()

    def forget_and_close() -> None:
        upkeep.forget_dead_processes()
        sessions.close_session(client.producer.session_id)

    await ingest.run(forget_and_close)
    await until(lambda: client.told)
    assert set(client.told) == {"closed"}


def _take_for_dead(taken_session: uuid.UUID) -> None:
    """What other hosts do to a process that is silent for too long: its rows go, and a source is taken over."""
    upkeep.forget_dead_processes()
    other = IngestProcess.objects.create(host="other", pid=1)
    sessions.open_connection(ConnectionRequest({}, source="mic"), taken_session, other.pk)


def _connections_of(process_id: uuid.UUID) -> set[tuple]:
    return set(AudioConnection.objects.filter(process_id=process_id).values_list("pk", "session_id", "epoch"))


@with_rows
async def test_an_ended_connection_leaves_no_row_and_a_dropped_session(ingest, connect):
    client = await connect()
    await ingest.remove(client)
    await ingest.remove(client)
    assert await ingest.run(_connections_of, ingest.process_id) == set()
    assert (await ingest.run(AudioSession.objects.get)).dropped_at is not None
    await after_heartbeats(ingest)
    assert client.told == []


@with_rows
async def test_a_connection_whose_opening_failed_after_its_commit_leaves_no_row(ingest, connect, monkeypatch):
    """Whoever waited for the outcome got an error, and no connection."""
    monkeypatch.setattr(heartbeat, "_STRAY_SECONDS", 0.0)
    client = await connect()
    opened = await ingest.run(sessions.open_connection, ConnectionRequest({}), None, ingest.process_id)
    await after_heartbeats(ingest)
    assert {key for key, *_ in await ingest.run(_connections_of, ingest.process_id)} == {client.connection_id}
    lost = await ingest.run(lambda: AudioSession.objects.get(pk=opened.session.pk))
    assert lost.dropped_at is not None
    assert client.told == []


@with_rows
async def test_a_row_that_is_young_is_no_stray(ingest, connect):
    """Its connection may be on its way to the event loop: the answer to its commit is late."""
    await connect()
    opened = await ingest.run(sessions.open_connection, ConnectionRequest({}), None, ingest.process_id)
    await after_heartbeats(ingest)
    assert opened.connection_id in {key for key, *_ in await ingest.run(_connections_of, ingest.process_id)}


@with_rows
async def test_a_connection_whose_row_is_missing_gets_it_back(ingest, connect):
    named, unnamed = await connect(source="mic"), await connect()
    closed, deleted = await connect(), await connect(source="mic")
    await deafen()

    def lose_rows() -> None:
        sessions.close_session(closed.producer.session_id)
        with transaction.atomic():
            # The session's row first, as everybody locks.
            AudioSession.objects.select_for_update().get(pk=deleted.producer.session_id).delete()
        # Last, because a heartbeat may come at any time and restores the rows of open sessions.
        AudioConnection.objects.all().delete()

    await ingest.run(lose_rows)
    await until(lambda: closed.told and deleted.told)
    await after_heartbeats(ingest)
    assert [named.told, unnamed.told, set(closed.told), set(deleted.told)] == [[], [], {"closed"}, {"deleted"}]
    rows = await ingest.run(_connections_of, ingest.process_id)
    assert {key for key, *_ in rows} == {named.connection_id, unnamed.connection_id}


@with_rows
async def test_a_warning_is_heard_by_the_connections_of_its_session(ingest, connect):
    first, bystander = await connect(source="one"), await connect()
    second = await connect(first.producer.session_id, source="two")
    await until(listeners)
    warning = {"code": "undecodable_chunk", "detail": "why", "first_sequence": 1, "last_sequence": 1}
    await ingest.run(events.recording_warned, first.producer.session_id, warning)
    await until(lambda: first.told and second.told)
    assert (first.told, second.told, bystander.told) == (["undecodable_chunk"], ["undecodable_chunk"], [])


@with_rows
async def test_a_redis_that_hangs_holds_up_no_opening(settings, ingest, connect, monkeypatch):
    monkeypatch.setattr(events, "_SEND_SECONDS", DEADLINE_SECONDS)
    first = await connect(source="mic")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [address]}}
        settings.CHANNEL_LAYERS = {"default": layer}
        second = await connect(first.producer.session_id, source="mic")
        second.send(b"ab")
        await until(lambda: second.outcomes)
        assert second.outcomes == [Accepted(1, 1)]
        await until(lambda: first.told)
        await ingest.drain()


@with_rows
async def test_a_connection_that_ends_while_the_database_is_away_leaves_no_row_either(ingest, connect, monkeypatch):
    client = await connect()
    remove, failures = sessions.remove_connections, []

    def away_at_first(connection_ids: Sequence[int]) -> list[None]:
        if not failures:
            failures.append(connection_ids)
            raise OperationalError("away")
        return remove(connection_ids)

    monkeypatch.setattr(sessions, "remove_connections", away_at_first)
    await ingest.remove(client)
    assert failures == [[client.connection_id]]
    await after_heartbeats(ingest)
    assert await ingest.run(_connections_of, ingest.process_id) == set()
    assert (await ingest.run(AudioSession.objects.get)).dropped_at is not None


@with_rows
async def test_draining_answers_everything_then_signs_off(ingest, connect):
    clients = [await connect(source=f"mic-{number}") for number in range(5)]
    for number in range(200):
        for client in clients:
            client.send(b"x" * number)
    await ingest.drain()
    for client in clients:
        assert client.told == ["away"]
        assert client.outcomes == [Accepted(number, number) for number in range(1, 201)]
    assert ingest.in_flight_bytes == 0
    left = await asyncio.to_thread(_left_behind)
    assert left == {"processes": 0, "connections": 0, "dropped": 5, "chunks": 1000}


@with_rows
async def test_a_crowd_that_comes_and_goes_shares_transactions(ingest, connect, monkeypatch):
    commits: list[None] = []
    commit = BaseDatabaseWrapper._commit  # type: ignore[attr-defined]  # not in the stubs

    def counted(wrapper: BaseDatabaseWrapper) -> None:
        commits.append(None)
        commit(wrapper)

    await connect()
    openings = [Opening(ConnectionRequest({}), None, ANYONE, None, lambda: False) for _ in range(64)]
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", counted)
    opened = await asyncio.gather(*map(ingest.open, openings))
    crowd = [Client(ingest, each) for each in opened]
    for client in crowd:
        ingest.add(client)
    await asyncio.gather(*map(ingest.remove, crowd))
    # The first of a crowd does not wait for the others. Heartbeats commit too.
    assert len(commits) < 30
    assert await ingest.run(AudioSession.objects.filter(dropped_at__isnull=False).count) == 64


def _left_behind() -> dict[str, int]:
    try:
        return {
            "processes": IngestProcess.objects.count(),
            "connections": AudioConnection.objects.count(),
            "dropped": AudioSession.objects.filter(dropped_at__isnull=False).count(),
            "chunks": AudioChunk.objects.count(),
        }
    finally:
        connections.close_all()


@with_rows
async def test_a_client_that_never_leaves_does_not_hold_up_the_end(ingest, connect, monkeypatch):
    monkeypatch.setattr(process, "_DRAIN_SECONDS", 0.1)
    monkeypatch.setattr(Client, "wake", lambda self: None)
    stuck = await connect()
    stuck.send(b"ab")
    await ingest.drain()
    assert await asyncio.to_thread(_left_behind) == {"processes": 0, "connections": 0, "dropped": 1, "chunks": 1}


@with_rows
async def test_a_connection_that_comes_during_the_drain_is_sent_away(ingest, connect):
    first = await connect()
    first.wake = lambda: None
    ending = asyncio.create_task(ingest.drain())
    await until(lambda: first.told)
    late = await connect()
    assert late.told == ["away"]
    await ingest.remove(first)
    await ending


@with_rows
async def test_windows_are_asked_for_by_size(ingest, connect, settings):
    settings.WINDOW_SECONDS = 3600
    little, much = await connect(), await connect()
    little.send(b"x" * 1000)
    for _ in range(windows.DUE_BYTES // 65536):
        much.send(b"x" * 65536)
    await until(lambda: requests_for(much.producer.session_id))
    assert requests_for(much.producer.session_id) == [dispatch.CONCATENATE_LIVE]
    assert requests_for(little.producer.session_id) == []


@with_rows
async def test_windows_are_asked_for_by_age_and_once(ingest, connect, settings):
    settings.WINDOW_SECONDS = 0.1
    silent, first = await connect(), await connect()
    first.send(b"abcd")
    await until(lambda: requests_for(first.producer.session_id))
    second = await connect()
    second.send(b"abcd")
    await until(lambda: requests_for(second.producer.session_id))
    assert requests_for(first.producer.session_id) == [dispatch.CONCATENATE_LIVE]
    assert requests_for(silent.producer.session_id) == []


@with_rows
async def test_the_first_window_of_a_session_comes_early_and_the_next_one_when_it_is_old(
    ingest, connect, settings, monkeypatch
):
    monkeypatch.setattr(windows, "FIRST_WINDOW_SECONDS", 0.1)
    settings.WINDOW_SECONDS = 3600
    first, later = await connect(), await connect()
    session_id = first.producer.session_id
    first.send(b"abcd")
    await until(lambda: requests_for(session_id))
    first.send(b"abcd")
    await until(lambda: len(first.outcomes) == 2)
    # What came before it is looked at first.
    later.send(b"abcd")
    await until(lambda: requests_for(later.producer.session_id))
    assert requests_for(session_id) == [dispatch.CONCATENATE_LIVE]
    settings.WINDOW_SECONDS = 0.1
    await until(lambda: len(requests_for(session_id)) == 2)


@with_rows
async def test_a_session_that_is_continued_gets_a_first_window_again(ingest, connect, settings, monkeypatch):
    monkeypatch.setattr(windows, "FIRST_WINDOW_SECONDS", 0.1)
    settings.WINDOW_SECONDS = 3600
    first = await connect()
    session_id = first.producer.session_id
    first.send(b"abcd")
    await until(lambda: requests_for(session_id))
    await ingest.remove(first)
    second = await connect(session_id)
    second.send(b"abcd")
    await until(lambda: len(requests_for(session_id)) == 2)


@with_rows
async def test_a_crowd_shares_tasks_of_bounded_size(ingest, connect, settings, monkeypatch):
    monkeypatch.setattr(windows, "SESSIONS_PER_TASK", 2)
    settings.WINDOW_SECONDS = 0.1
    clients = [await connect() for _ in range(5)]
    for client in clients:
        client.send(b"abcd")
    await until(lambda: requests_for(clients[-1].producer.session_id))
    shown = {shown_for(client.producer.session_id)[0].split(" ")[0] for client in clients}
    assert shown == {"(2", "(1"}


@with_rows
async def test_the_limit_of_a_project_holds_in_a_crowd(ingest):
    """Sessions of projects with limits and without come in one batch."""

    def prepare() -> None:
        Project.objects.filter(pk=DEFAULT_PROJECT_ID).update(max_open_sessions=2)
        Project.objects.create(name="free")

    await ingest.run(prepare)

    def opening(project: str | None) -> Opening:
        return Opening(ConnectionRequest({}, project=project), None, ANYONE, None, lambda: False)

    names = (None, "free", None, None, "free", None)
    results = await asyncio.gather(*(ingest.open(opening(name)) for name in names), return_exceptions=True)
    kinds = Counter((name, type(result)) for name, result in zip(names, results, strict=True))
    assert kinds == {("free", Opened): 2, (None, Opened): 2, (None, LimitReachedError): 2}


@with_rows
async def test_rejected_chunks_ask_for_no_window(ingest, connect, settings):
    settings.WINDOW_SECONDS = 0.1
    closed, other = await connect(), await connect()
    await ingest.run(AudioSession.objects.filter(pk=closed.producer.session_id).close)
    closed.send(b"abcd")
    await until(lambda: closed.outcomes)
    other.send(b"abcd")
    await until(lambda: requests_for(other.producer.session_id))
    assert requests_for(closed.producer.session_id) == []


@with_rows
async def test_the_fuller_a_process_is_the_less_one_connection_may_have_in_flight(ingest, connect, monkeypatch):
    """Clients that send as fast as they can leave room for others, however many they are."""
    monkeypatch.setattr(live_connections, "PROCESS_MAX_IN_FLIGHT_BYTES", 1000)
    floods = [await connect() for _ in range(5)]
    for client in floods:
        client.send(b"x" * ingest.share_bytes)
    assert ingest.has_room
    assert 0 < ingest.share_bytes < 100
    await until(lambda: not ingest.in_flight_bytes)
    assert ingest.share_bytes == 250


@with_rows
async def test_a_full_process_has_room_again_when_chunks_have_outcomes(ingest, connect, monkeypatch):
    monkeypatch.setattr(live_connections, "PROCESS_MAX_IN_FLIGHT_BYTES", 1000)
    client = await connect()
    assert ingest.has_room
    client.send(b"x" * 1000)
    assert not ingest.has_room
    async with asyncio.timeout(DEADLINE_SECONDS):
        await ingest.room()
    assert ingest.in_flight_bytes == 0


@with_rows
async def test_a_failing_database_is_the_one_error_that_callers_see(ingest):
    def broken() -> None:
        AudioSource.objects.create(session_id=uuid.uuid4(), name=None)

    with pytest.raises(DatabaseUnavailableError):
        await ingest.run(broken)
    await after_heartbeats(ingest, 1)


async def test_a_close_over_rest_reaches_the_websocket_while_redis_is_away(run_server: RunServer):
    """The supervisor is stopped, so that it can't start another Redis: the heartbeat alone can bring the news."""
    server = run_server(HEARTBEAT_SECONDS="0.3")
    async with recorder(server.ws_url) as client:
        await client.store(b"ab")
        web, bundled = server.child("web"), server.child("redis")
        server.process.send_signal(signal.SIGSTOP)
        bundled.kill()
        await asyncio.to_thread(eventually, lambda: bundled.status() == psutil.STATUS_ZOMBIE)
        path = f"/api/audio/sessions/{client.session_id}/close"
        answer = await asyncio.to_thread(Rest(server.url).http.post, path)
        assert answer.status_code == 200
        assert (await client.answer())["status"] == "completed"
        assert await client.close_code() == 1000
        assert web.is_running()
    server.process.send_signal(signal.SIGCONT)
    eventually(lambda: server.child("redis"))
    assert server.stop() == 0
