"""Acknowledged means durable, and resuming is exact: real servers, killed with SIGKILL and started again.

What these tests can show: nothing acknowledged is lost when any or all processes are killed at any moment, on
SQLite and on PostgreSQL. What they can't: SIGKILL leaves the kernel's page cache alone, so a missing fdatasync
of the journal would not be noticed here. That is what `tests/ingest/test_committer.py` looks at, where the order
of write, sync, transaction and acknowledgement is observed; and no test on one machine can show that a disk
tells the truth about its cache.
"""

import asyncio
import contextlib
import json
import random
import socket
import wave
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import Server, eventually

CLIENTS = 10
FRAMES_PER_CHUNK = 1600
DROPPED = (ConnectionClosed, ConnectionError, EOFError, InvalidMessage, TimeoutError)


def chunk(client: int, number: int) -> bytes:
    """A chunk that says whose it is and which: PCM that no other chunk of the run has."""
    return random.Random(client << 32 | number).randbytes(2 * FRAMES_PER_CHUNK)


def samples(recording: bytes) -> bytes:
    with wave.open(BytesIO(recording)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 1, 2)
        return file.readframes(file.getnframes())


class StreamingClient:
    """Streams numbered chunks until the connection breaks, and notes what was acknowledged."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.session_id = ""
        self.acknowledged = 0
        self.sent = 0

    async def stream(self, ws_url: str) -> None:
        with contextlib.suppress(*DROPPED):
            async with recorder(ws_url, source=f"client-{self.number}") as client:
                self.session_id = client.session_id
                reader = asyncio.create_task(self._read(client))
                try:
                    while True:
                        self.sent += 1
                        await client.send(chunk(self.number, self.sent))
                        await asyncio.sleep(0.002)
                finally:
                    await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, client) -> None:
        while True:
            self.acknowledged = (await client.answer())["chunk_count"]


async def _stream_until_killed(server, clients: list[StreamingClient], least: int) -> None:
    tasks = [asyncio.create_task(client.stream(server.ws_url)) for client in clients]
    await asyncio.to_thread(eventually, lambda: min(client.acknowledged for client in clients) >= least)
    await asyncio.to_thread(server.kill_all)
    await asyncio.gather(*tasks)


async def test_kill_9_of_everything_loses_no_acknowledged_chunk(run_server: RunServer, any_database_url):
    server = run_server(DATABASE_URL=any_database_url, DISCONNECT_GRACE_SECONDS="600")
    clients = [StreamingClient(number) for number in range(CLIENTS)]
    await _stream_until_killed(server, clients, least=50)
    server.start()
    rest = Rest(server.url)
    for client in clients:
        assert rest.http.post(f"/api/audio/sessions/{client.session_id}/close").status_code == 200
    for client in clients:
        recorded = samples(await asyncio.to_thread(rest.download, client.session_id))
        stored = rest.session(client.session_id)["total_chunks"]
        assert client.acknowledged <= stored <= client.sent
        assert recorded == b"".join(chunk(client.number, number) for number in range(1, stored + 1))


async def test_a_named_source_goes_on_exactly_after_kill_9(run_server: RunServer, any_database_url):
    """The client follows the contract: it drops what the greeting counts and sends the rest."""
    server = run_server(DATABASE_URL=any_database_url)
    clients = [StreamingClient(number) for number in range(3)]
    await _stream_until_killed(server, clients, least=20)
    server.start()
    rest = Rest(server.url)
    for client in clients:
        async with recorder(server.ws_url, client.session_id, source=f"client-{client.number}") as again:
            assert again.greeting["message"] == "Audio session resumed"
            stored = again.greeting["source_chunk_count"]
            assert client.acknowledged <= stored <= client.sent
            last = client.sent + 25
            counts = await again.store(*[chunk(client.number, number) for number in range(stored + 1, last + 1)])
            assert counts == list(range(stored + 1, last + 1))
            await again.close_session()
        recorded = samples(await asyncio.to_thread(rest.download, client.session_id))
        assert recorded == b"".join(chunk(client.number, number) for number in range(1, last + 1))


@pytest.mark.parametrize("role", ["web", "worker", "redis"])
async def test_kill_9_of_one_process_loses_nothing(run_server: RunServer, role):
    server = run_server()
    rest = Rest(server.url)
    sent = stored = 0
    session_id = None
    killed = False
    while stored < 400:
        with contextlib.suppress(*DROPPED):
            async with recorder(server.ws_url, session_id, source="mic") as client:
                session_id = client.session_id
                stored = client.greeting["source_chunk_count"]
                while stored < 400:
                    sent = stored + 1
                    (stored,) = await client.store(chunk(1, sent))
                    if stored >= 150 and not killed:
                        killed = True
                        server.child(role).kill()
                answer = await client.close_session()
                assert answer["chunk_count"] == 400
    recorded = samples(await asyncio.to_thread(rest.download, session_id))
    assert recorded == b"".join(chunk(1, number) for number in range(1, 401))


async def test_a_dropped_session_is_closed_after_its_grace_and_recorded(run_server: RunServer):
    server = run_server(DISCONNECT_GRACE_SECONDS="1", SWEEP_INTERVAL_SECONDS="0.2")
    async with recorder(server.ws_url) as client:
        await client.store(*[chunk(1, number) for number in range(1, 11)])
    detail = await asyncio.to_thread(Rest(server.url).finished, client.session_id)
    assert (detail["status"], detail["recording"]["state"]) == ("completed", "ready")
    assert detail["duration_seconds"] == pytest.approx(FRAMES_PER_CHUNK * 10 / 44100)


async def test_a_session_dropped_by_a_crash_is_closed_after_the_restart(run_server: RunServer, any_database_url):
    server = run_server(DISCONNECT_GRACE_SECONDS="1", SWEEP_INTERVAL_SECONDS="0.2", DATABASE_URL=any_database_url)
    client = StreamingClient(1)
    await _stream_until_killed(server, [client], least=20)
    server.start()
    rest = Rest(server.url)
    recorded = samples(await asyncio.to_thread(rest.download, client.session_id))
    assert rest.session(client.session_id)["status"] == "completed"
    stored = rest.session(client.session_id)["total_chunks"]
    assert stored >= client.acknowledged
    assert recorded == b"".join(chunk(1, number) for number in range(1, stored + 1))


async def test_the_grace_begins_when_a_restarted_server_is_ready(run_server: RunServer):
    """A drop that is older than the grace by the clock, but with no server to reconnect to, closes nothing."""
    server = run_server(DISCONNECT_GRACE_SECONDS="20", SWEEP_INTERVAL_SECONDS="0.2")
    async with recorder(server.ws_url, source="mic") as client:
        await client.store(chunk(1, 1))
    server.stop()
    # The passing of time is what is tested: a drop that is older than the grace.
    await asyncio.sleep(21)
    server.restart()
    async with recorder(server.ws_url, client.session_id, source="mic") as again:
        assert again.greeting["source_chunk_count"] == 1
        assert await again.store(chunk(1, 2)) == [2]


async def test_an_idle_connection_is_closed_with_4408(run_server: RunServer):
    server = run_server(CONNECTION_TIMEOUT_SECONDS="1")
    async with recorder(server.ws_url) as client:
        answer = await client.answer()
        assert (answer["code"], answer["limit"]) == ("idle_timeout", 1)
        assert await client.close_code() == 4408


@contextlib.asynccontextmanager
async def deaf(server: Server) -> AsyncIterator[tuple[ClientConnection, str]]:
    """A client that has sent, and never read, until the server stopped reading; and its session."""
    small = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        small.setsockopt(socket.SOL_SOCKET, buffer, 4096)
    async with connect(f"{server.ws_url}/api/ws/audio", sock=small, max_queue=1, compression=None) as client:
        session_id = json.loads(await client.recv())["session_id"]
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            while True:
                async with asyncio.timeout(10):
                    await client.send(b"ab")
        try:
            yield client, session_id
        finally:
            # A farewell would wait for the server to read.
            client.transport.abort()


def has_left(server: Server, session_id: str) -> bool:
    return Rest(server.url).session(session_id)["connections"] == 0


def has_socket(server: Server, client: ClientConnection) -> bool:
    """Whether one of the server's processes has the other end of the client's connection."""
    ends = [each.raddr for process in server.processes() for each in process.net_connections("tcp")]
    return client.local_address in ends


async def test_a_client_that_takes_no_answers_does_not_keep_its_place(run_server: RunServer):
    """Idle, and deaf to being told so."""
    server = run_server(CONNECTION_TIMEOUT_SECONDS="1")
    async with deaf(server) as (client, session_id):
        await asyncio.to_thread(eventually, lambda: has_left(server, session_id))
        # Nor does it keep a socket, and in the server's memory what it did not read.
        await asyncio.to_thread(eventually, lambda: not has_socket(server, client))


async def test_a_client_that_takes_no_answers_and_drops_leaves_at_once(run_server: RunServer):
    """More answers wait than the server keeps, so it has stopped reading: it has to notice the drop all the same."""
    server = run_server()
    async with deaf(server) as (client, session_id):
        assert has_socket(server, client)
        client.transport.abort()
    await asyncio.to_thread(eventually, lambda: has_left(server, session_id))


async def test_a_stopping_server_answers_what_is_in_flight_and_says_reconnect(run_server: RunServer):
    server = run_server()
    async with recorder(server.ws_url, source="mic") as client:
        await client.store(chunk(1, 1))
        await client.send(*[chunk(1, number) for number in range(2, 202)])
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        acknowledged = 1
        with contextlib.suppress(ConnectionClosed):
            while True:
                acknowledged = (await client.answer())["chunk_count"]
        assert client.socket.close_code in (1001, 1012)
        assert await stopping == 0
    server.restart()
    async with recorder(server.ws_url, client.session_id, source="mic") as again:
        assert again.greeting["source_chunk_count"] == acknowledged
