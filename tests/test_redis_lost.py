"""A Redis that loses everything in the middle of it all costs a delay, and nothing else."""

import asyncio
import contextlib
import functools
import subprocess
import sys

import psutil
import redis

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import Server, eventually
from tests.services import REPOSITORY

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


def is_closed(rest: Rest, session_id: str) -> bool:
    return rest.session(session_id)["status"] == "completed"


def queue_length(server: Server) -> int:
    with queue(server) as client:
        return client.llen("celery")
