"""The life of sessions in the database: open, continue, pause, resume, close, drop.

These functions are synchronous and run in threads of their own; each is one short transaction, and locks are
always taken in the order session, source, so that the commit of chunks never deadlocks with them.
"""

import contextlib
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from audio import access, dispatch, events
from audio.access import ANYONE, TICKET_SECONDS, Identity, Kind, audit, limits
from audio.errors import (
    InvalidSessionId,
    NotAuthenticated,
    OneSourceOnly,
    Overloaded,
    SessionClosed,
    SessionNotFound,
    Superseded,
    TooManyConnections,
    TooManySessions,
)
from audio.ingest.clock import ClockSet, database_time
from audio.ingest.types import Producer
from audio.models import (
    DEFAULT_PROJECT_ID,
    AudioConnection,
    AudioSession,
    AudioSource,
    IngestProcess,
    Recording,
)
from audio.wire.parameters import ConnectionRequest, SessionParameters

logger = structlog.stdlib.get_logger(__name__)

# Of a rejection that ends with another connection: one that the network lost is given up within some 20 seconds.
RETRY_AFTER_SECONDS = 5
_CREATION_LOCK = 1936946035  # any number, the same in every process


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that may write: its rows, as they were when it was opened."""

    session: AudioSession
    source: AudioSource
    connection_id: int
    producer: Producer
    resumed: bool


def parse_session_id(text: str) -> uuid.UUID:
    """Return the session id that a path holds.

    Raises:
        InvalidSessionId: It is no UUID.
    """
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise InvalidSessionId(received=text[:64]) from error


def default_parameters() -> SessionParameters:
    """Return the parameters of a session whose client names none."""
    return SessionParameters(
        sample_rate=settings.DEFAULT_SAMPLE_RATE, channels=settings.DEFAULT_CHANNELS, format=settings.DEFAULT_FORMAT
    )


def create_session(
    parameters: SessionParameters,
    user_id: str | None = None,
    undecided: Collection[str] = (),
    project_id: int = DEFAULT_PROJECT_ID,
) -> AudioSession:
    """Create a session to which nobody is connected yet; it counts as dropped when its ticket ends.

    Args:
        parameters: What its audio is, with defaults where the client named nothing.
        user_id: The client's own label.
        undecided: The names of parameters that the media decide.
        project_id: The project that owns it.

    Raises:
        LimitReached: The project has reached a limit.
        TooManySessions: As many sessions are open as may be.
    """
    with transaction.atomic():
        session = _create(parameters, user_id, undecided, project_id, timedelta(seconds=TICKET_SECONDS))
    logger.info("session_created", session_id=str(session.pk))
    return session


def open_connection(
    request: ConnectionRequest,
    session_id: uuid.UUID | None,
    process_id: uuid.UUID,
    is_gone: Callable[[], bool] = lambda: False,
    identity: Identity = ANYONE,
    address: str | None = None,
) -> Opened:
    """Open a session, or continue one, and register a connection to it.

    Args:
        request: What the client asks for.
        session_id: The session to continue, None for a new one.
        process_id: The process that has the connection.
        is_gone: Tells whether the client has left while the database was waited for. One that lost its patience and
            is connected elsewhere must not be superseded by its own older attempt.
        identity: Who asks.
        address: The IP address of the client, for the audit.

    Raises:
        InvalidParameter: The identity has several projects and names none.
        LimitReached: The project has reached a limit.
        NotAllowed: The identity may not record to this session or project.
        NotAuthenticated: Nobody has said who asks.
        OneSourceOnly: The session is a continuous compressed stream, and another connection sends it.
        Overloaded: The client is gone.
        ParameterConflict: The client names other parameters than the session has.
        SessionClosed: The session is closed.
        SessionNotFound: There is no such session.
        TooManyConnections: The session has as many connections as it may have.
        TooManySessions: As many sessions are open as may be.
    """
    with transaction.atomic():
        if session_id is None:
            project_id = access.project_for(identity, request.project)
            identity.require("record", project_id)
            session = _create(request.parameters(default_parameters()), request.user_id, request.undecided, project_id)
        else:
            session = _continue(request, session_id, identity)
        if is_gone():
            raise Overloaded("The client did not wait long enough.")
        source = _open_source(session, request.source)
        row = AudioConnection.objects.create(session=session, source=source, process_id=process_id, epoch=source.epoch)
        action = "session.opened" if session_id is None else "session.resumed"
        audit.record(action, identity, session.project_id, session.pk, address)
    return Opened(session, source, row.pk, _producer(session, source), resumed=session_id is not None)


def decide_format(session_id: uuid.UUID, connection_id: int, audio_format: str) -> AudioSession:
    """Make durable what the first bytes of a connection say of its session's format, unless another was first.

    Args:
        session_id: A session whose format is undecided.
        connection_id: The connection that the bytes came over.
        audio_format: The format that they have.

    Returns:
        The session as it is then, with the format that was decided first.

    Raises:
        SessionNotFound: The session was deleted.
        OneSourceOnly: Another connection has decided that the session is a continuous compressed stream.
    """
    with transaction.atomic():
        moved = AudioSession.objects.filter(pk=session_id).decide(format=audio_format)
        session = AudioSession.objects.filter(pk=session_id).first()
        if session is None:
            raise SessionNotFound("The session was deleted.")
        others = session.open_connections.exclude(pk=connection_id)
        if not moved and _takes_one_source(session) and others.exists():
            raise OneSourceOnly(retry_after_seconds=RETRY_AFTER_SECONDS)
    return session


def remove_connection(connection_id: int) -> None:
    """Remove the row of a connection that has ended; a session without connections counts as dropped from now."""
    with transaction.atomic():
        session = AudioSession.objects.select_for_update().filter(open_connections=connection_id).first()
        if session is None:
            return
        AudioConnection.objects.filter(pk=connection_id).delete()
        _drop_if_deserted(session.pk)


def remove_process(process_id: uuid.UUID, silent_since: datetime | None = None) -> bool:
    """Remove the rows of a process that has ended and of its connections, all at once.

    A process that lives after all would take connections that are missing alone for superseded ones.

    Args:
        process_id: The process.
        silent_since: Remove it only if its last heartbeat is older: it may have come back a moment ago.

    Returns:
        Whether it was removed.
    """
    silent = Q() if silent_since is None else Q(heartbeat_at__lt=silent_since)
    with transaction.atomic():
        mine = AudioConnection.objects.filter(process_id=process_id)
        sessions_first = AudioSession.objects.select_for_update().filter(pk__in=mine.values("session_id"))
        list(sessions_first.order_by("pk").values_list("pk"))
        # Holds up those that just open a connection of this process; the ones that were faster are among `mine` now.
        if not IngestProcess.objects.select_for_update().filter(silent, pk=process_id).exists():
            return False
        session_ids = set(mine.values_list("session_id", flat=True))
        mine.delete()
        IngestProcess.objects.filter(pk=process_id).delete()
        deserted = AudioSession.objects.open().filter(pk__in=session_ids, open_connections__isnull=True)
        deserted.update(dropped_at=database_time())
    return True


def close_session(session_id: uuid.UUID, by: str = "request", producer: Producer | None = None) -> AudioSession:
    """Close a session, whatever its connections do, and enqueue its recording. A closed one stays as it is.

    Args:
        session_id: The session's id.
        by: Who closes it, for the log.
        producer: The connection that asks for it, None if no connection does.

    Returns:
        The session as it is then.

    Raises:
        SessionNotFound: There is no such session.
        Superseded: A newer connection has taken over the source of the one that asks.
    """
    with _as_current(session_id, producer):
        close_if(session_id, Q(), by)
    return _existing(session_id)


def close_if(session_id: uuid.UUID, condition: Q, by: str = "sweep") -> bool:
    """Close a session if the condition still holds for its row, and return whether it did. `by` is for the log."""
    with transaction.atomic():
        if not AudioSession.objects.filter(condition, pk=session_id).close():
            return False
        dispatch.concatenate(session_id)
        events.session_closed(session_id)
    logger.info("session_closed", session_id=str(session_id), by=by)
    return True


def pause_session(session_id: uuid.UUID, producer: Producer | None = None) -> None:
    """Pause an open session, for a connection as `close_session` does.

    Raises:
        SessionClosed: The session is closed.
        SessionNotFound: There is no such session.
        Superseded: A newer connection has taken over the source of the one that asks.
    """
    with _as_current(session_id, producer):
        if not AudioSession.objects.filter(pk=session_id).pause() and not _existing(session_id).is_open:
            raise SessionClosed


def resume_session(session_id: uuid.UUID, producer: Producer | None = None) -> None:
    """Let a paused session go on, for a connection as `close_session` does.

    Raises:
        SessionClosed: The session is closed.
        SessionNotFound: There is no such session.
        Superseded: A newer connection has taken over the source of the one that asks.
    """
    with _as_current(session_id, producer):
        if not AudioSession.objects.filter(pk=session_id).resume() and not _existing(session_id).is_open:
            raise SessionClosed


@contextlib.contextmanager
def _as_current(session_id: uuid.UUID, producer: Producer | None) -> Iterator[None]:
    """Run a block in a transaction in which the producer's source is still its own.

    A process may have hung since it received what it acts on. Whoever takes over a source locks the session first, so
    that nobody can do it while the block runs.

    Raises:
        Superseded: A newer connection has taken over the source.
    """
    with transaction.atomic():
        if producer is not None and producer.epoch is not None:
            AudioSession.objects.select_for_update().filter(pk=session_id).first()
            sources = AudioSource.objects.filter(session=session_id)
            if sources.filter(pk=producer.source_id).exclude(epoch=producer.epoch).exists():
                raise Superseded
        yield


def _existing(session_id: uuid.UUID) -> AudioSession:
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None:
        raise SessionNotFound
    return session


def _create(
    parameters: SessionParameters,
    user_id: str | None,
    undecided: Collection[str],
    project_id: int,
    dropped_in: timedelta | None = None,
) -> AudioSession:
    _one_at_a_time()
    limits.check_new_session(project_id)
    if AudioSession.objects.open().count() >= settings.MAX_CONCURRENT_SESSIONS:
        raise TooManySessions(limit=settings.MAX_CONCURRENT_SESSIONS)
    now = database_time()
    fields: dict[str, Any] = parameters.as_dict()
    fields["chunk_mode"] = fields.pop("chunks")
    session = AudioSession.objects.create(
        **fields,
        undecided=list(undecided),
        project_id=project_id,
        user_id=user_id,
        start_time=now,
        dropped_at=now + dropped_in if dropped_in is not None else None,
    )
    Recording.objects.create(session=session)
    return session


def _one_at_a_time() -> None:
    """Wait for other transactions that create sessions, so that no two open the last one that is allowed.

    On SQLite, where every transaction begins IMMEDIATE, they wait anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATION_LOCK])


