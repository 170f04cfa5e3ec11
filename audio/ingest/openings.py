"""The openings of a crowd: the new sessions of many clients in one transaction, with one statement for each table."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection, transaction

from audio import access
from audio.access import Identity, audit, limits
from audio.database import database_time
from audio.errors import AudioError, OverloadedError, TooManySessionsError
from audio.ingest import sessions
from audio.ingest.sessions import Opened
from audio.models import AudioConnection, AudioSession, AudioSource, MetadataEntry, Project, Recording
from audio.webhooks import events as webhook_events
from audio.wire.parameters import ConnectionRequest


@dataclass(frozen=True, slots=True)
class Opening:
    """A client that wants to open a session, or to continue one.

    Attributes:
        request: The parameters of its request.
        session_id: The session to continue, None for a new one.
        identity: Who asks.
        address: The IP address of the client, for the audit.
        is_gone: Returns whether the client has left.
    """

    request: ConnectionRequest
    session_id: uuid.UUID | None
    identity: Identity
    address: str | None
    is_gone: Callable[[], bool]

    def open_alone(self, process_id: uuid.UUID) -> Opened:
        """Open the connection in a transaction of its own (`sessions.open_connection`)."""
        return sessions.open_connection(
            self.request, self.session_id, process_id, self.is_gone, self.identity, self.address
        )


def open_new(openings: Sequence[Opening], process_id: uuid.UUID) -> list[Opened | AudioError | None]:
    """Open a new session for each of these clients whose project has no limits.

    Args:
        openings: The clients.
        process_id: The process that has their connections.

    Returns:
        The opened connection, or the error, for each of the clients, in order. It is None for a client that has to be
        opened alone.
    """
    results: dict[int, Opened | AudioError | None] = {}
    together: dict[int, tuple[Opening, Project]] = {}
    for number, opening in enumerate(openings):
        try:
            project = _project(opening, [project for _, project in together.values()])
            if limits.are_set(project) or not connection.features.can_return_rows_from_bulk_insert:
                results[number] = None
            else:
                together[number] = opening, project
        except AudioError as error:
            results[number] = error
    if together:
        results |= zip(together, _open_together(list(together.values()), process_id), strict=True)
    return [results[number] for number in range(len(openings))]


def _project(opening: Opening, known: Sequence[Project]) -> Project:
    """Return the project of a new session, one that is known if possible."""
    project_id = access.project_for(opening.identity, opening.request.project)
    opening.identity.require("record", project_id)
    for project in known:
        if project.pk == project_id:
            return project
    return Project.objects.get(pk=project_id)


def _open_together(clients: Sequence[tuple[Opening, Project]], process_id: uuid.UUID) -> list[Opened | AudioError]:
    with transaction.atomic():
        room, now = sessions.room_for(len(clients)), database_time()
        answers: list[AudioSession | AudioError] = []
        for opening, project in clients:
            if opening.is_gone():
                answers.append(OverloadedError(sessions.GONE))
            elif room <= 0:
                answers.append(TooManySessionsError(limit=settings.MAX_CONCURRENT_SESSIONS))
            else:
                room -= 1
                answers.append(_draft(opening.request, project, now))
        admitted = [
            (opening, session)
            for (opening, _), session in zip(clients, answers, strict=True)
            if isinstance(session, AudioSession)
        ]
        opened = iter(_insert(admitted, process_id))
    return [answer if isinstance(answer, AudioError) else next(opened) for answer in answers]


def _draft(request: ConnectionRequest, project: Project, now: datetime) -> AudioSession:
    parameters = request.parameters(sessions.default_parameters())
    return sessions.draft(parameters, request.user_id, request.undecided, project, now, request.details)


def _insert(admitted: Sequence[tuple[Opening, AudioSession]], process_id: uuid.UUID) -> list[Opened]:
    """Insert the rows of new sessions and of their connections."""
    if not admitted:
        return []
    created = [session for _, session in admitted]
    names = [opening.request.source for opening, _ in admitted]
    AudioSession.objects.bulk_create(created)
    if entries := [entry for session in created for entry in sessions.metadata_entries(session)]:
        MetadataEntry.objects.bulk_create(entries)
    Recording.objects.bulk_create([Recording(session=session) for session in created])
    sources = AudioSource.objects.bulk_create(
        [
            # Each opening of a named source begins an epoch.
            AudioSource(session=session, name=name or "", epoch=0 if name is None else 1)
            for session, name in zip(created, names, strict=True)
        ]
    )
    rows = AudioConnection.objects.bulk_create(
        [
            AudioConnection(session=source.session, source=source, process_id=process_id, epoch=source.epoch)
            for source in sources
        ]
    )
    audit.record_all(
        "session.opened",
        [(opening.identity, session.project, session.pk, opening.address) for opening, session in admitted],
    )
    webhook_events.sessions_opened(created)
    return [sessions.opened(row.session, row.source, row.pk, resumed=False) for row in rows]
