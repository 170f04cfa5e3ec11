"""Clients that follow the contract as the README's do, over as many connections and servers as it takes.

Each streams numbered chunks of PCM that no other client has, and notes what was acknowledged; at the end the
recording has to be exactly what was sent.
"""

import asyncio
import contextlib
import itertools
import json
import random
import wave
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.client import CLOSE_SESSION, Rest
from tests.cluster.stack import Web

CHUNK_BYTES = 1600
PACE_SECONDS = 0.01
RETRY_SECONDS = 0.1
# How long a client waits for a server that says nothing before it takes another.
PATIENCE_SECONDS = 10.0
RECONNECT = (OSError, WebSocketException, EOFError, TimeoutError)


def chunk(client: int, number: int) -> bytes:
    """A chunk that says whose it is and which."""
    return random.Random(client << 32 | number).randbytes(CHUNK_BYTES)


def samples(recording: bytes) -> bytes:
    """The samples of a WAV recording of the default parameters."""
    with wave.open(BytesIO(recording)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (44100, 1, 2)
        return file.readframes(file.getnframes())


class RejectedError(Exception):
    """An answer that is an error, and no temporary one."""


@dataclass
class Client:
    """One named source that streams until `closing` is set, and then closes its session."""

    number: int
    servers: Iterator[Web]
    closing: asyncio.Event
    session_id: str = ""
    sent: int = 0
    acknowledged: int = 0
    connections: int = 0
    close_codes: list[int] = field(default_factory=list)

    async def run(self) -> None:
        """Connects again and again until the session is closed. Raises RejectedError."""
        while True:
            with contextlib.suppress(*RECONNECT):
                async with self._connected(next(self.servers)) as socket:
                    if await self._greeted(socket):
                        await self._stream(socket)
                    return
            await asyncio.sleep(RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(self, web: Web) -> AsyncIterator[ClientConnection]:
        path = f"/api/ws/audio/{self.session_id}?{urlencode({'source': 'mic'})}"
        opening = connect(
            web.ws_url + path,
            compression=None,
            open_timeout=PATIENCE_SECONDS,
            close_timeout=0.2,
            ping_interval=2,
            ping_timeout=PATIENCE_SECONDS,
        )
        async with opening as socket:
            try:
                yield socket
            finally:
                if socket.close_code is not None:
                    self.close_codes.append(socket.close_code)

    async def _greeted(self, socket: ClientConnection) -> bool:
        """Takes the greeting; returns whether there is something left to do."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            greeting = json.loads(await socket.recv())
        if self.session_id and self.closing.is_set() and greeting.get("code") == "session_closed":
            return False
        stored = _checked(greeting)["source_chunk_count"]
        self.session_id = greeting["session_id"]
        self.connections += 1
        assert self.acknowledged <= stored <= self.sent, f"{self.acknowledged} <= {stored} <= {self.sent}"
        self.sent = self.acknowledged = stored
        return True

    async def _stream(self, socket: ClientConnection) -> None:
        sending = asyncio.create_task(self._send(socket))
        try:
            while (answer := _checked(json.loads(await socket.recv())))["status"] != "completed":
                self.acknowledged += 1
                assert answer["chunk_count"] == self.acknowledged
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, socket: ClientConnection) -> None:
        while not self.closing.is_set():
            self.sent += 1
            await socket.send(chunk(self.number, self.sent))
            await asyncio.sleep(PACE_SECONDS)
        await socket.send(json.dumps(CLOSE_SESSION))

    def verify(self, rest: Rest) -> None:
        """Waits for the recording; it has every chunk that was sent, once, in order, and nothing else."""
        if not self.sent:
            assert rest.session(self.session_id)["total_chunks"] == 0
            return
        recorded = samples(rest.download(self.session_id))
        assert rest.session(self.session_id)["total_chunks"] == self.sent
        assert recorded == b"".join(chunk(self.number, number) for number in range(1, self.sent + 1))


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" not in answer:
        return answer
    if answer["retryable"]:
        raise ConnectionError(answer["error"])
    raise RejectedError(answer)


class Load:
    """Clients at work, spread over the servers."""

    def __init__(self, servers: Sequence[Web], count: int, first_number: int = 0) -> None:
        self.closing = asyncio.Event()
        self.clients = [
            Client(first_number + number, itertools.cycle([*servers[number % len(servers) :], *servers]), self.closing)
            for number in range(count)
        ]
        self._tasks = [asyncio.create_task(client.run()) for client in self.clients]

    async def progress(self, chunks: int = 30) -> None:
        """Returns when every client has got so many more acknowledgements."""
        goals = [client.acknowledged + chunks for client in self.clients]
        async with asyncio.timeout(90):
            while any(client.acknowledged < goal for client, goal in zip(self.clients, goals, strict=True)):
                self._raise_failures()
                await asyncio.sleep(0.02)

    async def finish(self, rest: Rest) -> None:
        """Lets the clients close their sessions, and compares each recording with what was sent."""
        self.closing.set()
        async with asyncio.timeout(90):
            await asyncio.gather(*self._tasks)
        for client in self.clients:
            await asyncio.to_thread(client.verify, rest)

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done() and (error := task.exception()):
                raise error

    async def cancel(self) -> None:
        """Ends what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def load(servers: Sequence[Web], count: int = 6) -> AsyncIterator[Load]:
    """Clients that stream while the block runs; they are to be finished in it."""
    made = Load(servers, count)
    try:
        yield made
    finally:
        await made.cancel()
