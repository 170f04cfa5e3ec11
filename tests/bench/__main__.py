"""`make bench`: what a chunk costs on its way in, each figure beside its yardstick in the same run.

The server is the product as `make run` starts it, on SQLite with its own Redis and worker; its CPU is read from
outside, as the operating system accounts it to the web process. The yardstick is a bare ASGI application on the
same uvicorn with the same options. The two take turns, and medians are printed.
"""

import argparse
import asyncio
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop
from imageio_ffmpeg import get_ffmpeg_exe

from tests.bench.load import Client, Measured, binary_frame, connect_all, settle, stream
from tests.bench.say import say
from tests.server import Server, eventually

CHUNK_BYTES = 3200
INTERVAL_SECONDS = 0.1
REPOSITORY = Path(__file__).resolve().parents[2]
# As the product's own server is configured (sercuescribe/server.py).
UVICORN = [
    "--ws",
    "websockets-sansio",
    "--loop",
    "uvloop",
    "--http",
    "httptools",
    "--lifespan",
    "off",
    "--no-access-log",
    "--log-level",
    "error",
    "--ws-per-message-deflate",
    "false",
]


@dataclass(frozen=True)
class Paced:
    """What one run at real-time pace measured."""

    cpu_us_per_chunk: float
    p50_ms: float
    p99_ms: float
    behind: int


@contextmanager
def application(name: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Runs an ASGI application of this package on uvicorn; gives its URL and process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"tests.bench.{name}:application", "--port", str(port), *UVICORN]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **environment}) as process:
        try:
            eventually(lambda: _accepts(port))
            yield f"ws://127.0.0.1:{port}/api/ws/audio", psutil.Process(process.pid)
        finally:
            process.terminate()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process so far, in user and kernel mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def paced(url: str, process: psutil.Process, connections: int, seconds: float) -> Paced:
    """Streams 100 ms chunks over that many connections at real-time pace."""
    measured = Measured()
    clients = await connect_all(url, connections, measured)
    frame = binary_frame(os.urandom(CHUNK_BYTES))
    await _stream_all(clients, frame, 1.0)
    measured.latencies_seconds.clear()
    measured.sent, before = 0, cpu_seconds(process)
    await asyncio.gather(*(stream(client, frame, INTERVAL_SECONDS, seconds) for client in clients))
    behind = sum(client.unanswered for client in clients)
    await settle(clients)
    used = cpu_seconds(process) - before
    for client in clients:
        client.transport.abort()
    return Paced(1e6 * used / measured.sent, measured.percentile_ms(50), measured.percentile_ms(99), behind)


async def _stream_all(clients: list[Client], frame: bytes, seconds: float) -> None:
    await asyncio.gather(*(stream(client, frame, INTERVAL_SECONDS, seconds) for client in clients))
    await settle(clients)


async def echo_rate(url: str, process: psutil.Process, connections: int, seconds: float) -> float:
    """Each connection sends its next message as soon as the last is answered; returns messages per CPU second."""
    measured = Measured()
    clients = await connect_all(url, connections, measured)
    frame = binary_frame(os.urandom(CHUNK_BYTES))
    for client in clients:
        client.answered = lambda client=client: client.send(frame)  # type: ignore[misc]
        client.send(frame)
    await asyncio.sleep(0.5)
    sent, before = measured.sent, cpu_seconds(process)
    await asyncio.sleep(seconds)
    rate = (measured.sent - sent) / (cpu_seconds(process) - before)
    for client in clients:
        client.transport.abort()
    return rate


