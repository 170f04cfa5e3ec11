"""The life of sessions in the database: open, continue, pause, resume, close, drop.

These functions are synchronous and run in threads of the executor. Each is one short transaction. All of them lock the
session before the source, as the commit of chunks does, so they cannot deadlock with it.
"""

import contextlib
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
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
    InvalidSessionIdError,
    NotAuthenticatedError,
    OneSourceOnlyError,
    OverloadedError,
    SessionClosedError,
    SessionNotFoundError,
    SupersededError,
    TooManyConnectionsError,
    TooManySessionsError,
)
from audio.ingest.clock import ClockSet, database_time
from audio.ingest.types import Producer
from audio.models import (
    DEFAULT_PROJECT_ID,
    OPEN_STATUSES,
    AudioConnection,
    AudioSession,
    AudioSource,
    IngestProcess,
    MetadataEntry,
    Project,
    Recording,
    metadata_digest,
)
from audio.webhooks import events as webhook_events
from audio.wire.parameters import ConnectionRequest, Details, SessionParameters

logger = structlog.stdlib.get_logger(__name__)

# Sent with a rejection that lasts as long as another connection. One that the network lost ends within 20 seconds.
RETRY_AFTER_SECONDS = 5
GONE = "The client did not wait long enough."
_NO_DETAILS = Details()
_CREATION_LOCK = 1936946035  # any number, the same in every process
# On PostgreSQL, openings at the same moment do not see each other. Further than this from the limit, that does no harm:
# there are never so many at once, because each web process has one batch of them.
_UNCOUNTED_OPENINGS = 1000


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that may write: its rows, as they were when it was opened."""

    session: AudioSession
    source: AudioSource
    connection_id: int
    producer: Producer
    resumed: bool


def parse_session_id(text: str) -> uuid.UUID:
    """Return the session id of a URL path.

    Raises:
        InvalidSessionIdError: The text is not a UUID.
    """
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise InvalidSessionIdError(received=text[:64]) from error


def default_parameters() -> SessionParameters:
    """Return the parameters of a session whose client sends none."""
    return SessionParameters(
        sample_rate=settings.DEFAULT_SAMPLE_RATE, channels=settings.DEFAULT_CHANNELS, format=settings.DEFAULT_FORMAT
    )


def create_session(
    parameters: SessionParameters,
    user_id: str | None = None,
    undecided: Collection[str] = (),
    project_id: int = DEFAULT_PROJECT_ID,
    *,
    details: Details = _NO_DETAILS,
) -> AudioSession:
    """Create a session without a connection. It counts as dropped from the time at which its ticket expires.

    Args:
        parameters: The parameters of its audio, with defaults for those that the client did not send.
        user_id: The client's own label.
        undecided: The names of the parameters that the first audio decides.
        project_id: The project that owns it.
        details: Its name, metadata, retention and legal hold.

    Raises:
        LimitReachedError: The project has reached a limit.
        TooManySessionsError: The server has reached its limit of open sessions.
    """
    with transaction.atomic():
        session = _create(parameters, user_id, undecided, project_id, timedelta(seconds=TICKET_SECONDS), details)
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
        request: The parameters of the client's request.
        session_id: The session to continue, None for a new one.
        process_id: The process that has the connection.
        is_gone: Returns whether the client has left. One that has connected again must not supersede itself.
        identity: Who asks.
        address: The IP address of the client, for the audit.

    Raises:
        LimitReachedError: The project has reached a limit.
        NotAllowedError, NotAuthenticatedError: The identity may not record here.
        OneSourceOnlyError: The session is a continuous compressed stream, and another connection is sending it.
        OverloadedError: The client has left.
        ParameterConflictError: The parameters of the request differ from those of the session.
        SessionClosedError: The session is closed.
        SessionNotFoundError: There is no such session.
        TooManyConnectionsError: The session has reached its limit of connections.
        TooManySessionsError: The server has reached its limit of open sessions.
    """
    with transaction.atomic():
        session = _begin(request, identity) if session_id is None else _continue(request, session_id, identity)
        if is_gone():
            raise OverloadedError(GONE)
        source = _open_source(session, request.source)
        row = AudioConnection.objects.create(session=session, source=source, process_id=process_id, epoch=source.epoch)
        action = "session.resumed" if session_id else "session.opened"
        audit.record(action, identity, session.project_id, session.pk, address)
    return opened(session, source, row.pk, resumed=session_id is not None)


def opened(session: AudioSession, source: AudioSource, connection_id: int, *, resumed: bool) -> Opened:
    """Return what a connection needs to know of the rows that were written for it."""
    return Opened(session, source, connection_id, _producer(session, source), resumed)


