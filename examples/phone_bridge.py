"""Record the calls of an Asterisk telephone system: the server of its AudioSocket, and a client of SercueScribe.

    python phone_bridge.py [HOST:PORT of SercueScribe] [PORT for Asterisk]

Each call becomes a session, whose metadata has the id of the call. A call goes on being recorded while the connection
to SercueScribe is broken: its sound waits here, and is sent when the server is back. It needs the package `websockets`.

If SERCUESCRIBE_API_KEY is set, the key is sent. It needs the scope `record`.
"""

import asyncio
import json
import os
import struct
import sys
import uuid
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

SERVER = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 9092
KEY = os.environ.get("SERCUESCRIBE_API_KEY")
HEADERS = {"Authorization": f"Bearer {KEY}"} if KEY else {}
# The kinds of frames of AudioSocket. 16-bit samples at 8 kHz are what its dialplan application sends.
HANGUP, CALL_ID, SOUND = 0x00, 0x01, 0x10
SAMPLE_RATE_HZ = 8000
# Frames hold 20 ms. Ten of them in a chunk cost the server a tenth.
CHUNK_BYTES = 10 * 320


class Call:
    """The sound of a call, in chunks that are kept until the server has stored them."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.session_id = ""
        self.stored = 0
        self.is_over = False
        self._chunks: list[bytes] = []
        self._rest = b""
        self._changed = asyncio.Event()

    def add(self, sound: bytes) -> None:
        """Add sound. A chunk never changes once it is there, so that it can be sent again."""
        self._rest += sound
        while len(self._rest) >= CHUNK_BYTES:
            self._append(self._rest[:CHUNK_BYTES])
            self._rest = self._rest[CHUNK_BYTES:]

    def end(self) -> None:
        """Note that the caller has hung up."""
        if self._rest:
            self._append(self._rest)
        self.is_over = True
        self._changed.set()

    def forget(self, stored: int) -> None:
        """Drop the chunks that the server has stored, which are `stored` from the beginning of the call."""
        del self._chunks[: stored - self.stored]
        self.stored = stored

    async def chunk(self, number: int) -> bytes | None:
        """Wait for the chunk with this number, counted from zero; return None if the call ended before it."""
        while number >= self.stored + len(self._chunks):
            if self.is_over:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._chunks[number - self.stored]

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._changed.set()


async def record(call: Call) -> None:
    """Send a call to SercueScribe, over as many connections as it takes."""
    parameters = {
        "format": "wav",
        "encoding": "s16le",
        "sample_rate": SAMPLE_RATE_HZ,
        "channels": 1,
        "source": "asterisk",
        "metadata.call_id": call.call_id,
    }
    while True:
        url = f"ws://{SERVER}/api/ws/audio/{call.session_id}?{urlencode(parameters)}"
        try:
            async with connect(url, additional_headers=HEADERS) as socket:
                greeting = checked(json.loads(await socket.recv()))
                call.session_id = greeting["session_id"]
                call.forget(greeting["source_chunk_count"])
                await exchange(socket, call)
                return
        except (OSError, WebSocketException) as error:
            print(f"{call.call_id}: connecting again: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(1)


async def exchange(socket: ClientConnection, call: Call) -> None:
    """Send the chunks that are not stored yet, and read the answers until the session is closed."""
    sending = asyncio.create_task(send(socket, call))
    try:
        while (answer := checked(json.loads(await socket.recv())))["status"] != "completed":
            if answer["message"] == "Chunk processed successfully":
                call.forget(call.stored + 1)
    finally:
        sending.cancel()


async def send(socket: ClientConnection, call: Call) -> None:
    """Send chunks as they come. When the call is over, ask the server to close the session."""
    number = call.stored
    while (chunk := await call.chunk(number)) is not None:
        await socket.send(chunk)
        number += 1
    await socket.send(json.dumps({"type": "control", "action": "close_session"}))


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is not an error. Connect again after a temporary error; give up after any other."""
    if "error" not in answer:
        return answer
    if answer["retryable"]:
        raise ConnectionError(answer["error"])
    raise RuntimeError(f"{answer['error']} ({answer['code']})")


async def frame(reader: StreamReader) -> tuple[int, bytes]:
    """Read a frame: a byte for its kind, two for the length of its content, and the content."""
    kind, length = struct.unpack(">BH", await reader.readexactly(3))
    return kind, await reader.readexactly(length)


async def answer_call(reader: StreamReader, writer: StreamWriter) -> None:
    """Record one call, from its id, which comes first, until the caller hangs up."""
    try:
        kind, content = await frame(reader)
        if kind != CALL_ID:
            print("A call without an id is not recorded.", file=sys.stderr, flush=True)
            return
        call = Call(str(uuid.UUID(bytes=content)))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(record(call))
            tasks.create_task(listen(reader, call))
        print(f"{call.call_id} is session {call.session_id}", flush=True)
    except* RuntimeError as errors:
        print(f"The call is not recorded: {errors.exceptions[0]}", file=sys.stderr, flush=True)
    finally:
        writer.close()


async def listen(reader: StreamReader, call: Call) -> None:
    """Read what the caller says. Asterisk closes the connection when they hang up."""
    try:
        while True:
            kind, content = await frame(reader)
            if kind == HANGUP:
                break
            if kind == SOUND:
                call.add(content)
    except (IncompleteReadError, OSError):
        pass
    call.end()


async def main() -> None:
    """Serve Asterisk until the program is stopped."""
    server = await asyncio.start_server(answer_call, "127.0.0.1", PORT)
    print(f"Waiting for calls on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
