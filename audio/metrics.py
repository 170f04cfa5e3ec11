"""The Prometheus instruments of a web process, for values that are not in the database.

Prometheus' client library expects each instrument to be an object of a module, created once. All of them are here. They
change once for each batch, not for each chunk. Numbers from the database are read at the time of a scrape
(`audio.gauges`).

The web processes of a host share a folder (`settings.METRICS_DIR`), in which the library keeps the numbers of each. The
process that is scraped reports the numbers of all. The library reads the name of the folder from
PROMETHEUS_MULTIPROC_DIR when it is imported; `sercuescribe.server` sets this variable. A process without it reports
only its own numbers.
"""

import errno
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from audio.errors import CODES

_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FLUSH_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
# Clients may close with any code. A fixed set of labels keeps the number of series bounded.
_CLOSE_CODES = frozenset((1000, 1001, 1005, 1006, 1008, 1009, 1011, 1012, 1013, 4408, 4409))
_OTHER = "other"
# Those that `audio.ingest` runs beside the connections.
BACKGROUND_TASKS = ("heartbeat", "windows", "events", "erasures", "announcement", "event_stream", "after_commit")


class BatchHistogram(Histogram):
    """A histogram that records many observations at once."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe each of the amounts, much cheaper than by calls of `observe`."""
        self._sum.inc(sum(amounts))
        for place, count in Tally(map(partial(bisect_left, self._upper_bounds), amounts)).items():
            self._buckets[place].inc(count)


registry = CollectorRegistry()

chunks = Counter("sercuescribe_chunks", "Chunks that were made durable and acknowledged.", registry=registry)
chunk_bytes = Counter("sercuescribe_chunk_bytes", "Bytes of those chunks.", registry=registry)
chunks_rejected = Counter(
    "sercuescribe_chunks_rejected", "Chunks that were answered with an error, by its code.", ["code"], registry=registry
)
acknowledgement_latency = BatchHistogram(
    "sercuescribe_acknowledgement_latency_seconds",
    "From the arrival of a chunk to its acknowledgement.",
    buckets=_LATENCY_BUCKETS,
    registry=registry,
)
batch_chunks = Histogram(
    "sercuescribe_batch_chunks",
    "Chunks that shared one flush and one commit.",
    buckets=_BATCH_BUCKETS,
    registry=registry,
)
journal_flush = Histogram(
    "sercuescribe_journal_flush_seconds",
    "Write and fdatasync of a batch in the journal.",
    buckets=_FLUSH_BUCKETS,
    registry=registry,
)
commit = Histogram(
    "sercuescribe_commit_seconds", "The database transaction of a batch.", buckets=_FLUSH_BUCKETS, registry=registry
)
in_flight_bytes = Gauge(
    "sercuescribe_in_flight_bytes",
    "Bytes that have arrived and are not durable yet.",
    multiprocess_mode="livesum",
    registry=registry,
)
connections_opened = Counter("sercuescribe_connections_opened", "WebSockets that were greeted.", registry=registry)
connections_rejected = Counter(
    "sercuescribe_connections_rejected",
    "WebSockets that got an error instead of a greeting, by its code.",
    ["code"],
    registry=registry,
)
handshakes_rejected = Counter(
    "sercuescribe_handshakes_rejected",
    "WebSocket handshakes that were rejected, because of their host or of their origin.",
    ["reason"],
    registry=registry,
)
requests_rejected = Counter(
    "sercuescribe_requests_rejected",
    "HTTP requests that were rejected because of their host.",
    ["reason"],
    registry=registry,
)
connections_closed = Counter(
    "sercuescribe_connections_closed", "WebSockets that have ended, by close code.", ["code"], registry=registry
)
background_task_failures = Counter(
    "sercuescribe_background_task_failures",
    "Unexpected ends of background tasks of the web processes, by the name of the task.",
    ["task"],
    registry=registry,
)
event_listeners = Gauge(
    "sercuescribe_event_listeners",
    "Clients that listen to the event stream.",
    multiprocess_mode="livesum",
    registry=registry,
)
without_redis = Gauge(
    "sercuescribe_web_processes_without_redis",
    "Web processes of this host that are cut off from Redis.",
    multiprocess_mode="livesum",
    registry=registry,
)


# All series begin at zero. Prometheus sees no growth in a series whose first value is a count, so no alert would fire.
for _reason in ("host", "origin"):
    handshakes_rejected.labels(_reason)
requests_rejected.labels("host")
for _task in BACKGROUND_TASKS:
    background_task_failures.labels(_task)
for _code in CODES:
    chunks_rejected.labels(_code)
    connections_rejected.labels(_code)
for _close_code in (*sorted(_CLOSE_CODES), _OTHER):
    connections_closed.labels(str(_close_code))


class _FolderCollector(MultiProcessCollector):
    """The library's collector, for a folder of any name.

    The library's own `collect` uses the path as a glob pattern, so that brackets in it would have a meaning.
    """

    def collect(self) -> Iterable[Metric]:
        """Return the sums of the numbers that the processes have written."""
        files = [str(path) for path in Path(self._path).glob("*.db")]
        merged: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return merged


def count_closed(code: int) -> None:
    """Count the end of a connection. Close codes that are not used here share one label."""
    connections_closed.labels(str(code) if code in _CLOSE_CODES else _OTHER).inc()


def instruments(folder: Path) -> Collector:
    """Return a collector of the instruments of all web processes that share the folder.

    In a process that shares no folder, these are its own instruments alone.
    """
    try:
        shared: Collector = _FolderCollector(None)  # type: ignore[no-untyped-call]  # the library's
    except ValueError:
        return registry
    _forget_the_dead(folder)
    return shared


def begin_anew(folder: Path) -> None:
    """Create the folder, and remove the numbers of earlier processes. None of them may be running.

    If the disk has no room for the folder, only the shared numbers are lost: each web process keeps its own.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return
    for path in folder.glob("*.db"):
        path.unlink()


def _forget_the_dead(folder: Path) -> None:
    """Remove the gauges of processes that have ended.

    Their counters stay, because a falling sum looks like a restart.
    """
    for path in folder.glob("gauge_live*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not _is_running(pid):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
