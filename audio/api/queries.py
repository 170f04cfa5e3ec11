"""The queries of sessions that the views share."""

import uuid

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from audio.access import Identity, Kind
from audio.errors import NotAllowedError, SessionNotFoundError
from audio.models import AudioConnection, AudioSession
from audio.narrowing import Condition, OnColumn, one_of


def sessions() -> QuerySet[AudioSession]:
    """Return the sessions with their recordings, projects and `connection_count`.

    The connections are counted only for the rows that are read.
    """
    counts = (
        AudioConnection.objects.filter(session=OuterRef("pk"))
        .order_by()
        .values("session")
        .annotate(count=Count("pk"))
        .values("count")
    )
    found = AudioSession.objects.select_related("recording", "project")
    return found.annotate(connection_count=Coalesce(Subquery(counts), 0))


def find_session(session_id: uuid.UUID, identity: Identity, scope: str) -> AudioSession:
    """Return the session with this id.

    Args:
        session_id: The session's id.
        identity: The identity of the caller.
        scope: What they want to do with it; an empty scope requires only that they see it.

    Raises:
        NotAllowedError: The identity sees it, and may not do this.
        SessionNotFoundError: It does not exist, or not for this identity.
    """
    session = sessions().filter(pk=session_id).first()
    if session is None:
        raise SessionNotFoundError(session_id=str(session_id))
    identity.require(scope, session.project_id, session.pk)
    return session


def visibility(identity: Identity) -> list[Condition]:
    """Return the conditions that leave the sessions which exist for an identity, as `access.visible` does."""
    conditions: list[Condition] = []
    if identity.session_id is not None:
        conditions.append(OnColumn("pk", "exact", identity.session_id))
    if not identity.everywhere:
        conditions.append(one_of("project_id", sorted(identity.scopes)))
    return conditions


def require_open_for_token(session: AudioSession, identity: Identity) -> None:
    """Check that a session token still changes its session: it does until the session is closed.

    Raises:
        NotAllowedError: It is closed.
    """
    if identity.kind is Kind.TOKEN and not session.is_open:
        raise NotAllowedError("The session is closed. Its session tokens cannot change it any more; use an API key.")