def decide_format(session_id: uuid.UUID, connection_id: int, audio_format: str) -> AudioSession:
    """Store the format of a session, unless another connection has decided it first.

    Args:
        session_id: A session whose format is undecided.
        connection_id: The connection whose first bytes decide the format.
        audio_format: The format of those bytes.

    Returns:
        The session, with the format that was decided first.

    Raises:
        SessionNotFoundError: The session was deleted.
        OneSourceOnlyError: By the decision of another connection, the session is a continuous compressed stream.
    """
    with transaction.atomic():
        moved = AudioSession.objects.filter(pk=session_id).decide(format=audio_format)
        session = AudioSession.objects.select_related("project").filter(pk=session_id).first()
        if session is None:
            raise SessionNotFoundError("The session was deleted.")
        others = session.open_connections.exclude(pk=connection_id)
        if not moved and _takes_one_source(session) and others.exists():
            raise OneSourceOnlyError(retry_after_seconds=RETRY_AFTER_SECONDS)
    return session


def remove_connection(connection_id: int) -> None:
    """Remove the row of a connection that has ended.

    If the session has no other connection, it counts as dropped from now on.
    """
    remove_connections([connection_id])


def remove_connections(connection_ids: Sequence[int]) -> list[None]:
    """Remove the rows of connections that have ended, in one transaction. See `remove_connection`."""
    with transaction.atomic():
        rows = AudioConnection.objects.filter(pk__in=connection_ids)
        locked = AudioSession.objects.select_for_update().filter(pk__in=rows.values("session_id"))
        session_ids = list(locked.order_by("pk").values_list("pk", flat=True))
        if session_ids:
            rows.delete()
            deserted = AudioSession.objects.open().filter(pk__in=session_ids, open_connections__isnull=True)
            deserted.update(dropped_at=database_time())
    return [None] * len(connection_ids)


def remove_process(process_id: uuid.UUID, silent_since: datetime | None = None) -> bool:
    """Remove the row of a process that has ended, and the rows of its connections, in one transaction.

    If the process is alive after all, it finds its own row missing too, and puts the rows of its connections back.

    Args:
        process_id: The process.
        silent_since: Remove it only if its last heartbeat is older than this. It may have come back a moment ago.

    Returns:
        Whether it was removed.
    """
    silent = Q() if silent_since is None else Q(heartbeat_at__lt=silent_since)
    with transaction.atomic():
        mine = AudioConnection.objects.filter(process_id=process_id)
        sessions_first = AudioSession.objects.select_for_update().filter(pk__in=mine.values("session_id"))
        list(sessions_first.order_by("pk").values_list("pk"))
        # This lock makes new connections of the process wait. Those that were faster are in `mine` now.
        if not IngestProcess.objects.select_for_update().filter(silent, pk=process_id).exists():
            return False
        session_ids = set(mine.values_list("session_id", flat=True))
        mine.delete()
        IngestProcess.objects.filter(pk=process_id).delete()
        deserted = AudioSession.objects.open().filter(pk__in=session_ids, open_connections__isnull=True)
        deserted.update(dropped_at=database_time())
    return True


def close_session(session_id: uuid.UUID, by: str = "request", producer: Producer | None = None) -> AudioSession:
    """Close a session, even if it has connections, and enqueue its recording. A closed session stays as it is.

    Args:
        session_id: The session's id.
        by: The origin of the request, for the log.
        producer: The connection that closes the session, None if no connection does.

    Returns:
        The closed session.

    Raises:
        SessionNotFoundError: There is no such session.
        SupersededError: A newer connection has taken over the producer's source.
    """
    with as_current(session_id, producer):
        close_if(session_id, Q(), by)
    return _existing(session_id)


def close_if(session_id: uuid.UUID, condition: Q, by: str = "sweep") -> bool:
    """Close a session if a condition still holds for its row.

    Args:
        session_id: The session's id.
        condition: The condition.
        by: The origin of the request, for the log.

    Returns:
        Whether it was closed.
    """
    with transaction.atomic():
        if not AudioSession.objects.filter(condition, pk=session_id).close():
            return False
        dispatch.concatenate(session_id)
        events.session_closed(session_id)
        webhook_events.session_closed(session_id, by)
    logger.info("session_closed", session_id=str(session_id), by=by)
    return True


def pause_session(session_id: uuid.UUID, producer: Producer | None = None) -> None:
    """Pause an open session. A paused session stays as it is.

    Args:
        session_id: The session's id.
        producer: The connection that pauses the session, None if no connection does.

    Raises:
        SessionClosedError: The session is closed.
        SessionNotFoundError: There is no such session.
        SupersededError: A newer connection has taken over the producer's source.
    """
    with as_current(session_id, producer):
        if not AudioSession.objects.filter(pk=session_id).pause() and not _existing(session_id).is_open:
            raise SessionClosedError


