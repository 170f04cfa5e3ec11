"""The web server's process: its limits, and that a stop settles every connection before it closes it."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from sercuescribe.server import MAX_FRAMES, PING_INTERVAL_SECONDS, PONG_SECONDS, Protocol
from tests.client import Rest, recorder
from tests.server import DEADLINE_SECONDS, Server, eventually, is_running, migrated
from tests.services import REPOSITORY

CHUNK = bytes(3200)
FLAC = b"fLaC" + bytes(60)


def rest_of(websocket) -> tuple[list[dict], int]:
    """The messages that still come, and the close code."""
    messages = []
    while True:
        try:
            messages.append(json.loads(websocket.recv(timeout=DEADLINE_SECONDS)))
        except ConnectionClosed as closed:
            return messages, closed.rcvd.code if closed.rcvd else 1006


def stored_chunks(server: Server, session_id: str) -> int:
    with closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        query = "SELECT total_chunks FROM audio_audiosession WHERE id = ?"
        return int(database.execute(query, [session_id.replace("-", "")]).fetchone()[0])


def test_a_stop_acknowledges_what_is_stored_and_closes_with_1012(run_server):
    server = run_server(COMMIT_GATHER_MS="1000")  # long enough that the stop finds chunks in flight
    with connect(f"{server.ws_url}/api/ws/audio", max_queue=None) as websocket:
        session_id = json.loads(websocket.recv())["session_id"]
        for _ in range(50):
            websocket.send(CHUNK)
        assert websocket.ping().wait(DEADLINE_SECONDS)  # the server has read what came before
        server.process.send_signal(signal.SIGTERM)
        messages, code = rest_of(websocket)
    assert code == 1012
    assert server.wait() == 0
    assert {message["message"] for message in messages} == {"Chunk processed successfully"}
    counts = [message["chunk_count"] for message in messages]
    assert counts == list(range(1, stored_chunks(server, session_id) + 1))


def test_a_stop_closes_idle_connections_with_1012(server):
    with connect(f"{server.ws_url}/api/ws/audio") as websocket:
        websocket.recv()
        server.process.send_signal(signal.SIGTERM)
        assert rest_of(websocket) == ([], 1012)
    assert server.wait() == 0


def test_a_stop_does_not_wait_for_a_client_that_answers_nothing(server):
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(
            b"GET /api/ws/audio HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert client.recv(12) == b"HTTP/1.1 101"
        assert server.stop() == 0
    assert "process_killed" not in server.read_log()


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /api/ws/audio?user_id=" + 9000 * "a", "", b"414"),
        ("GET /api/ws/audio", "Cookie: " + 9000 * "a" + "\r\n", b"431"),
        ("GET /api/ws/audio", 200 * "X-Many: a\r\n", b"431"),
    ],
    ids=["line", "header", "headers"],
)
def test_a_handshake_that_can_not_be_read_is_rejected(server, request_line, headers, status):
    upgrade = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), DEADLINE_SECONDS) as client:
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        client.sendall(f"{request_line} HTTP/1.1\r\n{upgrade}{key}{headers}\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.split(b" ")[1] == status


def test_a_message_over_the_limit_gets_1009(run_server):
    server = run_server(MAX_MESSAGE_SIZE_BYTES="4096")
    with connect(f"{server.ws_url}/api/ws/audio") as websocket:
        websocket.recv()
        websocket.send(bytes(4097))
        assert rest_of(websocket) == ([], 1009)


def test_a_message_of_endless_frames_gets_1009(server):
    with connect(f"{server.ws_url}/api/ws/audio") as websocket:
        websocket.recv()
        websocket.send(itertools.repeat(b"", MAX_FRAMES))
        assert rest_of(websocket) == ([], 1009)


def test_answers_to_pings_that_nobody_reads_take_no_memory(server):
    web = server.child("web")
    address = urlsplit(server.url)
    pings = Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 8000
    with socket.create_connection((address.hostname, address.port), timeout=DEADLINE_SECONDS) as client:
        client.sendall(
            b"GET /api/ws/audio HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 101")
        before = web.memory_info().rss
        for _ in range(64):
            client.sendall(pings)
        assert web.memory_info().rss - before < 24 << 20
        # The newest is answered as soon as the client reads.
        client.sendall(Frame(Opcode.PING, b"the last one").serialize(mask=True))
        seen = b""
        while b"the last one" not in seen:
            seen = seen[-100:] + client.recv(1 << 16)
            assert seen


def frames_of(payload: bytes, noise: random.Random) -> list[bytes]:
    """A message as a client may send it: whole, in fragments, with a longer head than needed, or with pings between."""
    match noise.randrange(6):
        case 0 if len(payload) > 2:
            at = noise.randrange(1, len(payload))
            ping = Frame(Opcode.PING, b"?").serialize(mask=True)
            first = Frame(Opcode.BINARY, payload[:at], fin=False).serialize(mask=True)
            return [first, ping, Frame(Opcode.CONT, payload[at:]).serialize(mask=True)]
        case 1 if len(payload) < 126:
            # RFC 6455 wants the shortest head. The library takes this one.
            return [b"\x82\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload]
        case 2:
            return [Frame(Opcode.PING, bytes(20)).serialize(mask=True), whole(payload)]
        case _:
            return [whole(payload)]


def whole(payload: bytes) -> bytes:
    return Frame(Opcode.BINARY, payload).serialize(mask=True)


@pytest.mark.parametrize("seed", range(4))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(server, seed):
    """With seed 0 each read of the server is exactly one message, as it usually is."""
    noise = random.Random(seed)
    sizes = [2, 124, 126, 128, 3200, 3200, 3200, 65534, 65536, 65538]
    payloads = [noise.randbytes(noise.choice(sizes)) for _ in range(60)]
    address = urlsplit(server.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=DEADLINE_SECONDS) as client,
        client.makefile("rb") as received,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(
            b"GET /api/ws/audio?format=wav&chunks=stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while received.readline() != b"\r\n":
            pass
        session_id = json.loads(next_text(received))["session_id"]
        for count, payload in enumerate(payloads, 1):
            data = b"".join(frames_of(payload, noise)) if seed > 1 else whole(payload)
            cuts = sorted(noise.choices(range(len(data)), k=noise.randrange(4))) if seed > 1 else []
            for start, end in itertools.pairwise([0, *cuts, len(data)]):
                client.sendall(data[start:end])
            if seed == 0 or noise.random() < 0.5 or count == len(payloads):
                answered(received, count)
        client.sendall(Frame(Opcode.TEXT, b'{"type": "control", "action": "close_session"}').serialize(mask=True))
        assert json.loads(next_text(received))["status"] == "completed"
    rest = Rest(server.url).http
    for sequence in range(1, len(payloads) + 1):
        found = rest.get(f"/api/audio/sessions/{session_id}/chunks/{sequence}").content
        assert found == payloads[sequence - 1], sequence


def next_text(received) -> bytes:
    """The next text of the server. Its pongs are passed over."""
    while True:
        head = received.read(2)
        size = head[1] if head[1] < 126 else int.from_bytes(received.read(2), "big")
        payload = received.read(size)
        if head[0] == 0x81:
            return payload


def answered(received, count: int) -> None:
    """Read up to the acknowledgement with this count."""
    while True:
        answer = json.loads(next_text(received))
        assert answer.get("message") == "Chunk processed successfully", answer
        if answer["chunk_count"] == count:
            return


def test_messages_are_not_compressed(server):
    with connect(f"{server.ws_url}/api/ws/audio") as websocket:
        assert websocket.protocol.extensions == []


@pytest.fixture
def environment(tmp_path):
    return migrated(tmp_path / "data")


def test_it_serves_without_the_supervisor_on_a_socket_that_it_inherits(environment):
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener, open(reader) as reports:
        options = ["--fd", str(listener.fileno()), "--ready-fd", str(writer)]
        process = subprocess.Popen(
            [sys.executable, "-m", "sercuescribe.server", *options],
            cwd=REPOSITORY,
            env=environment,
            pass_fds=[listener.fileno(), writer],
        )
        os.close(writer)
        try:
            assert reports.read() == "ready\n"
            with connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/api/ws/audio") as websocket:
                assert json.loads(websocket.recv())["message"] == "Audio session created"
                process.terminate()
                assert rest_of(websocket) == ([], 1012)
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)


def test_it_serves_without_the_supervisor_on_an_address(environment):
    with subprocess.Popen(
        [sys.executable, "-m", "sercuescribe.server", "--host", "127.0.0.1", "--port", "0"],
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            found = (re.search(r"server_listening address=127\.0\.0\.1:(\d+)", line) for line in process.stderr)
            port = next(match[1] for match in found if match)
            with connect(f"ws://127.0.0.1:{port}/api/ws/audio") as websocket:
                assert json.loads(websocket.recv())["message"] == "Audio session created"
            # As a proxy with TLS on the same host says it.
            created = httpx.post(f"http://127.0.0.1:{port}/api/audio/sessions", headers={"X-Forwarded-Proto": "https"})
            assert created.json()["websocket_url"].startswith("wss://")
        finally:
            process.terminate()


def test_an_address_in_use_is_one_sentence(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "sercuescribe.server", "--port", port],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"Can't listen on 127.0.0.1 port {port}: Address already in use")


# Several processes on one socket


class Processes:
    """`python -m sercuescribe.server --workers 2` on a free port."""

    def __init__(self, environment: dict[str, str]) -> None:
        reader, writer = os.pipe()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            options = ["--workers", "2", "--fd", str(listener.fileno()), "--ready-fd", str(writer)]
            self.parent = subprocess.Popen(
                [sys.executable, "-m", "sercuescribe.server", *options],
                cwd=REPOSITORY,
                env=environment,
                pass_fds=[listener.fileno(), writer],
            )
            self.url = f"ws://127.0.0.1:{listener.getsockname()[1]}/api/ws/audio"
        os.close(writer)
        with open(reader) as reports:
            assert reports.read() == "ready\n"

    def children(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.parent.pid).children() if is_running(child)]

    @contextmanager
    def connected_to(self, child: psutil.Process):
        """A connection that this child has taken, because the others are asleep meanwhile, and its session's id."""
        with ExitStack() as others_sleep, ExitStack() as connection:
            for other in self.children():
                if other != child:
                    other.suspend()
                    others_sleep.callback(other.resume)
            websocket = connection.enter_context(connect(self.url, max_queue=None))
            session_id = json.loads(websocket.recv(timeout=DEADLINE_SECONDS))["session_id"]
            others_sleep.close()
            yield websocket, session_id


