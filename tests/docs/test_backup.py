"""The recipes for backup and restore in docs/operations.md, run as they are written while a client records."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psycopg

from tests.client import Rest, recorder
from tests.docker.stack import postgres_programs
from tests.docs.text import fenced
from tests.server import Server
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "operations.md"
RATE_HZ = 16000
CHUNK_BYTES = 3200
CHUNKS_BEFORE = 30


def recipes(tmp_path: Path, heading: str) -> list[str]:
    """The blocks of commands behind a heading: to copy, to restore."""
    _, _, behind = PAGE.read_text().partition("\n## Backup\n")[2].partition(f"\n### {heading}\n")
    section = tmp_path / "section.md"
    section.write_text(behind.partition("\n### ")[0])
    return fenced(section, "sh")


class Operator:
    """A folder like that of the repository, in which an operator types commands."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "manage.py").symlink_to(REPOSITORY / "manage.py")
        path = os.pathsep.join([str(postgres_programs()), os.environ["PATH"]])
        self.environment = server.environment | {"PATH": path}

    def types(self, block: str) -> None:
        """Run commands; each of them has to succeed."""
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", block], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


async def record_while(server: Server, operator: Operator, block: str) -> tuple[str, list[bytes], int]:
    """Record until the commands are done; return the session, what was acknowledged, and how much of it before."""
    random = np.random.default_rng(3)
    acknowledged: list[bytes] = []
    async with recorder(server.ws_url, format="wav", encoding="s16le", sample_rate=RATE_HZ, channels=1) as client:

        async def store() -> None:
            chunk = random.integers(-8000, 8000, CHUNK_BYTES // 2, dtype="<i2").tobytes()
            await client.store(chunk)
            acknowledged.append(chunk)

        while len(acknowledged) < CHUNKS_BEFORE:
            await store()
        before = len(acknowledged)
        copying = asyncio.create_task(asyncio.to_thread(operator.types, block))
        while not copying.done():
            await store()
        await copying
        return client.session_id, acknowledged, before


async def finished_session(server: Server) -> tuple[str, bytes]:
    async with recorder(server.ws_url) as client:
        await client.store(b"\1\2" * 8000)
        await client.close_session()
    rest = Rest(server.url)
    rest.finished(client.session_id)
    return client.session_id, rest.download(client.session_id)


async def check_recipe(server: Server, operator: Operator, blocks: list[str], empty_database) -> None:
    server.start()
    done, content = await finished_session(server)
    copy, restore = blocks
    session_id, acknowledged, before = await record_while(server, operator, copy)
    assert len(acknowledged) > before
    server.stop()
    server.folder.rename(server.folder.with_name("lost"))
    empty_database()
    operator.types(restore)
    server.restart()
    rest = Rest(server.url)
    assert rest.download(done) == content
    assert rest.finished(session_id)["recording"]["state"] == "ready"
    recording = rest.download(session_id)
    sound = b"".join(acknowledged)
    samples = recording[-(len(recording) // CHUNK_BYTES * CHUNK_BYTES) :]
    assert len(samples) >= before * CHUNK_BYTES
    assert sound.startswith(samples)


async def test_sqlite(make_server, tmp_path):
    server = make_server("var", DISCONNECT_GRACE_SECONDS="1", HEARTBEAT_SECONDS="0.2")
    operator = Operator(tmp_path, server)
    await check_recipe(server, operator, recipes(tmp_path, "SQLite"), lambda: None)


async def test_postgresql(make_server, tmp_path, postgres_url):
    server = make_server("var", DISCONNECT_GRACE_SECONDS="1", HEARTBEAT_SECONDS="0.2", DATABASE_URL=postgres_url)
    name = urlsplit(postgres_url).path.strip("/")

    def empty_database() -> None:
        with psycopg.connect(os.environ["TEST_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')

    operator = Operator(tmp_path, server)
    await check_recipe(server, operator, recipes(tmp_path, "PostgreSQL"), empty_database)