def resume_session(session_id: uuid.UUID, producer: Producer | None = None) -> None:
    """Resume a paused session. An active session stays as it is.

    Args:
        session_id: The session's id.
        producer: The connection that resumes the session, None if no connection does.

    Raises:
        SessionClosedError: The session is closed.
        SessionNotFoundError: There is no such session.
        SupersededError: A newer connection has taken over the producer's source.
    """
    with as_current(session_id, producer):
        if not AudioSession.objects.filter(pk=session_id).resume() and not _existing(session_id).is_open:
            raise SessionClosedError


@contextlib.contextmanager
def as_current(session_id: uuid.UUID, producer: Producer | None) -> Iterator[None]:
    """Run a block in a transaction in which no other connection can take over the producer's source.

    The process may have hung since it received the message, and the source may have been taken over meanwhile. A
    connection that takes over a source locks the session first, so it waits until the block has run.

    Raises:
        SupersededError: A newer connection has taken over the source.
    """
    with transaction.atomic():
        if producer is not None and producer.epoch is not None:
            AudioSession.objects.select_for_update().filter(pk=session_id).first()
            sources = AudioSource.objects.filter(session=session_id)
            if sources.filter(pk=producer.source_id).exclude(epoch=producer.epoch).exists():
                raise SupersededError
        yield


def _existing(session_id: uuid.UUID) -> AudioSession:
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None:
        raise SessionNotFoundError
    return session


def _create(
    parameters: SessionParameters,
    user_id: str | None,
    undecided: Collection[str],
    project_id: int,
    dropped_in: timedelta | None = None,
    details: Details = _NO_DETAILS,
) -> AudioSession:
    project = Project.objects.get(pk=project_id)
    if limits.are_set(project):
        _one_at_a_time()
        limits.check_new_session(project)
    if room_for(1) < 1:
        raise TooManySessionsError(limit=settings.MAX_CONCURRENT_SESSIONS)
    now = database_time()
    session = draft(parameters, user_id, undecided, project, now, details)
    session.dropped_at = now + dropped_in if dropped_in is not None else None
    session.save(force_insert=True)
    if session.metadata:
        index_metadata(session)
    Recording.objects.create(session=session)
    webhook_events.sessions_opened([session])
    return session


def draft(
    parameters: SessionParameters,
    user_id: str | None,
    undecided: Collection[str],
    project: Project,
    now: datetime,
    details: Details,
) -> AudioSession:
    """Return a new session, which is not inserted yet.

    Args:
        parameters: The parameters of its audio.
        user_id: The client's own label.
        undecided: The names of the parameters that the first audio decides.
        project: The project that owns it.
        now: The time on the database's clock.
        details: Its name, metadata, retention and legal hold.
    """
    fields: dict[str, Any] = parameters.as_dict()
    fields["chunk_mode"] = fields.pop("chunks")
    return AudioSession(
        **fields,
        undecided=list(undecided),
        project=project,
        user_id=user_id,
        start_time=now,
        **details.as_dict(),
    )


def room_for(count: int) -> int:
    """Return how many sessions may be opened now, of which `count` are wanted.

    Near the limit, other transactions that open sessions wait until this one has ended.
    """
    limit: int = settings.MAX_CONCURRENT_SESSIONS
    uncounted = _UNCOUNTED_OPENINGS if connection.vendor == "postgresql" else 0
    opened_now = AudioSession.objects.open().count()
    if opened_now + count > limit - uncounted:
        _one_at_a_time()
        opened_now = AudioSession.objects.open().count()
    return limit - opened_now


