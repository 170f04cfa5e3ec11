"""The load generator where there is no C compiler: a client in Python with the options and the result of `load.c`.

It costs several times as much of a core as that, and so carries fewer connections. The messages of all connections are
spread evenly over the interval here too, and a latency counts from the moment at which a message was due.
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

_PATIENCE_SECONDS = 30.0
_CLOSE = b'{"type":"control","action":"close_session"}'


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole frame (RFC 6455 section 5.2). Its key is zero, which leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def due_times(start: float, interval: float, connections: int, until: float) -> Iterator[tuple[float, int]]:
    """Yield when each message is due, and on which connection: evenly spread over the interval."""
    turn = 0
    while (due := start + turn * interval / connections) < until:
        yield due, turn % connections
        turn += 1


def percentile_ms(values: Sequence[float], percent: float) -> float:
    """Return a percentile of times in seconds, in milliseconds; 0 if there are none."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class Client(asyncio.Protocol):
    """One connection. `greeted` is done once the server's first message is there."""

    def __init__(self, port: int, path: str) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._buffer = bytearray()
        self._is_upgraded = False
        self.began = time.perf_counter()
        self.due: deque[float] = deque()
        # When a message was due, and its latency.
        self.latencies: list[tuple[float, float]] = []
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[float] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def send(self, frame: bytes, due: float) -> None:
        self.due.append(due)
        self.transport.write(frame)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_upgraded:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
            del self._buffer[: end + 4]
            self._is_upgraded = True
        while (opcode := self._frame()) is not None:
            self._answered(opcode)

    def _frame(self) -> int | None:
        """Take one whole frame from the buffer, and return its opcode."""
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
            self.transport.write(masked_frame(10, b""))
        elif opcode == 8:
            self.transport.close()
        elif not self.greeted.done():
            self.greeted.set_result(time.perf_counter() - self.began)
        elif self.due:
            due = self.due.popleft()
            self.latencies.append((due, time.perf_counter() - due))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("the server closed the connection before it greeted"))
        if not self.closed.done():
            self.closed.set_result(None)


def continued(path: str, session_id: str) -> str:
    """Return the path that continues a session."""
    base, mark, query = path.partition("?")
    return f"{base}/{session_id}{mark}{query}"


def paths_of(options: argparse.Namespace) -> list[str]:
    """Return the path of each connection. The first ones continue the sessions of the file, if there is one."""
    known = Path(options.sessions).read_text().split() if options.sessions else []
    paths = [continued(options.path, each) for each in known[: options.connections]]
    return paths + [options.path] * (options.connections - len(paths))


async def connect(port: int, path: str) -> Client:
    """Open a connection, and wait for the greeting."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(port, path), "127.0.0.1", port)
    await client.greeted
    return client


class Crowd:
    """Connections that open at one moment, and may close their sessions at another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.clients: list[Client] = []
        self.spans: list[tuple[float, float]] = []
        self.rejected = 0
        self.seconds = self.closing_seconds = 0.0

    async def run(self, measure_from: float) -> None:
        options = self._options
        await asyncio.sleep(measure_from + options.crowd_at - time.perf_counter())
        began = time.perf_counter()
        opened = [connect(options.port, options.path) for _ in range(options.crowd)]
        results = await asyncio.gather(*opened, return_exceptions=True)
        self.clients = [each for each in results if isinstance(each, Client)]
        self.rejected = len(results) - len(self.clients)
        self.seconds = self._spent(began)
        if options.crowd_close_at:
            await asyncio.sleep(max(0.0, measure_from + options.crowd_close_at - time.perf_counter()))
            began = time.perf_counter()
            for client in self.clients:
                client.transport.write(masked_frame(1, _CLOSE))
            await asyncio.gather(*(client.closed for client in self.clients))
            self.closing_seconds = self._spent(began)

    def _spent(self, began: float) -> float:
        ended = time.perf_counter()
        self.spans.append((began, ended))
        return ended - began

    def result(self, latencies: Sequence[tuple[float, float]]) -> dict[str, float]:
        """Return the figures of the crowd, and of the others while it opened and closed."""
        openings = [client.greeted.result() for client in self.clients]
        others = [late for due, late in latencies if any(begin <= due < end for begin, end in self.spans)]
        return {
            "opened": len(openings),
            "seconds": self.seconds,
            "per_second": len(openings) / self.seconds if self.seconds else 0.0,
            "p50_ms": percentile_ms(openings, 50),
            "p99_ms": percentile_ms(openings, 99),
            "others_messages": len(others),
            "others_p50_ms": percentile_ms(others, 50),
            "others_p99_ms": percentile_ms(others, 99),
            "closed": sum(client.closed.done() for client in self.clients),
            "closing_seconds": self.closing_seconds,
        }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Send, and return the figures."""
    clients: list[Client] = []
    paths = paths_of(options)
    opening_from = time.perf_counter()
    for first in range(0, len(paths), options.opening_at_once):
        some = paths[first : first + options.opening_at_once]
        clients += await asyncio.gather(*(connect(options.port, path) for path in some))
    opened_in = time.perf_counter() - opening_from
    frame = masked_frame(2, os.urandom(options.bytes))
    start = time.perf_counter() + 0.01
    measure_from = start + options.warmup
    crowd = Crowd(options)
    crowding = asyncio.create_task(crowd.run(measure_from)) if options.crowd else None
    sent, used = 0, None
    for due, number in due_times(start, options.interval_ms / 1000, len(clients), measure_from + options.seconds):
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if due >= measure_from:
            used = _cpu_seconds() if used is None else used
            sent += 1
        clients[number].send(frame, due)
    cost_us = 1e6 * (_cpu_seconds() - (used or 0.0)) / max(1, sent)
    behind = sum(len(client.due) for client in clients)
    patience = time.perf_counter() + _PATIENCE_SECONDS
    while any(each.due and not each.closed.done() for each in clients) and time.perf_counter() < patience:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if crowding is not None:
        await crowding
    latencies = [each for client in clients for each in client.latencies if each[0] >= measure_from]
    late = [seconds for _, seconds in latencies]
    return {
        "sent": sent,
        "answered": len(latencies),
        "behind": behind,
        "ended": sum(client.closed.done() for client in clients),
        "rejected": crowd.rejected,
        "opened_in_seconds": opened_in,
        "p50_ms": percentile_ms(late, 50),
        "p99_ms": percentile_ms(late, 99),
        "max_ms": percentile_ms(late, 100),
        "generator_us_per_message": cost_us,
        **({"crowd": crowd.result(latencies)} if options.crowd else {}),
    }


def main() -> None:
    """Read the options of `load.c`, and print its JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--sessions", help="a file with the ids of sessions to continue, one in each line")
    for name, kind, default in (
        ("connections", int, 1),
        ("opening-at-once", int, 32),
        ("seconds", float, 5.0),
        ("warmup", float, 1.0),
        ("interval-ms", float, 100.0),
        ("bytes", int, 3200),
        ("crowd", int, 0),
        ("crowd-at", float, 1.0),
        ("crowd-close-at", float, 0.0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    sys.stdout.write(json.dumps(asyncio.run(run(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