@pytest.fixture
def processes(tmp_path, postgres_url):
    # Not on SQLite: a process that is put to sleep there may hold the lock that all writers wait for.
    running = Processes(migrated(tmp_path / "data", DATABASE_URL=postgres_url, COMMIT_GATHER_MS="1000"))
    left = running.children()
    yield running
    running.parent.kill()
    running.parent.wait(DEADLINE_SECONDS)
    eventually(lambda: not any(is_running(child) for child in left))


def total_chunks(postgres_url: str, session_id: str) -> int:
    with psycopg.connect(postgres_url) as database:
        row = database.execute("SELECT total_chunks FROM audio_audiosession WHERE id = %s", [session_id]).fetchone()
        assert row is not None
        return int(row[0])


def test_a_killed_process_of_several_comes_back_and_a_stop_settles_all_of_them(processes, postgres_url):
    first, second = processes.children()
    with processes.connected_to(first) as (lost, _), processes.connected_to(second) as (kept, session_id):
        first.kill()
        assert rest_of(lost) == ([], 1006)
        kept.send(CHUNK)
        assert json.loads(kept.recv(timeout=DEADLINE_SECONDS))["chunk_count"] == 1
        (third,) = eventually(lambda: [child for child in processes.children() if child.pid != second.pid])
        with connect(f"{processes.url}/{session_id}") as back, processes.connected_to(third) as (new, new_id):
            assert json.loads(back.recv(timeout=DEADLINE_SECONDS))["chunk_count"] == 1
            for _ in range(20):
                kept.send(CHUNK)
                new.send(CHUNK)
            processes.parent.terminate()
            for websocket, key, before in ((kept, session_id, 1), (new, new_id, 0)):
                messages, code = rest_of(websocket)
                assert code == 1012
                counts = [message["chunk_count"] for message in messages]
                assert counts == list(range(before + 1, before + 1 + len(counts)))
                assert before + len(counts) == total_chunks(postgres_url, key)
            assert rest_of(back) == ([], 1012)
    assert processes.parent.wait(DEADLINE_SECONDS) == 0
    assert not is_running(second) and not is_running(third)