def _continue(request: ConnectionRequest, session_id: uuid.UUID, identity: Identity) -> AudioSession:
    session = AudioSession.objects.select_for_update().filter(pk=session_id).first()
    if session is None:
        raise NotAuthenticated if identity.kind is Kind.STRANGER else SessionNotFound(received=str(session_id))
    identity.require("record", session.project_id, session_id)
    limits.check_bytes(session.project_id)
    if not session.is_open:
        raise SessionClosed(status=session.status)
    decided = request.check_continues(session.parameters, session.user_id, session.undecided)
    if decided:
        AudioSession.objects.filter(pk=session_id).decide(**decided)
        session.refresh_from_db()
    if request.source is not None:
        _supersede(session, request.source)
    _check_room(session)
    AudioSession.objects.filter(pk=session_id).update(dropped_at=None)
    return session


def _supersede(session: AudioSession, name: str) -> None:
    """Remove the rows of older connections of the name, so that they do not count against the limit."""
    session.open_connections.filter(source__name=name).delete()


def _check_room(session: AudioSession) -> None:
    others = session.open_connections.count()
    if others >= settings.MAX_CONNECTIONS_PER_SESSION:
        raise TooManyConnections(limit=settings.MAX_CONNECTIONS_PER_SESSION, retry_after_seconds=RETRY_AFTER_SECONDS)
    if others and _takes_one_source(session):
        raise OneSourceOnly(retry_after_seconds=RETRY_AFTER_SECONDS)


