"""A Redis that loses everything in the middle of it all costs a delay, and nothing else."""

import asyncio
import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import Server, eventually
from tests.services import REPOSITORY, free_port, redis_answers, redis_command

A_MINUTE_PASSES = """
from datetime import timedelta; from django.db.models import F; from audio.models import Recording
Recording.objects.update(updated_at=F("updated_at") - timedelta(minutes=1))
"""


def audio(number: int, part: int) -> bytes:
    return bytes([number, part]) * 1600


def queue(server: Server) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.folder / "redis" / "redis.sock"))


def everyone(server: Server) -> list[psutil.Process]:
    """The worker's processes."""
    worker = server.child("worker")
    return [worker, *worker.children(recursive=True)]


def lose_redis(server: Server) -> None:
    """Empties it, so that nothing is in its file either, and kills it."""
    with queue(server) as client:
        assert client.llen("celery") >= 3, "nothing there that could be lost"
        client.flushall()
    server.child("redis").kill()


def let_a_minute_pass(server: Server) -> None:
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", A_MINUTE_PASSES]
    subprocess.run(command, cwd=REPOSITORY, env=server.environment, check=True)


async def test_every_recording_is_made(run_server: RunServer, any_database_url):
    server = run_server(
        DATABASE_URL=any_database_url,
        WINDOW_SECONDS="0.2",
        DISCONNECT_GRACE_SECONDS="0.5",
        SWEEP_INTERVAL_SECONDS="0.2",
    )
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(recorder(server.ws_url, source="one")) for _ in range(6)]
        for number, client in enumerate(clients):
            assert await client.store(audio(number, 1)) == [1]
        stopped = everyone(server)
        for process in stopped:
            process.suspend()
        for client in clients[:3]:
            await client.close_session()
        await asyncio.to_thread(eventually, lambda: queue_length(server) >= 3)
        await asyncio.to_thread(lose_redis, server)
        for number, client in enumerate(clients[3:], 3):
            assert await client.store(audio(number, 2)) == [2]
        for client in clients[3:5]:
            await client.close_session()
        # The last one is closed by the sweep, after its connection is gone.
    for process in stopped:
        process.resume()
    rest = Rest(server.url)
    for client in clients:
        eventually(functools.partial(is_closed, rest, client.session_id))
    let_a_minute_pass(server)
    for number, client in enumerate(clients):
        expected = audio(number, 1) + (audio(number, 2) if number >= 3 else b"")
        assert rest.download(client.session_id).endswith(expected)
        assert rest.session(client.session_id)["total_chunks"] == len(expected) // 3200


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    """A Redis of the operator's own."""
    port = free_port()
    with subprocess.Popen(redis_command(tmp_path, port), stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: redis_answers(port))
            yield port
        finally:
            process.terminate()


async def test_it_records_while_redis_rejects_to_write(redis_port: int, run_server: RunServer):
    """It is out of memory; after a failover to a replica, or when its disk is full, it is the same."""
    port = redis_port
    server = run_server(REDIS_URL=f"redis://127.0.0.1:{port}/0")
    rest = Rest(server.url)
    with redis.Redis(port=port) as client:
        client.config_set("maxmemory", 1)
        recorded = [await record(server, number) for number in range(3)]
        ready = rest.http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["late"]) == (200, "degraded", ["redis"])
        assert ready.json()["checks"]["redis"].startswith("Redis rejects writes: ")
        assert "\nsercuescribe_redis_up 0.0" in rest.http.get("/metrics").text
        # A worker that ends meanwhile is waited for.
        server.child("worker").kill()
        recorded.append(await record(server, 3))
        assert all(rest.session(session_id)["recording"]["state"] == "empty" for session_id in recorded)
        client.config_set("maxmemory", 0)
    for number, session_id in enumerate(recorded):
        recording = await asyncio.to_thread(rest.download, session_id)
        assert recording.endswith(audio(number, 1) + audio(number, 2))
    eventually(lambda: rest.http.get("/health/ready").json()["status"] == "ready")
    assert server.read_log().count("process_died") == 1  # the worker that was killed
    assert "DeprecationWarning" not in server.read_log()


async def record(server: Server, number: int) -> str:
    async with recorder(server.ws_url, source="one") as client:
        await client.store(audio(number, 1), audio(number, 2))
        await client.close_session()
    return client.session_id


def is_closed(rest: Rest, session_id: str) -> bool:
    return rest.session(session_id)["status"] == "completed"


def queue_length(server: Server) -> int:
    with queue(server) as client:
        return client.llen("celery")


async def test_a_worker_goes_on_when_redis_dies_during_a_task(run_server: RunServer):
    """It gives the message of the task back while it closes the connection, which is not there any more."""
    server = run_server()
    worker, *pool = everyone(server)
    for process in pool:
        process.suspend()
    session_id = await record(server, 1)
    with queue(server) as client:
        await asyncio.to_thread(eventually, lambda: client.hlen("unacked"))
    await asyncio.to_thread(lose_redis_with, server)
    for process in pool:
        process.resume()
    recording = await asyncio.to_thread(Rest(server.url).download, session_id)
    assert recording.endswith(audio(1, 1) + audio(1, 2))
    assert server.child("worker").pid == worker.pid
    assert "Unrecoverable error" not in server.read_log()


def lose_redis_with(server: Server) -> None:
    """Kills Redis, and waits until the supervisor has started another one and the worker has found it."""
    server.child("redis").kill()
    eventually(lambda: "Connection to broker lost" in server.read_log())
    eventually(lambda: server.child("redis"))