def test_a_killed_parent_takes_its_processes_along(processes):
    children = processes.children()
    assert len(children) == 2
    processes.parent.kill()
    eventually(lambda: not any(is_running(child) for child in children))


def test_serve_runs_as_many_web_processes_as_it_is_told(run_server):
    server = run_server(WEB_PROCESSES="2")
    with connect(f"{server.ws_url}/api/ws/audio") as websocket:
        websocket.recv()
        assert len(server.commands("sercuescribe.server")) == 2
        server.process.send_signal(signal.SIGTERM)
        assert rest_of(websocket) == ([], 1012)
    assert server.wait() == 0


# Clients that say nothing


async def test_a_client_that_the_network_lost_gives_its_place_to_the_next(server):
    """Its kernel takes what is sent and answers nothing; the stream that comes back can't name a source."""
    async with recorder(server.ws_url, format="flac") as lost:
        await lost.store(FLAC)
        lost.socket.transport.pause_reading()
        async with recorder(server.ws_url, lost.session_id) as early:
            assert early.greeting["code"] == "one_source_only"
            assert early.greeting["retryable"] is True
            assert early.greeting["retry_after_seconds"] > 0
        await asyncio.sleep(early.greeting["retry_after_seconds"])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await is_greeted(server, lost.session_id):  # noqa: ASYNC110 - nobody tells when it is forgotten
                await asyncio.sleep(1)
        lost.socket.transport.abort()


