"""The ingest of this process: its connections, its committer, and the tasks that run beside them.

`current()` is the one place that keeps state for the whole process: all connections share one committer, and so one
journal file. Everything here runs on the event loop's thread, except what is handed to an executor.
"""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from audio import access, events, metrics
from audio.errors import AudioError
from audio.ingest import sessions
from audio.ingest.batches import Batches
from audio.ingest.calls import AfterCommit, Call, Calls
from audio.ingest.committer import Committer, Delivery
from audio.ingest.connections import Connections, InFlight
from audio.ingest.erasures import erase_own
from audio.ingest.executor import DatabaseExecutor
from audio.ingest.heartbeat import Heartbeat
from audio.ingest.listener import Listener
from audio.ingest.openings import Opening, open_new
from audio.ingest.pending import Append
from audio.ingest.supervision import Supervisor
from audio.ingest.types import Accepted, LiveConnection
from audio.ingest.windows import Windows

logger = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

_DRAIN_SECONDS = 4.0


class Ingest:
    """The ingest of one process. It is created on the event loop that it serves."""

    def __init__(self) -> None:
        self.process_id = uuid.uuid4()
        self.draining = False
        self.holds = access.Holds()
        self._loop = asyncio.get_running_loop()
        self._is_started = False
        self._starting = asyncio.Lock()
        self._connections = Connections()
        self._in_flight = InFlight()
        self._executor = DatabaseExecutor("sessions", max_workers=4)
        self._openings: Batches[Opening, sessions.Opened] = Batches(self._open_new)
        self._removals: Batches[int, None] = Batches(self._remove_rows)
        self._heartbeat = Heartbeat(self.process_id, self._connections, self._removals.run)
        self._windows = Windows(self._executor)
        self._listener = Listener(self._connections)
        self._background = Supervisor()
        self._committer = Committer(
            root=settings.AUDIO_STORAGE_PATH,
            process_id=self.process_id,
            deliver=self._deliver,
            gather_seconds=settings.COMMIT_GATHER_MS / 1000,
            journal_file_size_bytes=settings.JOURNAL_FILE_SIZE_BYTES,
            calls=Calls(self._after_commit),
        )

    def belongs_here(self) -> bool:
        """Return whether this ingest serves the event loop that runs now."""
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
        await self._heartbeat.register()
        self._committer.start()
        self._background.keep_running("heartbeat", self._heartbeat.keep_beating)
        self._background.keep_running("windows", self._windows.keep_enqueueing)
        self._background.keep_running("events", self._listener.keep_listening)
        self._background.keep_running("erasures", self._keep_erasing)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that reads the database, or Redis, in a thread of the executor.

        Raises:
            ServiceError: The database is away or full.
        """
        return await self._executor.run(function, *arguments)

    async def write(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that writes to the database: on SQLite in the thread of the only writer of this process.

        Raises:
            ServiceError: The database is away or full.
        """
        if connections[DEFAULT_DB_ALIAS].vendor != "sqlite":
            return await self._executor.run(function, *arguments)
        call = Call(function, arguments)
        self._committer.call(call)
        result: T = await asyncio.wrap_future(call.future)
        return result

    async def open(self, opening: Opening) -> sessions.Opened:
        """Open a session or continue one. New sessions of a crowd share a transaction.

        Raises:
            AudioError: As `sessions.open_connection` does.
        """
        if opening.session_id is None:
            return await self._openings.run(opening)
        return await self.write(opening.open_alone, self.process_id)

    async def _open_new(self, batch: Sequence[Opening]) -> Sequence[sessions.Opened | AudioError]:
        results = await self.write(open_new, batch, self.process_id)
        alone = [opening for opening, result in zip(batch, results, strict=True) if result is None]
        opened = iter(await asyncio.gather(*(self._open_alone(opening) for opening in alone)))
        return [next(opened) if result is None else result for result in results]

    async def _open_alone(self, opening: Opening) -> sessions.Opened | AudioError:
        """Open one session in a call of its own, so that chunks may pass before the next one."""
        try:
            return await self.write(opening.open_alone, self.process_id)
        except AudioError as error:
            return error

    async def _remove_rows(self, batch: Sequence[int]) -> Sequence[None]:
        return await self.write(sessions.remove_connections, batch)

    def _after_commit(self, functions: list[AfterCommit]) -> None:
        """Run the functions to call after a commit in another thread. The committer's thread calls this."""
        self._loop.call_soon_threadsafe(self._run_after_commit, functions)

    def _run_after_commit(self, functions: list[AfterCommit]) -> None:
        self._background.run_once("after_commit", self._executor.run(_run_all, functions))

    def add(self, connection: LiveConnection) -> None:
        """Register a connection, and tell older connections of its source, on any host, that they are superseded."""
        self._connections.add(connection)
        self._listener.admit(connection)
        if connection.producer.epoch is not None and connection.producer.epoch > 1:
            # In the background: a Redis that hangs must not hold up the connection.
            superseded = events.source_superseded(connection.producer.source_id, connection.producer.epoch)
            self._background.run_once("announcement", superseded)
        if self.draining:
            connection.go_away()

    async def remove(self, connection: LiveConnection) -> None:
        """Forget a connection that has ended, and remove its row."""
        if self._connections.remove(connection) and not self.draining:
            await self._heartbeat.remove_row(connection.connection_id)
        self._windows.forget(connection.producer.session_id)
        self._connections.note_removed()

    def submit(self, connection: LiveConnection, payload: bytes) -> None:
        """Submit a chunk to the committer. `connection.deliver` gets its outcome."""
        self._in_flight.add(len(payload))
        self._committer.submit(Append(connection.producer, payload, time.time_ns() // 1000, connection))

    @property
    def in_flight_bytes(self) -> int:
        """The number of bytes that have arrived and have no outcome yet."""
        return self._in_flight.size_bytes

    @property
    def share_bytes(self) -> int:
        """How many bytes one connection may have in flight now."""
        return self._in_flight.share_bytes

    @property
    def has_room(self) -> bool:
        """Whether the process accepts more bytes now."""
        return self._in_flight.has_room

    async def room(self) -> None:
        """Wait until the process accepts more bytes."""
        await self._in_flight.until_room()

    async def drain(self) -> None:
        """Answer and close all connections, stop the committer, and remove the row of the process."""
        self.draining = True
        for connection in self._connections:
            connection.go_away()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._connections.until_empty()
        except TimeoutError:
            logger.warning("connections_abandoned", count=len(self._connections))
        await self._background.stop()
        await asyncio.to_thread(self._committer.stop)
        await self._heartbeat.sign_off()
        self._executor.shutdown()

    def _deliver(self, batch: list[Delivery]) -> None:
        """Pass the outcomes of a batch from the committer's thread to the event loop, with one wake-up."""
        self._loop.call_soon_threadsafe(self._deliver_to_connections, batch)

    def _deliver_to_connections(self, batch: list[Delivery]) -> None:
        touched = {}
        acknowledged: list[Append] = []
        batch_bytes = 0
        for append, outcome in batch:
            size_bytes = len(append.payload)
            batch_bytes += size_bytes
            append.connection.deliver(size_bytes, outcome)
            touched[id(append.connection)] = append.connection
            if isinstance(outcome, Accepted):
                acknowledged.append(append)
                self._windows.note(append.producer.session_id, size_bytes)
            else:
                metrics.chunks_rejected.labels(outcome.code).inc()
        for connection in touched.values():
            connection.wake()
        self._in_flight.subtract(batch_bytes)
        self._measure(acknowledged)

    def _measure(self, acknowledged: list[Append]) -> None:
        now_us = time.time_ns() // 1000
        metrics.in_flight_bytes.set(self.in_flight_bytes)
        metrics.chunks.inc(len(acknowledged))
        metrics.chunk_bytes.inc(sum([len(append.payload) for append in acknowledged]))
        # The time of arrival comes from the host's clock, which may have been set back.
        metrics.acknowledgement_latency.observe_all(
            [max(0, now_us - append.received_at_us) / 1_000_000 for append in acknowledged]
        )

    async def _keep_erasing(self) -> None:
        """Erase deleted sessions from the journals of this process, to which no other process may write."""
        while True:
            await asyncio.sleep(settings.HEARTBEAT_SECONDS)
            try:
                await self.run(erase_own, settings.AUDIO_STORAGE_PATH, self.process_id)
            except (AudioError, OSError) as error:
                logger.warning("erasures_put_off", error=str(error))


def _run_all(functions: list[AfterCommit]) -> None:
    with events.together():
        for function in functions:
            function()


class _Current(threading.local):
    """The ingest of the thread that runs the event loop. A process has one such thread."""

    ingest: Ingest | None = None


_current = _Current()


async def current() -> Ingest:
    """Return the ingest of this process, started.

    Raises:
        ServiceError: The database is away or full.
    """
    ingest = _current.ingest
    if ingest is None or not ingest.belongs_here():
        ingest = _current.ingest = Ingest()
    await ingest.started()
    return ingest


async def drain() -> None:
    """Stop the ingest of this process, if it was started. See `Ingest.drain`."""
    ingest, _current.ingest = _current.ingest, None
    if ingest is not None:
        await ingest.drain()