def _takes_one_source(session: AudioSession) -> bool:
    """Return whether the session is a continuous compressed stream."""
    is_known = "format" not in session.undecided
    return is_known and session.format != "wav" and session.chunk_mode != "files"


def _open_source(session: AudioSession, name: str | None) -> AudioSource:
    source, _ = AudioSource.objects.get_or_create(session=session, name=name or "")
    if name is not None:
        AudioSource.objects.filter(pk=source.pk).update(epoch=F("epoch") + 1)
        source.refresh_from_db()
    return source


def _producer(session: AudioSession, source: AudioSource) -> Producer:
    return Producer(
        session_id=session.pk,
        source_id=source.pk,
        epoch=source.epoch if source.name else None,
        number=source.chunk_count if source.name else 0,
        description=describe(session, source.name),
    )


def describe(session: AudioSession, source_name: str) -> dict[str, Any]:
    """Return what the journal says of a session and of one of its sources."""
    return {
        **session.parameters.as_dict(),
        "user_id": session.user_id,
        "source": source_name,
        "start_time": session.start_time.isoformat(),
        "undecided": session.undecided,
    }


def restart_ages(clock_set: ClockSet, process_id: uuid.UUID, session_ids: Collection[uuid.UUID]) -> None:
    """Let ages count from now, because the clock was set, and let the grace of dropped sessions begin anew.

    It is about the sessions that a process holds open, and those that ended while the clock said something else.
    """
    _restart_ages(clock_set, Q(pk__in=session_ids), IngestProcess.objects.filter(pk=process_id))


