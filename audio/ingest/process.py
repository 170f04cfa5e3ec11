"""The ingest of this process: its committer, its connections, its heartbeat.

`current()` is the one place that keeps state for the whole process: all connections share one committer, and
so one journal file. Everything here runs on the event loop's thread, except what is handed to the executor.
"""

import asyncio
import contextlib
import contextvars
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import structlog
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, transaction
from django.utils import timezone
from redis.exceptions import RedisError

from audio import dispatch, events, metrics
from audio.database import refusal
from audio.errors import AudioError, ServiceError
from audio.ingest import sessions
from audio.ingest.clock import ClockWatch, database_time
from audio.ingest.committer import Append, Committer, Settled
from audio.ingest.erasures import erase_own
from audio.ingest.supervision import Supervisor
from audio.ingest.types import Accepted, LiveConnection, Producer
from audio.models import OPEN_STATUSES, AudioConnection, AudioSession, AudioSource, IngestProcess

logger = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024
WINDOW_BYTES = 1024 * 1024
# Windows cost a worker some milliseconds each: with many sessions they get larger instead of more.
WINDOWS_PER_TICK = 40
_TICK_SECONDS = 1.0
# The layer forgets a member of a group after a day.
_REJOIN_SECONDS = 3600.0
_DRAIN_SECONDS = 4.0
# Longer than the answer to the commit of an opening can be on its way.
_STRAY_SECONDS = 15.0


class _Pulse(NamedTuple):
    """What a heartbeat found: connections whose session is closed or deleted, those that are superseded, and rows of
    connections that the process does not have."""

    closed: list[int]
    deleted: list[int]
    superseded: list[int]
    strays: set[int]


class _Waiting:
    """Audio of one session that no window has been asked for yet."""

    __slots__ = ("since", "size_bytes")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.size_bytes = 0


