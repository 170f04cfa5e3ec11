"""`python -m tests.bench.postgres`: what a chunk costs on a PostgreSQL that syncs, and how batches grow with the load.

Sessions at real-time pace, ten chunks a second each, on one web process. The more there are, the more chunks share a
flush and a transaction. CPU is read from outside, of the web process, of all of PostgreSQL's and of the worker with its
children, which concatenates meanwhile; the bytes of a chunk are those that its rows and its part of the journal take
on the disk.
"""

import argparse
import asyncio
import contextlib
import re
import shutil
import tempfile
from pathlib import Path

import psutil
import uvloop

from tests.bench.__main__ import CHUNK_BYTES, cpu_seconds, paced
from tests.bench.say import say
from tests.client import Rest
from tests.cluster.stack import Database
from tests.server import Server
from tests.services import make_postgres

CONNECTIONS = (50, 200, 1000)
ROWS = "SELECT count(*), pg_total_relation_size('audio_audiochunk') FROM audio_audiochunk"
WAL = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"


def family_cpu_seconds(process: psutil.Process | None) -> float:
    """CPU time of a process and its children so far."""
    assert process is not None
    return sum(map(cpu_seconds, [process, *process.children()]))


class Numbers:
    """Counters of the server and of PostgreSQL, read between two runs."""

    def __init__(self, server: Server, database: Database) -> None:
        text = Rest(server.url).http.get("/metrics").text
        assert database.process is not None
        self.postgres_seconds = family_cpu_seconds(psutil.Process(database.process.pid))
        self.worker_seconds = family_cpu_seconds(server.child("worker"))
        self.wal_bytes = float(database.query(WAL)[0][0])
        self.chunks = self._counter(text, "sercuescribe_batch_chunks_sum")
        self.batches = self._counter(text, "sercuescribe_batch_chunks_count")

    @staticmethod
    def _counter(text: str, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


async def measure(server: Server, database: Database, connections: int, seconds: float) -> None:
    """Streams and prints what it took."""
    web = server.child("web")
    assert web is not None
    before = await asyncio.to_thread(Numbers, server, database)
    run = await paced(f"{server.ws_url}/api/ws/audio", web, connections, seconds)
    after = await asyncio.to_thread(Numbers, server, database)
    chunks, batches = after.chunks - before.chunks, after.batches - before.batches
    say(
        f"PostgreSQL, {connections:5} connections: {chunks / batches:5.1f} chunks a transaction,"
        f" CPU per chunk: web {run.cpu_us_per_chunk:.0f} us,"
        f" PostgreSQL {1e6 * (after.postgres_seconds - before.postgres_seconds) / chunks:.0f} us,"
        f" worker {1e6 * (after.worker_seconds - before.worker_seconds) / chunks:.0f} us,"
        f" write-ahead log {(after.wal_bytes - before.wal_bytes) / chunks:.0f} bytes,"
        f" p50 {run.p50_ms:.1f} ms, p99 {run.p99_ms:.1f} ms"
    )


async def run(folder: Path, seconds: float) -> None:
    """Measures each number of connections on one server."""
    with contextlib.ExitStack() as stack:
        database = Database(folder / "postgres.log", make_postgres(stack), [])
        stack.callback(database.kill)
        database.launch()
        database.wait_until_ready()
        server = stack.enter_context(Server(folder / "data", LOG_LEVEL="error", DATABASE_URL=database.url()))
        for connections in CONNECTIONS:
            await measure(server, database, connections, seconds)
        ((rows, size_bytes),) = database.query(ROWS)
        journal_bytes = sum(path.stat().st_size for path in (folder / "data" / "audio" / "journals").rglob("*.*"))
        say(
            f"on the disk, for each chunk of {CHUNK_BYTES} bytes: {size_bytes / rows:.0f} bytes of rows and indexes,"
            f" {journal_bytes / rows:.0f} of the journal"
        )


def main() -> None:
    """Reads the options and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.postgres", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="length of one run (default 15)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-bench-"))
    try:
        uvloop.run(run(folder, options.seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