def _one_at_a_time() -> None:
    """Wait for other transactions that create sessions, so that together they cannot exceed the limit.

    On SQLite every transaction begins IMMEDIATE, so they wait anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CREATION_LOCK])


def _begin(request: ConnectionRequest, identity: Identity) -> AudioSession:
    project_id = access.project_for(identity, request.project)
    identity.require("record", project_id)
    parameters = request.parameters(default_parameters())
    return _create(parameters, request.user_id, request.undecided, project_id, details=request.details)


def _continue(request: ConnectionRequest, session_id: uuid.UUID, identity: Identity) -> AudioSession:
    session = AudioSession.objects.select_for_update().filter(pk=session_id).first()
    if session is None:
        raise (
            NotAuthenticatedError if identity.kind is Kind.STRANGER else SessionNotFoundError(received=str(session_id))
        )
    identity.require("record", session.project_id, session_id)
    limits.check_bytes(session.project_id)
    if not session.is_open:
        raise _closed(session, request.source)
    decided = request.check_continues(session.parameters, session.user_id, session.undecided)
    if decided:
        AudioSession.objects.filter(pk=session_id).decide(**decided)
        session.refresh_from_db()
    if request.source is not None:
        _supersede(session, request.source)
    _check_room(session)
    AudioSession.objects.filter(pk=session_id).update(dropped_at=None)
    return session


def _closed(session: AudioSession, source: str | None) -> SessionClosedError:
    """Return the error for a client that wants to continue a closed session.

    It counts the chunks of a named source, because the client may have missed acknowledgements.
    """
    if source is None:
        return SessionClosedError(status=session.status)
    count = session.sources.filter(name=source).values_list("chunk_count", flat=True).first() or 0
    return SessionClosedError(status=session.status, source_chunk_count=count)


def _supersede(session: AudioSession, name: str) -> None:
    """Remove the rows of older connections of a named source, so that they do not count against the limit."""
    session.open_connections.filter(source__name=name).delete()


def _check_room(session: AudioSession) -> None:
    others = session.open_connections.count()
    if others >= settings.MAX_CONNECTIONS_PER_SESSION:
        raise TooManyConnectionsError(
            limit=settings.MAX_CONNECTIONS_PER_SESSION, retry_after_seconds=RETRY_AFTER_SECONDS
        )
    if others and _takes_one_source(session):
        raise OneSourceOnlyError(retry_after_seconds=RETRY_AFTER_SECONDS)


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
        project_id=session.project_id,
        number=source.chunk_count if source.name else 0,
        description=describe(session, source.name),
    )


def describe(session: AudioSession, source_name: str = "") -> dict[str, Any]:
    """Return the description of a session and one of its sources that a journal stores.

    It reads the session's project from the database if that is not loaded.
    """
    return {
        **session.parameters.as_dict(),
        "user_id": session.user_id,
        "source": source_name,
        "start_time": session.start_time.isoformat(),
        "undecided": session.undecided,
        "project": session.project.name,
        **session.details.as_dict(),
    }


def index_metadata(session: AudioSession) -> None:
    """Insert the rows by which a session is found by its metadata. It has none yet."""
    MetadataEntry.objects.bulk_create(metadata_entries(session))


def metadata_entries(session: AudioSession) -> list[MetadataEntry]:
    """Return the rows by which a session is found by its metadata."""
    return [MetadataEntry(session=session, digest=metadata_digest(*item)) for item in session.metadata.items()]


def restart_ages(clock_set: ClockSet, process_id: uuid.UUID, session_ids: Collection[uuid.UUID]) -> None:
    """Count the ages of sessions from now on, because the clock was set, and restart the grace of dropped sessions.

    Args:
        clock_set: When the clock was set.
        process_id: The process that noticed it.
        session_ids: The open sessions of that process. Those that ended while the clock was wrong are added to them.
    """
    _restart_ages(clock_set, Q(pk__in=session_ids), IngestProcess.objects.filter(pk=process_id))


def restart_all_ages(clock_set: ClockSet) -> None:
    """Count the ages of all open sessions from now on, as `restart_ages` does for the sessions of one process."""
    _restart_ages(clock_set, Q(status__in=OPEN_STATUSES), IngestProcess.objects.all())


def _restart_ages(clock_set: ClockSet, chosen: Q, processes: QuerySet[IngestProcess]) -> None:
    ended_meanwhile = Q(end_time__gte=clock_set.since, end_time__lte=clock_set.until)
    with transaction.atomic():
        # Both conditions in one query would read all sessions.
        found = [AudioSession.objects.filter(each).order_by() for each in (chosen, ended_meanwhile)]
        affected = {key for each in found for key in each.values_list("pk", flat=True)}
        locked = AudioSession.objects.select_for_update().filter(pk__in=affected).order_by("pk")
        keys = list(locked.values_list("pk", flat=True))
        AudioSession.objects.filter(pk__in=keys).update(age_counts_from=clock_set.now)
        processes.update(ready_at=clock_set.now)
    logger.warning("clock_was_set", said=clock_set.until.isoformat(), says=clock_set.now.isoformat())


def drop_if_deserted(session_id: uuid.UUID) -> bool:
    """Mark an open session as dropped if it has no connection left, and return whether it was marked."""
    with transaction.atomic():
        sessions = AudioSession.objects.open().filter(pk=session_id, dropped_at__isnull=True)
        # Lock the session before its connections are read. A connection that is being opened has this lock.
        return sessions.select_for_update().first() is not None and _drop_if_deserted(session_id)


def _drop_if_deserted(session_id: uuid.UUID) -> bool:
    if AudioConnection.objects.filter(session_id=session_id).exists():
        return False
    return bool(AudioSession.objects.open().filter(pk=session_id).update(dropped_at=database_time()))
