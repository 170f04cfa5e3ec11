"""The disk is full: what is recorded is rejected, everything else works, deleting makes room, and then it goes on."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.disk import Disk, small_disk
from tests.server import DEADLINE_SECONDS, ROLES, Server, eventually

CHUNK = bytes(range(256)) * 64


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", "100m") as mounted:
        yield mounted


@pytest.fixture
def server(disk: Disk, make_server: RunServer) -> Server:
    made = make_server("disk/data", DISCONNECT_GRACE_SECONDS="3600", HEARTBEAT_SECONDS="1")
    made.log = disk.path.with_name("log")
    made.enter = disk.enter
    made.start()
    return made


async def store_until_rejected(server: Server, session_id: str | None) -> tuple[str, int, str, int]:
    """Record; return the session's id, how many chunks of it are acknowledged, the code of the rejection, the close
    code."""
    async with recorder(server.ws_url, session_id, source="mic") as client:
        count = client.greeting.get("source_chunk_count", 0)
        answer = client.greeting
        while "error" not in answer:
            try:
                await client.send(CHUNK)
            except ConnectionClosed:
                break
            answer = await client.answer()
            count = answer.get("chunk_count", count)
        return client.session_id, count, answer["code"], await client.close_code()


async def record(server: Server, chunks: int) -> str:
    async with recorder(server.ws_url) as client:
        await client.store(*[CHUNK] * chunks)
        await client.close_session()
    Rest(server.url).finished(client.session_id)
    return client.session_id


async def check_goes_on(server: Server, session_id: str, count: int) -> None:
    """The session has what was acknowledged, takes more, and becomes the recording of all of it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await store_one_more(server, session_id, count):  # noqa: ASYNC110 - nobody tells when there is room
            await asyncio.sleep(0.2)
    recording = await asyncio.to_thread(Rest(server.url).download, session_id)
    assert recording.endswith(CHUNK * (count + 1))


async def store_one_more(server: Server, session_id: str, count: int) -> bool:
    """Store the next chunk and close the session, unless the server asks for another try."""
    async with recorder(server.ws_url, session_id, source="mic") as client:
        if "error" in client.greeting:
            assert client.greeting["retryable"], client.greeting
            return False
        assert client.greeting["source_chunk_count"] == count
        await client.send(CHUNK)
        answer = await client.answer()
        if "error" in answer:
            assert answer["retryable"], answer
            return False
        await client.close_session()
    return True


async def test_what_is_recorded_is_rejected_and_goes_on_when_there_is_room(disk: Disk, server: Server):
    done = await record(server, 100)
    session_id, count = await fill_while_recording(disk, server)
    rest = Rest(server.url).http
    children = {role: server.child(role) for role in ROLES}
    for again in (session_id, None):
        _, _, code, close_code = await store_until_rejected(server, again)
        assert (code, close_code) == ("storage_full", 1013)
    rejection = rest.post("/api/audio/sessions", json={})
    assert (rejection.status_code, rejection.json()["code"]) == (507, "storage_full")
    assert rest.get("/api/audio/sessions").status_code == 200
    assert rest.get(f"/api/audio/sessions/{done}/audio").status_code == 200
    assert rest.get("/health/ready").json()["down"] == ["storage"]
    server.child("web").kill()
    eventually(lambda: answers(server))
    assert "SIGBUS" not in server.read_log()
    disk.fill()
    assert rest.delete(f"/api/audio/sessions/{done}").status_code == 204
    assert rest.get(f"/api/audio/sessions/{done}").status_code == 404
    assert {role: server.child(role) for role in ROLES if role != "web"} == {
        role: child for role, child in children.items() if role != "web"
    }
    disk.make_room()
    await check_goes_on(server, session_id, count)
    assert server.stop() == 0


async def fill_while_recording(disk: Disk, server: Server) -> tuple[str, int]:
    async with recorder(server.ws_url, source="mic") as client:
        await client.store(*[CHUNK] * 10)
        await asyncio.to_thread(disk.fill)
        count = 10
        answer: dict = {}
        while "error" not in answer:
            await client.send(CHUNK)
            answer = await client.answer()
            count = answer.get("chunk_count", count)
        assert answer["code"] == "storage_full"
        assert await client.close_code() == 1013
        return client.session_id, count


def answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


# The smallest transactions that there are, until SQLite's log can't grow by one more.
WRITE_TO_THE_LAST_PAGE = """
import itertools, sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for number in itertools.count():
    try:
        database.execute(f"PRAGMA user_version = {number}")
    except sqlite3.OperationalError as error:
        sys.exit(error.sqlite_errorname != "SQLITE_FULL")
"""


def fill_to_the_last_page(disk: Disk, server: Server) -> None:
    disk.fill()
    disk.run(sys.executable, "-c", WRITE_TO_THE_LAST_PAGE, str(server.folder / "db.sqlite3"))


def has_reserve(disk: Disk, server: Server) -> bool:
    return "reserve" in disk.run("ls", str(server.folder)).split()


async def store_some(server: Server, count: int) -> str:
    async with recorder(server.ws_url, source="mic") as client:
        await client.store(*[CHUNK] * count)
    return client.session_id


async def test_a_deletion_takes_the_room_of_the_reserve(disk: Disk, server: Server):
    """To close an open session takes a write, before there is a file whose removal would make room."""
    session_id, deleted = await store_some(server, 10), await store_some(server, 10)
    fill_to_the_last_page(disk, server)
    assert has_reserve(disk, server)
    rest = Rest(server.url).http
    answer = rest.delete(f"/api/audio/sessions/{deleted}")
    assert answer.status_code == 204, answer.text
    assert rest.get(f"/api/audio/sessions/{deleted}").status_code == 404
    assert server.read_log().count("reserve_released") == 1
    assert not has_reserve(disk, server)
    # What is left of it is for deletions alone.
    _, _, code, _ = await store_until_rejected(server, None)
    assert code == "storage_full"
    disk.make_room()
    await check_goes_on(server, session_id, 10)
    eventually(lambda: has_reserve(disk, server))
    assert "Traceback" not in server.read_log()


async def test_it_starts_on_a_full_disk(disk: Disk, server: Server):
    done = await record(server, 100)
    async with recorder(server.ws_url, source="mic") as client:
        await client.store(*[CHUNK] * 10)
    server.stop()
    disk.fill()
    server.restart()
    rest = Rest(server.url).http
    assert rest.get(f"/api/audio/sessions/{done}/audio").status_code == 200
    _, count, code, _ = await store_until_rejected(server, client.session_id)
    assert code == "storage_full"
    assert rest.delete(f"/api/audio/sessions/{done}").status_code == 204
    disk.make_room()
    await check_goes_on(server, client.session_id, count or 10)
    assert "Traceback" not in server.read_log()