class Ingest:
    """Everything that takes chunks in this process. Made on the event loop that it serves."""

    def __init__(self) -> None:
        self.process_id = uuid.uuid4()
        self.in_flight_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, LiveConnection] = {}
        self._ended: set[int] = set()
        self._waiting: dict[uuid.UUID, _Waiting] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False
        self._starting = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sessions")
        # Clients that come in crowds, or wait for a Redis that is away, must not make this process look dead.
        self._heart = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heartbeat")
        self._clock = ClockWatch()
        self._is_started = False
        self._background = Supervisor()
        self._committer = Committer(
            root=settings.AUDIO_STORAGE_PATH,
            process_id=self.process_id,
            deliver=self._deliver,
            gather_seconds=settings.COMMIT_GATHER_MS / 1000,
            journal_file_size_bytes=settings.JOURNAL_FILE_SIZE_BYTES,
        )

    def belongs_here(self) -> bool:
        """Whether this ingest serves the event loop that runs now."""
        return self._loop is asyncio.get_running_loop()

    async def started(self) -> None:
        """Start on the first call, and return once the process is registered.

        Raises:
            ServiceError: The database is away or full.
        """
        async with self._starting:
            if not self._is_started:
                await self._start()
                self._is_started = True

    async def _start(self) -> None:
        await self.run(self._clock.read)
        await self.run(_register, self.process_id)
        self._committer.start()
        self._background.keep_running("heartbeat", self._beat)
        self._background.keep_running("windows", self._ask_for_windows)
        self._background.keep_running("events", self._listen)
        self._background.keep_running("erasures", self._erase_deleted)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that uses the database in a thread of the executor.

        Raises:
            ServiceError: The database is away or full.
        """
        # The context goes along: it says in the log for whom.
        run = contextvars.copy_context().run
        return await self._loop.run_in_executor(self._executor, run, _with_database, function, *arguments)

    async def _say_alive(self, mine: dict[int, Producer]) -> _Pulse:
        return await self._loop.run_in_executor(
            self._heart, _with_database, _heartbeat, self.process_id, mine, self._clock
        )

    def add(self, connection: LiveConnection) -> None:
        """Let a connection submit from now on, and tell older ones of its source, on any host, that they are over."""
        self._connections[connection.connection_id] = connection
        self._empty.clear()
        if connection.producer.epoch is not None and connection.producer.epoch > 1:
            # In the background: a Redis that hangs must not hold up the connection.
            superseded = events.source_superseded(connection.producer.source_id, connection.producer.epoch)
            self._background.run_once("announcement", superseded)
        if self.draining:
            connection.go_away()

    async def remove(self, connection: LiveConnection) -> None:
        """A connection has ended; its row goes, with a later heartbeat if the database is away."""
        if self._connections.pop(connection.connection_id, None) is not None and not self.draining:
            await self._release(connection.connection_id)
        if not self._connections:
            self._empty.set()

    async def _release(self, connection_id: int) -> None:
        try:
            await self.run(sessions.release_connection, connection_id)
        except ServiceError as error:
            logger.warning("connection_release_put_off", connection_id=connection_id, error=str(error))
            self._ended.add(connection_id)
        else:
            self._ended.discard(connection_id)

    def submit(self, connection: LiveConnection, payload: bytes) -> None:
        """Hands a chunk to the committer; its outcome comes through `connection.settle`."""
        self.in_flight_bytes += len(payload)
        if self.in_flight_bytes >= MAX_IN_FLIGHT_BYTES:
            self._room.clear()
        self._committer.submit(Append(connection.producer, payload, time.time_ns() // 1000, connection))

    @property
    def has_room(self) -> bool:
        """Whether the process takes more bytes now."""
        return self._room.is_set()

    async def room(self) -> None:
        """Waits until the process takes more bytes."""
        await self._room.wait()

    async def drain(self) -> None:
        """Lets every connection settle, answer and close; then stops the committer and signs the process off."""
        self.draining = True
        for connection in list(self._connections.values()):
            connection.go_away()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            logger.warning("connections_abandoned", count=len(self._connections))
        await self._background.stop()
        await asyncio.to_thread(self._committer.stop)
        try:
            # In the heartbeat's thread: a sign of life that is under way must not come behind.
            await self._loop.run_in_executor(self._heart, _with_database, sessions.release_process, self.process_id)
        except ServiceError as error:
            logger.warning("process_release_put_off", error=str(error))
        self._executor.shutdown()
        self._heart.shutdown()

    def _deliver(self, settled: list[Settled]) -> None:
        """From the committer's thread: one wake-up of the loop for the whole batch."""
        self._loop.call_soon_threadsafe(self._settle, settled)

    def _settle(self, settled: list[Settled]) -> None:
        touched = {}
        acknowledged: list[Append] = []
        for append, outcome in settled:
            size_bytes = len(append.payload)
            self.in_flight_bytes -= size_bytes
            append.waiter.settle(size_bytes, outcome)
            touched[id(append.waiter)] = append.waiter
            if isinstance(outcome, Accepted):
                acknowledged.append(append)
                self._note_waiting(append.producer.session_id, size_bytes)
            else:
                metrics.chunks_refused.labels(outcome.code).inc()
        for waiter in touched.values():
            waiter.wake()
        if self.in_flight_bytes < MAX_IN_FLIGHT_BYTES:
            self._room.set()
        self._measure(acknowledged)

    def _measure(self, acknowledged: list[Append]) -> None:
        now_us = time.time_ns() // 1000
        metrics.in_flight_bytes.set(self.in_flight_bytes)
        metrics.chunks.inc(len(acknowledged))
        metrics.chunk_bytes.inc(sum([len(append.payload) for append in acknowledged]))
        # The clock of the arrival is the wall's, which may be put back.
        metrics.acknowledgement_latency.observe_all(
            [max(0, now_us - append.received_at_us) / 1_000_000 for append in acknowledged]
        )

    def _note_waiting(self, session_id: uuid.UUID, size_bytes: int) -> None:
        waiting = self._waiting.get(session_id)
        if waiting is None:
            waiting = self._waiting[session_id] = _Waiting()
        waiting.size_bytes += size_bytes

    def _due(self) -> list[uuid.UUID]:
        """Sessions with some seconds or a megabyte of audio waiting, those that have waited longest first."""
        before = time.monotonic() - settings.WINDOW_SECONDS
        due = [key for key, w in self._waiting.items() if w.since <= before or w.size_bytes >= WINDOW_BYTES]
        for key in due[:WINDOWS_PER_TICK]:
            del self._waiting[key]
        return due[:WINDOWS_PER_TICK]

    async def _ask_for_windows(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if due := self._due():
                await self._loop.run_in_executor(self._executor, dispatch.concatenate_live, due)

    async def _beat(self) -> None:
        wait_seconds = settings.HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(wait_seconds)
            wait_seconds = settings.HEARTBEAT_SECONDS
            mine = {key: connection.producer for key, connection in self._connections.items()}
            try:
                pulse = await self._say_alive(mine)
            except AudioError as error:
                logger.warning("heartbeat_failed", error=str(error))
                # To be among the living again soon after the database is.
                wait_seconds = min(wait_seconds, _TICK_SECONDS)
                continue
            for connection in self._present(pulse.closed):
                connection.session_closed()
            for connection in self._present(pulse.deleted):
                connection.session_deleted()
            for connection in self._present(pulse.superseded):
                connection.superseded()
            # One whose opening failed after its commit.
            for connection_id in self._ended | pulse.strays - self._connections.keys():
                await self._release(connection_id)

    async def _erase_deleted(self) -> None:
        """Erases what was deleted from the journals of this process, into which nobody else may write."""
        while True:
            await asyncio.sleep(settings.HEARTBEAT_SECONDS)
            try:
                await self.run(erase_own, settings.AUDIO_STORAGE_PATH, self.process_id)
            except (AudioError, OSError) as error:
                logger.warning("erasures_put_off", error=str(error))

    def _present(self, keys: Iterable[int]) -> list[LiveConnection]:
        return [connection for key in keys if (connection := self._connections.get(key)) is not None]

    async def _listen(self) -> None:
        """Reads the channel layer; whatever it loses, the heartbeat finds in the database."""
        layer = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                while True:
                    await layer.group_add(events.GROUP, channel)
                    metrics.without_redis.set(0)
                    await self._hear_for(layer, channel, _REJOIN_SECONDS)
            except (RedisError, OSError) as error:
                metrics.without_redis.set(1)
                logger.warning("channel_layer_away", error=str(error))
                await asyncio.sleep(_TICK_SECONDS)

    async def _hear_for(self, layer: Any, channel: str, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._hear(await layer.receive(channel))

    def _hear(self, event: dict[str, Any]) -> None:
        for connection in list(self._connections.values()):
            producer = connection.producer
            if event["type"] in (events.CLOSED, events.WARNED) and str(producer.session_id) == event["session_id"]:
                if event["type"] == events.CLOSED:
                    connection.session_closed()
                else:
                    connection.warned(event["warning"])
            elif (
                event["type"] == events.SUPERSEDED
                and producer.source_id == event["source_id"]
                and producer.epoch is not None
                and producer.epoch < event["epoch"]
            ):
                connection.superseded()


def _with_database(function: Callable[..., T], *arguments: Any) -> T:
    close_old_connections()
    try:
        return function(*arguments)
    except DatabaseFailure as error:
        logger.error("database_failed", error=str(error))
        raise refusal(error) from error


def _register(process_id: uuid.UUID) -> None:
    now = database_time()
    IngestProcess.objects.update_or_create(
        pk=process_id,
        defaults={"host": socket.gethostname(), "pid": os.getpid(), "ready_at": now, "heartbeat_at": now},
    )


def _heartbeat(process_id: uuid.UUID, mine: dict[int, Producer], clock: ClockWatch) -> _Pulse:
    """Say that the process lives, and look at the rows of its connections."""
    now, clock_set = clock.read()
    if clock_set is not None:
        # Before the sign of life by the new time, which lets others judge the sessions.
        sessions.restart_ages(clock_set, process_id, {producer.session_id for producer in mine.values()})
    if not IngestProcess.objects.filter(pk=process_id).update(heartbeat_at=now):
        _register(process_id)
    rows = {
        key: (status, connected_at)
        for key, status, connected_at in AudioConnection.objects.filter(process_id=process_id).values_list(
            "pk", "session__status", "connected_at"
        )
    }
    missing = {key: producer for key, producer in mine.items() if key not in rows}
    closed, deleted, superseded = _restore(process_id, missing) if missing else ([], [], [])
    closed += [key for key in mine if key in rows and rows[key][0] not in OPEN_STATUSES]
    # A younger one may just be on its way to the event loop.
    young = timezone.now() - timedelta(seconds=_STRAY_SECONDS)
    strays = {key for key, (_, connected_at) in rows.items() if key not in mine and connected_at < young}
    return _Pulse(closed, deleted, superseded, strays)


def _restore(process_id: uuid.UUID, missing: dict[int, Producer]) -> tuple[list[int], list[int], list[int]]:
    """Judge connections without a row by their sources, and put back the rows of those that still hold.

    A missing row alone says nothing: others may have taken this process for dead. The sessions of those that hold were
    never deserted, so no grace runs on for them.

    Returns:
        The connections whose session is closed, those whose session was deleted, and those that are superseded.
    """
    with transaction.atomic():
        sessions = AudioSession.objects.select_for_update().filter(pk__in={p.session_id for p in missing.values()})
        statuses = dict(sessions.order_by("pk").values_list("pk", "status"))
        sources = AudioSource.objects.filter(pk__in={p.source_id for p in missing.values()})
        epochs = dict(sources.values_list("pk", "epoch"))
        deleted = [key for key, p in missing.items() if p.session_id not in statuses or p.source_id not in epochs]
        present = {key: p for key, p in missing.items() if key not in deleted}
        superseded = [key for key, p in present.items() if p.epoch not in (None, epochs[p.source_id])]
        current = {key: p for key, p in present.items() if key not in superseded}
        closed = [key for key, p in current.items() if statuses[p.session_id] not in OPEN_STATUSES]
        held = {key: p for key, p in current.items() if key not in closed}
        AudioConnection.objects.bulk_create(_row(process_id, key, producer) for key, producer in held.items())
        AudioSession.objects.open().filter(pk__in={p.session_id for p in held.values()}).update(dropped_at=None)
    return closed, deleted, superseded


def _row(process_id: uuid.UUID, connection_id: int, producer: Producer) -> AudioConnection:
    return AudioConnection(
        pk=connection_id,
        session_id=producer.session_id,
        source_id=producer.source_id,
        process_id=process_id,
        epoch=producer.epoch or 0,
    )


class _Current(threading.local):
    """One ingest for the thread that runs the event loop; a process has one such thread."""

    ingest: Ingest | None = None


_current = _Current()


async def current() -> Ingest:
    """Returns the ingest of this process, started."""
    ingest = _current.ingest
    if ingest is None or not ingest.belongs_here():
        ingest = _current.ingest = Ingest()
    await ingest.started()
    return ingest


async def drain() -> None:
    """Ends the ingest of this process, if it was started; see `Ingest.drain`."""
    ingest, _current.ingest = _current.ingest, None
    if ingest is not None:
        await ingest.drain()
