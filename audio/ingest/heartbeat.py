"""The heartbeat of a process: it records in the database that the process is alive, and checks its connections there.

If a heartbeat is too old, other processes treat the process as dead: they remove its rows, and its sources may be taken
over. Each heartbeat therefore also checks whether the connections of this process have rows, whether their sessions are
open, and whether they still own their sources. So nothing depends on the events of the channel layer.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from audio import access
from audio.access import Identity
from audio.errors import AudioError, NotAuthenticatedError, ServiceError
from audio.ingest import sessions
from audio.ingest.clock import ClockWatch, database_time
from audio.ingest.connections import Connections
from audio.ingest.executor import DatabaseExecutor
from audio.ingest.types import Producer
from audio.models import OPEN_STATUSES, AudioConnection, AudioSession, AudioSource, IngestProcess

logger = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS = 1.0
# A connection of which the event loop knows nothing after this time was not opened.
_STRAY_SECONDS = 15.0


class _Pulse(NamedTuple):
    """The result of a heartbeat.

    Attributes:
        closed: The connections whose session is closed.
        deleted: The connections whose session was deleted.
        superseded: The connections whose source was taken over.
        forbidden: The connections that may not record any more, each with its error.
        strays: The rows whose connections the process does not have.
    """

    closed: list[int]
    deleted: list[int]
    superseded: list[int]
    forbidden: dict[int, AudioError]
    strays: set[int]


class Heartbeat:
    """The heartbeat of one process, which also removes the rows of connections that have ended."""

    def __init__(
        self, process_id: uuid.UUID, connections: Connections, remove: Callable[[int], Awaitable[None]]
    ) -> None:
        self._process_id = process_id
        self._connections = connections
        # It removes the row of a connection.
        self._remove = remove
        # A crowd of clients, or a Redis that is away, must not delay the heartbeat.
        self._heart = DatabaseExecutor("heartbeat", max_workers=1)
        self._clock = ClockWatch()
        # Ended connections whose rows could not be removed yet.
        self._ended: set[int] = set()

    async def register(self) -> None:
        """Write the row of the process.

        Raises:
            ServiceError: The database is away or full.
        """
        await self._heart.run(self._clock.read)
        await self._heart.run(_register, self._process_id)

    async def keep_beating(self) -> None:
        """Beat until cancelled."""
        wait_seconds = settings.HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(wait_seconds)
            wait_seconds = settings.HEARTBEAT_SECONDS
            try:
                await self._beat()
            except AudioError as error:
                logger.warning("heartbeat_failed", error=str(error))
                # Retry early, so that the process counts as alive soon after the database is back.
                wait_seconds = min(wait_seconds, _RETRY_SECONDS)

    async def remove_row(self, connection_id: int) -> None:
        """Remove the row of a connection that has ended, with a later heartbeat if the database is away."""
        try:
            await self._remove(connection_id)
        except ServiceError as error:
            logger.warning("connection_removal_put_off", connection_id=connection_id, error=str(error))
            self._ended.add(connection_id)
        else:
            self._ended.discard(connection_id)

    async def sign_off(self) -> None:
        """Remove the row of the process. If the database is away, other processes remove it later."""
        try:
            # This runs in the heartbeat's thread, so that a heartbeat cannot come after it.
            await self._heart.run(sessions.remove_process, self._process_id)
        except ServiceError as error:
            logger.warning("process_removal_put_off", error=str(error))
        self._heart.shutdown()

    async def _beat(self) -> None:
        mine, holders = self._connections.producers(), self._connections.holders()
        pulse = await self._heart.run(_heartbeat, self._process_id, mine, holders, self._clock)
        for connection in self._connections.present(pulse.closed):
            connection.session_closed()
        for connection in self._connections.present(pulse.deleted):
            connection.session_deleted()
        for connection in self._connections.present(pulse.superseded):
            connection.superseded()
        for connection in self._connections.present(pulse.forbidden):
            connection.end_with(pulse.forbidden[connection.connection_id])
        # A stray is the row of a connection whose opening failed after its commit.
        strays = {key for key in pulse.strays if key not in self._connections}
        for connection_id in self._ended | strays:
            await self.remove_row(connection_id)


def _register(process_id: uuid.UUID) -> None:
    now = database_time()
    IngestProcess.objects.update_or_create(
        pk=process_id,
        defaults={"host": socket.gethostname(), "pid": os.getpid(), "ready_at": now, "heartbeat_at": now},
    )


def _heartbeat(
    process_id: uuid.UUID, mine: dict[int, Producer], holders: dict[int, tuple[Identity, int]], clock: ClockWatch
) -> _Pulse:
    """Record that the process is alive, and check the rows of its connections."""
    now, clock_set = clock.read()
    if clock_set is not None:
        # This comes before the heartbeat with the new time, after which other processes judge the sessions.
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
    # The event loop may not know of a younger connection yet.
    young = timezone.now() - timedelta(seconds=_STRAY_SECONDS)
    strays = {key for key, (_, connected_at) in rows.items() if key not in mine and connected_at < young}
    return _Pulse(closed, deleted, superseded, _forbidden(holders), strays)


def _forbidden(holders: dict[int, tuple[Identity, int]]) -> dict[int, AudioError]:
    """Return the connections that may not record any more: their identity has ended, or their project's audio."""
    if not holders:
        return {}
    lapsed = set(access.lapsed(holders.values()))
    exhausted = access.limits.exhausted({project_id for _, project_id in holders.values()})
    errors: dict[int, AudioError] = {}
    for key, (identity, project_id) in holders.items():
        if identity in lapsed:
            errors[key] = NotAuthenticatedError("The API key, the token or the person may not record any more.")
        elif project_id in exhausted:
            errors[key] = exhausted[project_id]
    return errors


def _restore(process_id: uuid.UUID, missing: dict[int, Producer]) -> tuple[list[int], list[int], list[int]]:
    """Check connections without a row, and put back the rows of those that may continue.

    A missing row alone does not end a connection: other processes may have treated this one as dead. A session whose
    connection continues was never without one, so its grace period ends.

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
        kept = {key: p for key, p in current.items() if key not in closed}
        AudioConnection.objects.bulk_create(_row(process_id, key, producer) for key, producer in kept.items())
        AudioSession.objects.open().filter(pk__in={p.session_id for p in kept.values()}).update(dropped_at=None)
    return closed, deleted, superseded


def _row(process_id: uuid.UUID, connection_id: int, producer: Producer) -> AudioConnection:
    return AudioConnection(
        pk=connection_id,
        session_id=producer.session_id,
        source_id=producer.source_id,
        process_id=process_id,
        epoch=producer.epoch or 0,
    )
