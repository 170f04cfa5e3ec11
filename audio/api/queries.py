"""The queries of sessions that the views share."""

import uuid

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from audio.errors import SessionNotFound
from audio.models import AudioConnection, AudioSession


def sessions() -> QuerySet[AudioSession]:
    """Return the sessions with their recordings and `connection_count`.

    The connections are counted only for the rows that are read.
    """
    counts = (
        AudioConnection.objects.filter(session=OuterRef("pk"))
        .order_by()
        .values("session")
        .annotate(count=Count("pk"))
        .values("count")
    )
    return AudioSession.objects.select_related("recording").annotate(connection_count=Coalesce(Subquery(counts), 0))


def find_session(session_id: uuid.UUID) -> AudioSession:
    """Return the session with this id.

    Raises:
        SessionNotFound: There is none.
    """
    session = sessions().filter(pk=session_id).first()
    if session is None:
        raise SessionNotFound(session_id=str(session_id))
    return session
