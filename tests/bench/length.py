"""`python -m tests.bench.length`: sessions of growing length, each sent as fast as the server takes it.

What should not grow: the time from the answer to `close_session` to a ready recording, and the memory of the worker,
which is read from outside while the session is recorded and closed.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.say import say
from tests.client import Recorder, Rest, recorder
from tests.server import Server
from tests.sound import speech

CHUNK_BYTES = 3200
CHUNK_SECONDS = 0.1
MINUTES = (1, 30, 180)


def worker_mib(server: Server) -> float:
    """Resident memory of the largest process of the worker, in MiB."""
    worker = server.child("worker")
    processes = [worker, *worker.children(recursive=True)] if worker else []
    sizes = []
    for process in processes:
        try:
            sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes, default=0) / (1 << 20)


class Watch:
    """The largest memory of the worker that was seen."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.peak_mib = 0.0

    async def run(self) -> None:
        while True:
            self.peak_mib = max(self.peak_mib, await asyncio.to_thread(worker_mib, self._server))
            await asyncio.sleep(0.1)


async def stream(connection: Recorder, chunk: bytes, count: int) -> None:
    """Sends a chunk so many times without waiting, and reads the answers meanwhile."""
    reading = asyncio.create_task(connection.answers(count))
    for _ in range(count):
        await connection.socket.send(chunk)
    await reading


async def measure(server: Server, minutes: int) -> None:
    """Records a session of that length and prints what it took."""
    rest, watch = Rest(server.url), Watch(server)
    watching = asyncio.create_task(watch.run())
    chunk, count = speech(CHUNK_SECONDS).tobytes(), round(60 * minutes / CHUNK_SECONDS)
    async with recorder(server.ws_url, format="wav", sample_rate=16000, channels=1) as connection:
        started = time.perf_counter()
        await stream(connection, chunk, count)
        stored = time.perf_counter()
        await connection.close_session()
        closed = time.perf_counter()
        detail = await asyncio.to_thread(rest.finished, connection.session_id)
        ready = time.perf_counter()
    watching.cancel()
    exact = (detail["recording"]["state"], detail["duration_seconds"]) == ("ready", 60 * minutes)
    say(
        f"{minutes} minutes in {count} chunks: stored in {stored - started:.1f} s, ready {ready - closed:.2f} s after"
        f" the close (to reach: 2 s), worker {watch.peak_mib:.0f} MiB (to reach: 150), {'exact' if exact else 'WRONG'}"
    )


async def run(folder: Path, minutes: tuple[int, ...]) -> None:
    """Measures each length on one server."""
    with Server(folder / "data", LOG_LEVEL="error") as server:
        for length in minutes:
            await measure(server, length)


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.length", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES, help="lengths (default 1 30 180)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-bench-"))
    try:
        asyncio.run(run(folder, tuple(options.minutes)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
