"""`make bench`: one table of what the server costs and how fast it is, each figure beside a reference of the same run.

The server is the product as `make run` starts it. CPU is read from outside, as the operating system accounts it to its
processes. Servers take turns, so that a busy machine slows all of them, and medians and the spread are shown.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from imageio_ffmpeg import get_ffmpeg_exe

from tests.bench import concatenation, generator, scale, sessions
from tests.bench.processes import SOCKET_PATH, Target, application, cpu_seconds, family_cpu_seconds, pss_mib
from tests.bench.report import Report, Row, say
from tests.client import Rest, recorder
from tests.cluster.stack import Database
from tests.server import Server
from tests.services import make_postgres

CONNECTIONS = 200
CROWD = 300
MANY = 1000
IDLE = 5000
IDLE_SECONDS = 20.0
SCALES = (10, 100_000, 1_000_000)
OUTPUT = Path("var/bench")


@dataclass(frozen=True)
class Options:
    """How much is measured, and the command of the load generator."""

    rounds: int
    seconds: float
    minutes: int
    soak_minutes: float
    scales: tuple[int, ...]
    sessions: tuple[int, ...]
    load: tuple[str, ...]


@dataclass(frozen=True)
class Ours:
    """The product: its web process, all that `serve` has started, and the database if that is a process."""

    web: Target
    server: Server
    database: psutil.Process | None

    def worker_seconds(self) -> float:
        """Return the CPU time of the workers so far."""
        children = [self.server.child("worker"), self.server.child("jobs")]
        return sum(family_cpu_seconds(child) for child in children if child is not None)

    def all_seconds(self) -> float:
        """Return the CPU time of all processes so far."""
        supervisor = family_cpu_seconds(psutil.Process(self.server.process.pid))
        return supervisor + (family_cpu_seconds(self.database) if self.database else 0.0)


@contextlib.contextmanager
def product(folder: Path, database: str) -> Iterator[Ours]:
    """Run the product on SQLite or PostgreSQL."""
    with contextlib.ExitStack() as stack:
        # The sessions of a run that has ended must not be finished during the next one.
        variables, process = {"LOG_LEVEL": "error", "DISCONNECT_GRACE_SECONDS": "3600"}, None
        folder.mkdir(parents=True, exist_ok=True)
        if database == "PostgreSQL":
            postgres = Database(folder / "postgres.log", make_postgres(stack), [])
            stack.callback(postgres.kill)
            postgres.launch()
            postgres.wait_until_ready()
            variables["DATABASE_URL"] = postgres.url()
            process = psutil.Process(postgres.process.pid) if postgres.process else None
        server = stack.enter_context(Server(folder / "data", **variables))
        yield Ours(target(server), server, process)


def target(server: Server) -> Target:
    """Return the web process of a server that runs."""
    web = server.child("web")
    assert web is not None
    return Target(int(server.url.rstrip("/").rpartition(":")[2]), web)


@dataclass(frozen=True)
class Run:
    """The figures of a run of the generator, and the CPU that it took, in microseconds for each message."""

    seen: dict[str, Any]
    web_us: float
    worker_us: float = 0.0
    all_us: float = 0.0


def run(options: Options, web: Target, ours: Ours | None = None, **load: Any) -> Run:
    """Send messages to a server, and return what that took.

    The CPU of the opening and of the warm-up is counted too, and divided by all messages.
    """
    load = {"connections": CONNECTIONS, "seconds": options.seconds, "warmup": 1.0, **load}
    readers: list[Callable[[], float]] = [lambda: cpu_seconds(web.process)]
    readers += [ours.worker_seconds, ours.all_seconds] if ours else []
    before = [read() for read in readers]
    seen = generator.drive(options.load, web.port, SOCKET_PATH, **load)
    messages = max(1.0, seen["sent"] * (1 + load["warmup"] / load["seconds"]))
    used = [1e6 * (read() - start) / messages for read, start in zip(readers, before, strict=True)]
    return Run(seen, *used)


def paced(options: Options, folder: Path, report: Report) -> None:
    """Measure connections at real-time pace, beside a bare application and a stock consumer."""
    (folder / "stock").mkdir()
    with (
        application("bare") as bare,
        application("stock", STOCK_FOLDER=str(folder / "stock")) as stock,
        product(folder / "paced", "SQLite") as ours,
        product(folder / "paced-postgresql", "PostgreSQL") as other,
    ):
        bares, lites, postgres, stocks, few = [], [], [], [], []
        for _ in range(options.rounds):
            bares.append(run(options, bare))
            lites.append(run(options, ours.web, ours))
            postgres.append(run(options, other.web, other))
            stocks.append(run(options, stock, connections=10))
            few.append(run(options, ours.web, ours, connections=10))
        bare_us = [each.web_us for each in bares]
        for database, runs in (("SQLite", lites), ("PostgreSQL", postgres)):
            report.add(*_paced_rows(database, runs, bares, bare_us))
        report.add(
            Row(
                "CPU a chunk of the web process, 10 connections",
                "µs",
                [each.web_us for each in few],
                "stock Channels consumer, an ORM row a message",
                [each.web_us for each in stocks],
            ),
            Row("the load generator", "µs a message", [each.seen["generator_us_per_message"] for each in lites]),
        )
        _windows(options, ours, report)
        _many(options, ours, report)
    _reconcatenation(folder, [each.all_us for each in lites], report)


def _paced_rows(database: str, runs: list[Run], bares: list[Run], bare_us: list[float]) -> list[Row]:
    name = f"{CONNECTIONS} connections, {database}"
    echo = "bare ASGI echo"
    return [
        Row(f"CPU a chunk, web process, {name}", "µs", [e.web_us for e in runs], echo, bare_us, 1.5, is_ratio=True),
        Row(f"CPU a chunk, everything, {name}", "µs", [e.all_us for e in runs], echo, bare_us, 2.0, is_ratio=True),
        *(
            Row(
                f"acknowledgement, {percent}, {name}",
                "ms",
                [each.seen[f"{percent}_ms"] for each in runs],
                echo,
                [each.seen[f"{percent}_ms"] for each in bares],
                most,
            )
            for percent, most in (("p50", 5.0), ("p99", 15.0))
        ),
    ]


def _windows(options: Options, ours: Ours, report: Report) -> None:
    """Measure the workers over as long as it takes until each session has had a full window."""
    found = run(options, ours.web, ours, seconds=max(40.0, options.seconds), warmup=1.0)
    report.add(
        Row(
            f"CPU a chunk, workers, {CONNECTIONS} connections for 40 s",
            "µs",
            [found.worker_us],
            "our web process",
            [found.web_us],
            0.1,
            is_ratio=True,
        )
    )


def _many(options: Options, ours: Ours, report: Report) -> None:
    found = run(options, ours.web, ours, connections=1000, seconds=max(10.0, options.seconds), warmup=5.0)
    lost = found.seen["rejected"] + found.seen["ended"]
    report.add(
        Row("1,000 connections: rejected or ended", "", [lost], most=0),
        Row("1,000 connections: unanswered for more than a second at the end", "", [_late(found.seen)], most=0),
        Row("1,000 connections: acknowledgement, p50", "ms", [found.seen["p50_ms"]]),
        Row("1,000 connections: acknowledgement, p99", "ms", [found.seen["p99_ms"]], most=100.0),
        Row("1,000 connections: CPU a chunk, web process", "µs", [found.web_us]),
    )


def _late(seen: dict[str, Any]) -> float:
    """Return how many messages were unanswered at the end, beyond those of the last second."""
    return max(0.0, seen["behind"] - 1000 * 10)


def crowds(options: Options, folder: Path, report: Report) -> None:
    """Measure a crowd of clients that open and close at once, while others record."""
    for database in ("SQLite", "PostgreSQL"):
        with product(folder / f"crowd-{database}", database) as ours:
            calm, runs = [], []
            for _ in range(options.rounds):
                calm.append(run(options, ours.web, ours, connections=50, seconds=4.0))
                load = {"crowd": CROWD, "crowd_at": 1.0, "crowd_close_at": 4.0}
                runs.append(run(options, ours.web, ours, connections=50, seconds=8.0, **load))
            seen = [each.seen["crowd"] for each in runs]
            report.add(
                Row(
                    f"others' p99 while {CROWD} clients open and close at once, {database}",
                    "ms",
                    [each["others_p99_ms"] for each in seen],
                    "p99 without them",
                    [each.seen["p99_ms"] for each in calm],
                    50.0,
                ),
                Row(f"openings, {database}", "a second", [each["per_second"] for each in seen], least=1000.0),
            )


def _reconcatenation(folder: Path, ours_us: list[float], report: Report) -> None:
    """Compare with a run of FFmpeg that appends a chunk to ten minutes. A server without windows needs one a chunk."""
    for name, seconds in (("long.wav", 600.0), ("chunk.wav", 0.1)):
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(bytes(2 * int(16000 * seconds)))
    (folder / "list").write_text("file long.wav\nfile chunk.wav\n")
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "concat", "-i", "list", "-c", "copy", "-y", "joined.wav"]
    theirs = []
    for _ in ours_us:
        before = os.times()
        subprocess.run(command, cwd=folder, check=True)
        theirs.append(1e6 * sum(new - old for new, old in zip(os.times()[2:4], before[2:4], strict=True)))
    report.add(
        Row("CPU a chunk, everything", "µs", ours_us, "FFmpeg joins ten minutes and the chunk, for each chunk", theirs)
    )


def disk(folder: Path, report: Report) -> None:
    """Measure the two flushes that an acknowledgement waits for: a journal's, and a commit's of SQLite."""
    journal, database = [], []
    with (folder / "flush.journal").open("wb", buffering=0) as file:
        for _ in range(50):
            journal.append(_ms(lambda: (file.write(bytes(64000)), os.fdatasync(file.fileno()))))
    connection = sqlite3.connect(folder / "flush.sqlite3", isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE chunk (id INTEGER)")
    for _ in range(50):
        database.append(_ms(lambda: connection.execute("INSERT INTO chunk VALUES (1)")))
    connection.close()
    medians = [statistics.median(journal)], [statistics.median(database)]
    report.add(Row("the disk: flush of 64 kB", "ms", medians[0]), Row("the disk: commit of SQLite", "ms", medians[1]))


def _ms(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def starts(options: Options, folder: Path, report: Report) -> None:
    """Measure the start of an installed server, and its memory when it is idle."""
    with product(folder / "start", "SQLite") as ours:
        ours.server.stop()
        seconds = []
        for _ in range(options.rounds):
            started = time.perf_counter()
            ours.server.restart()
            seconds.append(time.perf_counter() - started)
            memory = pss_mib(ours.server.processes())
            ours.server.stop()
    report.add(
        Row("`make run`, installed, until it is ready", "s", seconds, most=3.0),
        Row("memory of the idle server, all processes (PSS)", "MiB", [memory], most=300.0),
    )


def reconnections(options: Options, folder: Path, report: Report) -> None:
    """Measure how long 1,000 clients take to continue their sessions, all at once, when the server is back."""
    for database in ("SQLite", "PostgreSQL"):
        with product(folder / f"reconnections-{database}", database) as ours:
            load: dict[str, Any] = {"connections": MANY, "seconds": 1.0, "interval_ms": 1000.0, "warmup": 0.0}
            run(options, ours.web, **load)
            sessions = folder / "sessions"
            sessions.write_text("".join(f"{each}\n" for each in _open_sessions(ours.server)))
            seconds, ended = [], []
            for _ in range(options.rounds):
                ours.server.stop()
                ours.server.restart()
                again = {**load, "sessions": str(sessions), "opening_at_once": MANY}
                seen = run(options, target(ours.server), **again).seen
                seconds.append(seen["opened_in_seconds"])
                ended.append(seen["ended"] + seen["rejected"])
        report.add(
            Row(f"{MANY:,} clients reconnect at once, until the last is greeted, {database}", "s", seconds),
            Row(f"{MANY:,} clients reconnect at once: rejected or ended, {database}", "", ended, most=0),
        )


def _open_sessions(server: Server) -> list[str]:
    """Return the ids of all open sessions."""
    script = "from audio.models import AudioSession\nfor each in AudioSession.objects.open(): print(each.pk)"
    return server.manage("shell", "-v", "0", "-c", script).split()


def idle(options: Options, folder: Path, report: Report) -> None:
    """Measure the memory and the CPU of connections that send next to nothing."""
    with product(folder / "idle", "SQLite") as ours:
        before = pss_mib(ours.server.processes())
        load: dict[str, Any] = {
            "connections": IDLE,
            "seconds": IDLE_SECONDS,
            "interval_ms": 1000 * IDLE_SECONDS,
            "warmup": 0.0,
        }
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            running = threads.submit(run, options, ours.web, **load)
            while len(_open_sockets(ours)) < IDLE and not running.done():
                time.sleep(0.2)
            started, used = time.perf_counter(), cpu_seconds(ours.web.process)
            time.sleep(IDLE_SECONDS / 2)
            share = (cpu_seconds(ours.web.process) - used) / (time.perf_counter() - started)
            memory = pss_mib(ours.server.processes())
            seen = running.result().seen
    report.add(
        Row(f"{IDLE:,} idle connections: rejected or ended", "", [seen["rejected"] + seen["ended"]], most=0),
        Row(f"{IDLE:,} idle connections: memory of each", "KiB", [1024 * (memory - before) / IDLE]),
        Row(f"{IDLE:,} idle connections: CPU of the web process", "% of a core", [100 * share]),
    )


def _open_sockets(ours: Ours) -> list[Any]:
    connections = ours.web.process.net_connections("tcp")
    return [each for each in connections if each.status == psutil.CONN_ESTABLISHED]


def soak(options: Options, folder: Path, report: Report) -> None:
    """Measure ten minutes of 500 connections: the memory must stay flat."""
    with product(folder / "soak", "SQLite") as ours:
        load: dict[str, Any] = {"connections": 500, "seconds": 60.0 * options.soak_minutes, "warmup": 10.0}
        memory = []
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            running = threads.submit(run, options, ours.web, ours, **load)
            while not running.done():
                time.sleep(5.0)
                memory.append(pss_mib(ours.server.processes()))
            seen = running.result().seen
    name, third = f"500 connections for {options.soak_minutes:g} min", max(1, len(memory) // 3)
    report.add(
        Row(f"{name}: rejected or ended", "", [seen["rejected"] + seen["ended"]], most=0),
        Row(f"{name}: acknowledgement, p50", "ms", [seen["p50_ms"]]),
        Row(f"{name}: acknowledgement, p99", "ms", [seen["p99_ms"]]),
        Row(
            f"{name}: memory, last third",
            "MiB",
            [statistics.median(memory[-third:])],
            "second third",
            [statistics.median(memory[third : 2 * third] or memory)],
            1.05,
            is_ratio=True,
        ),
    )


def scales(options: Options, folder: Path, report: Report) -> None:
    """Measure what must not grow with the number of sessions and chunks that are stored."""
    with product(folder / "scale", "SQLite") as ours:
        server = ours.server
        session_id = _recorded(server)
        first: dict[str, float] = {}
        for rows in options.scales:
            server.stop()
            scale.fill(server, session_id, rows)
            server.restart()
            found = scale.requests_ms(server.url, session_id)
            found["CPU a chunk, web process, 50 connections"] = run(options, target(server), connections=50).web_us
            first = first or found
            for name, value in found.items():
                unit = "µs" if name.startswith("CPU") else "ms"
                reference = f"with {options.scales[0]:,}"
                report.add(Row(f"{name}, {rows:,} sessions and chunks stored", unit, [value], reference, [first[name]]))


def _recorded(server: Server) -> str:
    """Record a session of one chunk, and return its id."""

    async def record() -> str:
        async with recorder(server.ws_url, format="wav") as client:
            await client.store(bytes(3200))
            await client.close_session()
        return client.session_id

    session_id = asyncio.run(record())
    Rest(server.url).finished(session_id)
    return session_id


def main() -> None:
    """Read the options, measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (default 8)")
    parser.add_argument("--minutes", type=int, default=60, help="minutes of audio to join (default 60)")
    parser.add_argument("--soak-minutes", type=float, default=10.0, help="length of the case `soak` (default 10)")
    parser.add_argument("--scales", type=int, nargs="+", default=SCALES, help="sessions and chunks that are stored")
    parser.add_argument("--sessions", type=int, nargs="+", default=sessions.SCALES, help="sessions that are stored")
    parser.add_argument("--only", nargs="+", choices=CASES, default=DEFAULT, help="what is measured")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where bench.md and bench.json are written")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-bench-"))
    report = Report()
    try:
        options = Options(
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            minutes=chosen.minutes,
            soak_minutes=chosen.soak_minutes,
            scales=tuple(chosen.scales),
            sessions=tuple(chosen.sessions),
            load=generator.built(folder),
        )
        for name in chosen.only:
            CASES[name](options, folder, report)
            report.write(chosen.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"\n{report.markdown()}")


def sessions_stored(options: Options, folder: Path, report: Report) -> None:
    """Measure what must not cost more with more sessions."""
    for database in ("SQLite", "PostgreSQL"):
        with product(folder / f"sessions-{database}", database) as ours:
            report.add(*sessions.rows(ours.server, database, options.sessions))


CASES: dict[str, Callable[[Options, Path, Report], None]] = {
    "disk": lambda _, folder, report: disk(folder, report),
    "paced": paced,
    "crowds": crowds,
    "reconnections": reconnections,
    "idle": idle,
    "soak": soak,
    "starts": starts,
    "scale": scales,
    "sessions": sessions_stored,
    "concatenation": lambda options, folder, report: concatenation.measure(folder, options.minutes, report),
}

# Ten minutes for one figure is more than one wants each time.
DEFAULT = [name for name in CASES if name != "soak"]

if __name__ == "__main__":
    main()