def flush_ms(folder: Path, repeats: int = 50) -> tuple[float, float]:
    """Median milliseconds of the two flushes that an acknowledgement waits for: a journal's and a SQLite commit's."""
    journal, database = [], []
    with (folder / "flush.journal").open("wb", buffering=0) as file:
        for _ in range(repeats):
            journal.append(_ms(lambda: (file.write(bytes(20 * CHUNK_BYTES)), os.fdatasync(file.fileno()))))
    connection = sqlite3.connect(folder / "flush.sqlite3", isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE chunk (id INTEGER)")
    for _ in range(repeats):
        database.append(_ms(lambda: connection.execute("INSERT INTO chunk VALUES (1)")))
    connection.close()
    return statistics.median(journal), statistics.median(database)


def _ms(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def concatenation_cpu_ms(folder: Path, minutes: int = 10) -> float:
    """CPU of one FFmpeg run that appends a chunk to a recording of that length, as a server without windows would."""
    for name, seconds in (("long.wav", 60 * minutes), ("chunk.wav", INTERVAL_SECONDS)):
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(bytes(2 * int(16000 * seconds)))
    (folder / "list").write_text("file long.wav\nfile chunk.wav\n")
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "concat", "-i", "list", "-c", "copy", "-y", "joined.wav"]
    before = os.times()
    subprocess.run(command, cwd=folder, check=True)
    after = os.times()
    return 1000 * (after.children_user + after.children_system - before.children_user - before.children_system)


async def _in_turn(bare: tuple[str, psutil.Process], ours: tuple[str, psutil.Process], rounds: int, seconds: float):
    pairs = []
    for _ in range(rounds):
        pairs.append((await paced(*bare, 200, seconds), await paced(*ours, 200, seconds)))
    return pairs


async def run(folder: Path, rounds: int, seconds: float) -> None:
    """Measures and prints."""
    journal_ms, database_ms = flush_ms(folder)
    say(f"disk: journal flush {journal_ms:.2f} ms, database flush {database_ms:.2f} ms (medians, idle)")
    with (
        Server(folder / "data", LOG_LEVEL="error") as server,
        application("bare") as bare,
        application("loop", DATA_DIR=str(folder / "loop"), LOG_LEVEL="error") as loop,
    ):
        ours = (f"{server.ws_url}/api/ws/audio", server.child("web"))
        assert ours[1] is not None
        pairs = await _in_turn(bare, ours, rounds, seconds)
        _print_paced(pairs, concatenation_cpu_ms(folder))
        many = await paced(*ours, 1000, seconds)
        say(
            f"1,000 connections: p50 {many.p50_ms:.1f} ms, p99 {many.p99_ms:.1f} ms,"
            f" {many.cpu_us_per_chunk:.0f} us of CPU per chunk, {many.behind} of"
            f" {int(1000 * seconds / INTERVAL_SECONDS)} unanswered at the end (to reach: p50 10 ms and the flushes)"
        )
        rates = [
            (await echo_rate(*bare, 50, seconds / 2), await echo_rate(*loop, 50, seconds / 2)) for _ in range(rounds)
        ]
        ratio = statistics.median(own / yardstick for yardstick, own in rates)
        say(
            f"the consumer's loop against a bare application: {ratio:.2f} of its messages per CPU second"
            " (to reach: 0.95)"
        )


def _print_paced(pairs: list[tuple[Paced, Paced]], concatenation_ms: float) -> None:
    yardstick = statistics.median(bare.cpu_us_per_chunk for bare, _ in pairs)
    own = statistics.median(ours.cpu_us_per_chunk for _, ours in pairs)
    ratio = statistics.median(ours.cpu_us_per_chunk / bare.cpu_us_per_chunk for bare, ours in pairs)
    p50, p99 = (statistics.median(getattr(ours, name) for _, ours in pairs) for name in ("p50_ms", "p99_ms"))
    say(
        f"200 connections, CPU per 100 ms chunk: ours {own:.0f} us, bare {yardstick:.0f} us, ratio {ratio:.2f}"
        " (to reach: 2.0)"
    )
    say(
        f"one FFmpeg concatenation per chunk: {concatenation_ms:.0f} ms of CPU at ten minutes, ours is"
        f" {1000 * concatenation_ms / own:.0f} times less (to reach: 500)"
    )
    say(f"200 connections, acknowledgement: p50 {p50:.1f} ms, p99 {p99:.1f} ms (to reach: 5 and 10 and the flushes)")


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one run (default 6)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-bench-"))
    try:
        uvloop.run(run(folder, options.rounds, options.seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
