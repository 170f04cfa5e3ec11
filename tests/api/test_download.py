"""Downloads from a running server: ranges that a player asks for, and readers that go away in the middle."""

import asyncio
import contextlib
import os

import httpx
import psutil
import pytest

from tests.client import Rest, recorder
from tests.server import Server, eventually

MESSAGE_BYTES = 8 * 1024 * 1024
MESSAGES = 4
HEADER_BYTES = 80


async def stream(server: Server, *messages: bytes) -> str:
    """Sends the messages as one session; returns its id."""
    async with recorder(server.ws_url, chunks="stream") as connection:
        await connection.store(*messages)
        await connection.close_session()
    return connection.session_id


@pytest.fixture
def recording(server: Server) -> tuple[str, bytes]:
    """The address of a ready recording, and its samples."""
    messages = [os.urandom(MESSAGE_BYTES) for _ in range(MESSAGES)]
    session_id = asyncio.run(stream(server, *messages))
    rest = Rest(server.url)
    with rest.http:
        detail = rest.finished(session_id)
    return detail["recording"]["url"], b"".join(messages)


def open_recordings(process: psutil.Process) -> list[str]:
    return [file.path for file in process.open_files() if "/sessions/" in file.path]


def test_ranges_put_together_are_the_recording(recording: tuple[str, bytes]) -> None:
    url, samples = recording
    whole = httpx.get(url)
    assert whole.status_code == 200
    assert whole.content[HEADER_BYTES:] == samples
    size = int(httpx.head(url).headers["Content-Length"])
    assert size == len(whole.content)
    together = b""
    while len(together) < size:
        headers = {"Range": f"bytes={len(together)}-{len(together) + 5_000_000}", "If-Range": whole.headers["ETag"]}
        part = httpx.get(url, headers=headers)
        assert part.status_code == 206
        together += part.content
    assert together == whole.content
    assert httpx.get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    assert httpx.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416


def test_readers_that_go_away_leave_no_file_open_and_no_memory_taken(
    server: Server, recording: tuple[str, bytes]
) -> None:
    url, samples = recording
    web = server.child("web")
    assert web is not None
    before = web.memory_info().rss
    with contextlib.ExitStack() as readers:
        # A body that is no longer referred to ends its connection.
        bodies = [readers.enter_context(httpx.stream("GET", url)).iter_raw() for _ in range(8)]
        assert all(next(body) for body in bodies)
        assert len(open_recordings(web)) == 8
        assert web.memory_info().rss - before < len(samples)
    eventually(lambda: not open_recordings(web))