async def is_greeted(server, session_id: str) -> bool:
    async with recorder(server.ws_url, session_id) as again:
        return "error" not in again.greeting


async def test_a_client_that_reads_slowly_is_not_given_up(server):
    """Its pongs come behind answers that it has not read yet, for longer than a silent client gets."""
    async with recorder(server.ws_url) as client:
        client.socket.transport.pause_reading()
        loop = asyncio.get_running_loop()
        until = loop.time() + PING_INTERVAL_SECONDS + 2 * PONG_SECONDS
        sent = 0
        while loop.time() < until:
            await client.send(b"ab")
            sent += 1
            await asyncio.sleep(1)
        client.socket.transport.resume_reading()
        assert [answer["chunk_count"] for answer in await client.answers(sent)] == list(range(1, sent + 1))


SILENT = [b"", b"GET /health HTTP/1.1\r\nHost: 127", b"POST /api/audio/sessions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]


def test_a_request_that_does_not_arrive_is_given_up(server):
    address = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((address.hostname, address.port))) for _ in SILENT]
        for client, said in zip(clients, SILENT, strict=True):
            client.sendall(said)
        for client in clients:
            client.settimeout(DEADLINE_SECONDS)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""


def test_silent_clients_shut_out_nobody(make_server):
    """As many as there are descriptors, and they stay; what is not whole may take a part of them only."""
    server = make_server()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    address = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(socket.create_connection((address.hostname, address.port)))
            with contextlib.suppress(OSError):
                client.sendall(SILENT[number % len(SILENT)])
        assert httpx.get(f"{server.url}/api/audio/sessions", timeout=DEADLINE_SECONDS).status_code == 200
        with connect(f"{server.ws_url}/api/ws/audio") as websocket:
            assert "error" not in json.loads(websocket.recv())


def test_an_answer_within_the_millisecond_of_the_ping_is_a_sign_of_life():
    """The event loop's clock counts milliseconds, and a client on the same machine answers faster."""
    scheduled = []
    connection = SimpleNamespace(
        _heard_at=5.0, ping_sent_at=5.0, read_paused=False, pong_timer=1, schedule_ping=lambda: scheduled.append(1)
    )
    Protocol.keepalive_timeout(cast(Any, connection))
    assert (scheduled, connection.pong_timer) == ([1], None)
