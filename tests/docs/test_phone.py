"""examples/phone_bridge.py between a server and what Asterisk sends to it."""

import asyncio
import contextlib
import os
import selectors
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.client import Rest
from tests.docs.text import EXAMPLES
from tests.server import DEADLINE_SECONDS, Server, eventually, free_port
from tests.sound import samples_of, speech

HANGUP, CALL_ID, DTMF, SOUND = 0x00, 0x01, 0x03, 0x10
FRAME_BYTES = 320
RATE_HZ = 8000


def framed(kind: int, content: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(content)) + content


def frames(sound: bytes) -> list[bytes]:
    return [framed(SOUND, sound[at : at + FRAME_BYTES]) for at in range(0, len(sound), FRAME_BYTES)]


class Bridge:
    """The example as a user runs it, for a server; `port` is where it waits for calls."""

    def __init__(self, server: Server, **variables: str) -> None:
        command = [sys.executable, str(EXAMPLES / "phone_bridge.py"), server.url.removeprefix("http://"), "0"]
        self._process = subprocess.Popen(
            command, env=server.environment | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # What was read of each stream. Several lines may come at once.
        self._read = {"stdout": b"", "stderr": b""}
        self.port = int(self.line().rpartition(":")[2])

    def line(self, name: str = "stdout") -> str:
        """Wait for the next line that the bridge prints."""
        stream = getattr(self._process, name)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._read[name]:
                assert selector.select(DEADLINE_SECONDS)
                block = os.read(stream.fileno(), 4096)
                assert block, f"the bridge has ended after {self._read[name]!r}"
                self._read[name] += block
        line, _, self._read[name] = self._read[name].partition(b"\n")
        return line.decode().strip()

    def stop(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def bridged(server: Server, **variables: str) -> Iterator[Bridge]:
    bridge = Bridge(server, **variables)
    try:
        yield bridge
    finally:
        bridge.stop()


async def call(bridge: Bridge, *data: bytes) -> None:
    """Send what Asterisk would, and hang up."""
    _, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
    for each in data:
        writer.write(each)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def session_of(bridge: Bridge, call_id: uuid.UUID) -> str:
    named, _, session_id = bridge.line().partition(" is session ")
    assert named == str(call_id)
    return session_id


@pytest.mark.parametrize("end", [b"", framed(HANGUP)], ids=["closed", "hangup"])
async def test_a_call_becomes_a_session(run_server, end):
    server = run_server()
    rest = Rest(server.url)
    call_id, sound = uuid.uuid4(), speech(3.13, RATE_HZ).tobytes()
    sent = b"".join([framed(CALL_ID, call_id.bytes), *frames(sound), framed(DTMF, b"5")]) + end
    with bridged(server) as bridge:
        # Frames do not end where packets do.
        await call(bridge, *(sent[at : at + 777] for at in range(0, len(sent), 777)))
        session_id = session_of(bridge, call_id)
    assert samples_of(rest.download(session_id)) == sound
    session = rest.session(session_id)
    assert session["metadata"] == {"call_id": str(call_id)}
    assert session["sample_rate"] == RATE_HZ
    assert session["total_chunks"] == -(-len(sound) // 3200)


async def test_calls_at_the_same_time_are_apart(run_server):
    server = run_server(REQUIRE_AUTH="true")
    key = server.manage("apikey", "create", "phone", "--scope", "record", "--scope", "read").strip()
    rest = Rest(server.url)
    rest.http.headers["Authorization"] = f"Bearer {key}"
    sounds = {uuid.uuid4(): speech(seconds, RATE_HZ).tobytes() for seconds in (1, 2, 3)}
    with bridged(server, SERCUESCRIBE_API_KEY=key) as bridge:
        calls = [call(bridge, framed(CALL_ID, each.bytes), *frames(sound)) for each, sound in sounds.items()]
        await asyncio.gather(*calls)
        told = dict(bridge.line().split(" is session ") for _ in sounds)
    for call_id, sound in sounds.items():
        assert samples_of(rest.download(told[str(call_id)])) == sound


async def test_a_call_outlives_the_server(make_server):
    server = make_server(PORT=str(free_port()))
    server.start()
    rest = Rest(server.url)
    call_id, sound = uuid.uuid4(), speech(4, RATE_HZ).tobytes()
    beginning, middle, rest_of_it = frames(sound)[:50], frames(sound)[50:120], frames(sound)[120:]
    with bridged(server) as bridge:
        _, writer = await asyncio.open_connection("127.0.0.1", bridge.port)
        writer.write(framed(CALL_ID, call_id.bytes) + b"".join(beginning))
        await writer.drain()
        path = f"/api/audio/sessions?metadata.call_id={call_id}"
        await asyncio.to_thread(
            eventually, lambda: any(each["total_chunks"] == 5 for each in rest.http.get(path).json()["results"])
        )
        server.kill_all()
        writer.write(b"".join(middle))
        await writer.drain()
        assert "connecting again" in await asyncio.to_thread(bridge.line, "stderr")
        server.restart()
        writer.write(b"".join(rest_of_it))
        await writer.drain()
        writer.close()
        session_id = await asyncio.to_thread(session_of, bridge, call_id)
    assert samples_of(rest.download(session_id)) == sound


async def test_what_is_not_a_call_and_a_wrong_key_are_told(run_server):
    server = run_server(REQUIRE_AUTH="true")
    with bridged(server, SERCUESCRIBE_API_KEY="wrong") as bridge:
        await call(bridge, framed(SOUND, b"\0" * FRAME_BYTES))
        assert bridge.line("stderr") == "A call without an id is not recorded."
        await call(bridge, framed(CALL_ID, uuid.uuid4().bytes), *frames(bytes(6400)))
        assert "(not_authenticated)" in bridge.line("stderr")
