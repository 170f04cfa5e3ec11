"""`python -m tests.bench.limits`: what the clients of one project feel of a key of another project that attacks.

The clients of a project record at real-time pace, first undisturbed, then while one key of another project, which has
limits, opens 10,000 connections, floods, or sends a byte a second. The attacker is a process of its own. Each run is
next to an undisturbed one, because the machine does other things too.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.bench import generator
from tests.bench.load import Client, connect, masked_frame
from tests.bench.report import say
from tests.server import Server
from tests.services import REPOSITORY

CLIENTS = 50
CONNECTIONS = 10_000
FLOODERS = 20
FLOOD_BYTES = 64 << 10
SLOW = 200
# The attacker begins that long before the clients are measured.
HEAD_START_SECONDS = 3.0
LIMITS = {
    "max_open_sessions": 100,
    "max_openings_per_minute": 600,
    "max_requests_per_second": 50,
    "max_bytes_per_day": 256 << 20,
}
_NEW_KEY = """
from audio.access import COMMAND, issue
from audio.models import Project
project = Project.objects.create(name={name!r}, **{limits})
print(issue.key(project, "bench", ["record"], COMMAND)[1])
"""
_FOR_EVER = 3600.0
GREETING_SECONDS = 10.0


async def opened(url: str) -> Client:
    """Opens a connection."""
    parts = urlsplit(url)
    async with asyncio.timeout(GREETING_SECONDS):
        return await connect(parts.port or 0, f"{parts.path}?{parts.query}")


async def open_connections(url: str) -> None:
    """Opens connections as fast as they are answered, and keeps what is left open."""
    kept: list[object] = []
    waiting = asyncio.Semaphore(200)

    async def one() -> None:
        async with waiting:
            with contextlib.suppress(OSError, TimeoutError):
                kept.append(await opened(url))

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    await asyncio.sleep(_FOR_EVER)


async def flood(url: str) -> None:
    """Sends as much as the connections take."""
    frame = masked_frame(2, os.urandom(FLOOD_BYTES))

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                client = await opened(url)
                while not client.transport.is_closing():
                    is_full = client.transport.get_write_buffer_size() >= FLOOD_BYTES
                    if not is_full:
                        client.send(frame, time.perf_counter())
                    await asyncio.sleep(0.005 if is_full else 0)
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(FLOODERS)))


async def trickle(url: str) -> None:
    """Sends a byte a second over many connections: half of them as chunks, half as a request that never ends."""
    host, port = url.split("/")[2].split(":")
    frame = masked_frame(2, b"\0")

    async def chunks() -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                client = await opened(url)
                while not client.transport.is_closing():
                    client.send(frame, time.perf_counter())
                    await asyncio.sleep(1)
            await asyncio.sleep(1)

    async def request() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                for byte in b"GET /api/audio/sessions HTTP/1.1\r\nX: " + b"x" * 100:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(1)

    await asyncio.gather(*(one() for _ in range(SLOW // 2) for one in (chunks, request)))


ATTACKS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "10,000 connections": open_connections,
    "a flood": flood,
    "a byte a second": trickle,
}


@contextlib.contextmanager
def attacker(name: str, url: str) -> Iterator[None]:
    """Runs an attack in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.limits", "--attack", name, "--url", url]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def manage(server: Server, *arguments: str) -> str:
    """Runs a command of the server, and returns what it prints."""
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=server.environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def key(server: Server, name: str, **limits: int) -> str:
    """Returns the address of the WebSocket with the key of a new project."""
    secret = manage(server, "shell", "-v", "0", "-c", _NEW_KEY.format(name=name, limits=limits)).splitlines()[-1]
    return f"{server.ws_url}/api/ws/audio?token={secret}"


def run(folder: Path, rounds: int, seconds: float) -> None:
    """Measures and prints a table."""
    command = generator.built(folder)

    def p99_ms(url: str) -> float:
        """Returns the 99th percentile of the acknowledgements of clients at real-time pace."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}"
        seen = generator.drive(command, parts.port or 0, path, connections=CLIENTS, seconds=seconds)
        return float(seen["p99_ms"])

    with Server(folder / "data", LOG_LEVEL="error", REQUIRE_AUTH="true") as server:
        ours = key(server, "clients")
        say(f"p99 of {CLIENTS} clients, while one key of another project attacks (medians of {rounds} rounds)")
        say(f"{'attack':20} {'undisturbed':>12} {'attacked':>10} {'ratio':>6}   (to reach: 2.0)")
        for number, name in enumerate(ATTACKS):
            pairs = []
            for turn in range(rounds):
                # One that has used up its limit would be turned away in the next round.
                theirs = key(server, f"attacker-{number}-{turn}", **LIMITS)
                before = p99_ms(ours)
                with attacker(name, theirs):
                    time.sleep(HEAD_START_SECONDS)
                    pairs.append((before, p99_ms(ours)))
                time.sleep(1)
            before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratio = statistics.median(after / before for before, after in pairs)
            say(f"{name:20} {before:9.1f} ms {after:7.1f} ms {ratio:6.2f}")


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.limits", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs for each attack (default 3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one run (default 6)")
    parser.add_argument("--attack", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.attack:
        # The processor is the server's, as if the attacker were on another machine.
        os.nice(19)
        uvloop.run(ATTACKS[options.attack](options.url))
        return
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-bench-"))
    try:
        run(folder, options.rounds, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
