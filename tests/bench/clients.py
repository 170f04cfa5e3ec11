"""Clients of the benchmark of limits: many WebSocket connections at real-time pace, in one process.

It speaks just enough of RFC 6455 to send binary messages and to count the text messages that come back, so that
it takes a small part of the CPU of the server that it measures. Frames are masked with a zero key, which leaves
the payload as it is.
"""

import asyncio
import base64
import os
import random
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

_GREETING_SECONDS = 10.0


@dataclass(slots=True)
class Measured:
    """What a run saw: latencies in seconds, one for each acknowledgement."""

    sent: int = 0
    latencies_seconds: list[float] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> float:
        """Returns a percentile of the latencies, in milliseconds."""
        ordered = sorted(self.latencies_seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def binary_frame(payload: bytes) -> bytes:
    """Returns one masked binary frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x82, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x82, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x82, 0x80 | 127, size)
    return head + bytes(4) + payload


class Client(asyncio.Protocol):
    """One connection. `greeted` is done once the server's first message is there."""

    def __init__(self, host: str, path: str, measured: Measured) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._measured = measured
        self._buffer = bytearray()
        self._upgraded = False
        self._sent_at: deque[float] = deque()
        loop = asyncio.get_running_loop()
        self._time = time.perf_counter
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.answered: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def send(self, frame: bytes) -> None:
        self._sent_at.append(self._time())
        self._measured.sent += 1
        self.transport.write(frame)

    @property
    def unanswered(self) -> int:
        return len(self._sent_at)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            assert self._buffer.startswith(b"HTTP/1.1 101"), bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            self._upgraded = True
        while (size := self._frame()) is not None:
            self._answered(size)

    def _frame(self) -> int | None:
        """Takes one whole frame from the buffer; returns its opcode."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, size, start = buffer[0] & 0x0F, buffer[1] & 0x7F, 2
        if size == 126:
            if len(buffer) < 4:
                return None
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        if len(buffer) < start + size:
            return None
        del buffer[: start + size]
        return opcode

    def _answered(self, opcode: int) -> None:
        if opcode == 9:
            self.transport.write(b"\x8a\x80\0\0\0\0")
        elif opcode == 8:
            self.transport.close()
        elif not self.greeted.done():
            self.greeted.set_result(None)
        elif self._sent_at:
            self._measured.latencies_seconds.append(self._time() - self._sent_at.popleft())
            if self.answered is not None:
                self.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("the server closed the connection before it greeted"))


async def connect(url: str, measured: Measured) -> Client:
    """Opens one connection and waits for the greeting."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(parts.netloc, path, measured), parts.hostname or "", parts.port or 80
    )
    async with asyncio.timeout(_GREETING_SECONDS):
        await client.greeted
    return client


async def stream(client: Client, frame: bytes, interval_seconds: float, seconds: float) -> None:
    """Sends a frame every interval, starting at a random phase; late ticks are made up for, as a microphone would."""
    loop = asyncio.get_running_loop()
    due = loop.time() + random.random() * interval_seconds
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - loop.time()))
        client.send(frame)
        due += interval_seconds


async def settle(clients: list[Client], seconds: float = 30.0) -> None:
    """Waits until every message has been answered; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while any(client.unanswered for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def connect_all(url: str, count: int, measured: Measured) -> list[Client]:
    """Opens that many connections, a few at a time."""
    clients: list[Client] = []
    while len(clients) < count:
        clients += await asyncio.gather(*(connect(url, measured) for _ in range(min(20, count - len(clients)))))
    return clients