def restart_all_ages(clock_set: ClockSet) -> None:
    """Let the ages of all open sessions count from now, as `restart_ages` does for one process."""
    _restart_ages(clock_set, Q(end_time=None), IngestProcess.objects.all())


def _restart_ages(clock_set: ClockSet, chosen: Q, processes: QuerySet[IngestProcess]) -> None:
    ended_meanwhile = Q(end_time__gte=clock_set.since, end_time__lte=clock_set.until)
    with transaction.atomic():
        affected = AudioSession.objects.filter(chosen | ended_meanwhile).select_for_update()
        keys = list(affected.order_by("pk").values_list("pk", flat=True))
        AudioSession.objects.filter(pk__in=keys).update(age_counts_from=clock_set.now)
        processes.update(ready_at=clock_set.now)
    logger.warning("clock_was_set", said=clock_set.until.isoformat(), says=clock_set.now.isoformat())


def drop_if_deserted(session_id: uuid.UUID) -> bool:
    """Begin the grace of an open session that counts as connected and is not, and return whether it did."""
    with transaction.atomic():
        sessions = AudioSession.objects.open().filter(pk=session_id, dropped_at__isnull=True)
        # Locked before the look at its connections: one that is just being opened has the lock.
        return sessions.select_for_update().first() is not None and _drop_if_deserted(session_id)


def _drop_if_deserted(session_id: uuid.UUID) -> bool:
    if AudioConnection.objects.filter(session_id=session_id).exists():
        return False
    return bool(AudioSession.objects.open().filter(pk=session_id).update(dropped_at=database_time()))
