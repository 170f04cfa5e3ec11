"""Prometheus gauges that are read from the database and the storage at the time of a scrape.

Every query uses an index, or reads only rows of open sessions. None reads more chunks than there are waiting sessions.
A reading is cached for some seconds, and for at least a hundred times as long as it took. So a web process spends at
most a hundredth of its time on readings, however large the database is.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import BigIntegerField, Count, F, Min, OuterRef, QuerySet, Subquery
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce, Greatest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from audio import events, ingest, versions
from audio.journal.files import FOLDER
from audio.models import (
    OPEN_STATUSES,
    AudioChunk,
    AudioConnection,
    AudioSession,
    BackgroundTask,
    IngestProcess,
    Recording,
    RecordingState,
    SessionStatus,
    TaskKind,
    TaskState,
)

_KEPT_SECONDS = 5.0
_KEPT_TIMES = 100
_REDIS_SECONDS = 1.0


class Reading(Collector):
    """The latest reading. One object serves a process, like the collectors of the client library."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._families: list[Metric] = []
        self._good_until = 0.0

    def collect(self) -> Iterable[Metric]:
        """Return the families of the cached reading; take a new reading if that one is too old."""
        with self._lock:
            started = time.monotonic()
            if started >= self._good_until:
                self._families = [*_database(), *_redis(), *_storage(), _info()]
                ended = time.monotonic()
                self._good_until = ended + max(_KEPT_SECONDS, _KEPT_TIMES * (ended - started))
            return self._families


reading = Reading()


def _database() -> list[Metric]:
    """Return the gauges of the database. If the database does not answer, that is the only gauge."""
    try:
        families = [*_counts(), *_ages(ingest.database_time())]
    except DatabaseError:
        return [_gauge("database_up", "Whether the database answers.", 0)]
    return [_gauge("database_up", "Whether the database answers.", 1), *families]


def _redis() -> Iterator[Metric]:
    try:
        events.try_redis(_REDIS_SECONDS)
        is_up = 1
    except RedisError:
        is_up = 0
    yield _gauge("redis_up", "Whether Redis takes writes.", is_up)


def _info() -> Metric:
    return InfoMetricFamily("sercuescribe", "What runs here, and in which version.", value=versions.known())


def _counts() -> Iterator[Metric]:
    sessions = dict(_grouped(AudioSession.objects.all(), "status"))
    yield _by_state("sessions", "Sessions, by state.", sessions, SessionStatus.values)
    recordings = dict(_grouped(Recording.objects.all(), "state"))
    yield _by_state("recordings", "Recordings, by state.", recordings, RecordingState.values)
    yield _tasks(
        {(kind, state): count for kind, state, count in _grouped(BackgroundTask.objects.all(), "kind", "state")}
    )
    yield _gauge("connections", "Open WebSockets of all hosts.", AudioConnection.objects.count())
    yield _gauge("web_processes", "Web processes of all hosts.", IngestProcess.objects.count())


def _grouped(rows: QuerySet[Any], *fields: str) -> QuerySet[Any, Any]:
    counted: QuerySet[Any, Any] = rows.order_by().values_list(*fields).annotate(count=Count("*"))
    return counted


def _ages(now: datetime) -> Iterator[Metric]:
    yield _gauge(
        "concatenation_lag_seconds",
        "Age of the oldest chunk that no window has taken yet.",
        _age(now, oldest_waiting_chunk().aggregate(at=Min("received_at"))["at"]),
    )
    closed = Recording.objects.unfinished().filter(session__total_chunks__gt=0)
    ended_at = closed.exclude(session__status__in=OPEN_STATUSES).aggregate(at=Min("session__end_time"))["at"]
    yield _gauge(
        "recording_delay_seconds",
        "Time since the close of the session that has waited longest for its recording.",
        _age(now, ended_at),
    )
    tasks = BackgroundTask.objects.open()
    pending_at = tasks.filter(state=TaskState.PENDING).aggregate(at=Min("created_at"))["at"]
    yield _gauge("task_wait_seconds", "Age of the oldest background task that waits.", _age(now, pending_at))
    silent_since = tasks.filter(state=TaskState.RUNNING).aggregate(at=Min("updated_at"))["at"]
    yield _gauge(
        "task_silence_seconds",
        "Longest time since a running background task told how far it is.",
        _age(now, silent_since),
    )


def oldest_waiting_chunk() -> QuerySet[Recording]:
    """Return the unfinished recordings with chunks that no window has seen.

    `received_at` is the arrival of the first of these chunks.
    """
    looked_to = Cast(KeyTextTransform("looked_to", "checkpoint"), BigIntegerField())
    seen = Greatest(F("chunks_done"), Coalesce(looked_to, 0))
    waiting = Recording.objects.unfinished().annotate(seen=seen)
    first = AudioChunk.objects.filter(session=OuterRef("pk"), sequence=OuterRef("seen") + 1).order_by()
    return waiting.filter(session__total_chunks__gt=F("seen")).annotate(
        received_at=Subquery(first.values("received_at")[:1])
    )


def _age(now: datetime, since: datetime | None) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0


def _storage() -> list[Metric]:
    try:
        settings.AUDIO_STORAGE_PATH.mkdir(parents=True, exist_ok=True)
        sizes = list(_journal_sizes())
        disk = shutil.disk_usage(settings.AUDIO_STORAGE_PATH)
    except OSError:
        return [_gauge("storage_up", "Whether the storage can be read.", 0)]
    return [
        _gauge("storage_up", "Whether the storage can be read.", 1),
        _gauge("journal_bytes", "Bytes of all journal files.", sum(sizes)),
        _gauge("journal_files", "Journal files.", len(sizes)),
        _gauge("storage_size_bytes", "Size of the file system of the storage.", disk.total),
        _gauge("storage_free_bytes", "Bytes that may still be written there.", disk.free),
    ]


def _journal_sizes() -> Iterator[int]:
    folder = settings.AUDIO_STORAGE_PATH / FOLDER
    if not folder.is_dir():
        return
    with os.scandir(folder) as subfolders:
        for subfolder in subfolders:
            with os.scandir(subfolder) as files:
                yield from (file.stat().st_size for file in files)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sercuescribe_{name}", documentation, value=value)


def _by_state(name: str, documentation: str, counts: dict[str, int], states: list[str]) -> Metric:
    """Return a gauge by state. States without rows are included, because an alert can't see a missing series."""
    family = GaugeMetricFamily(f"sercuescribe_{name}", documentation, labels=["state"])
    for state in states:
        family.add_metric([state], counts.get(state, 0))
    return family


def _tasks(counts: dict[tuple[str, str], int]) -> Metric:
    family = GaugeMetricFamily("sercuescribe_tasks", "Background tasks, by kind and state.", labels=["kind", "state"])
    for kind in TaskKind.values:
        for state in TaskState.values:
            family.add_metric([kind, state], counts.get((kind, state), 0))
    return family
