"""Markers: moments in a recording with a label.

A marker is placed behind the chunks that the session has, or at a number of seconds. In the first case assembly ends a
window behind these chunks, and so knows when in the recording they end (`audio.assembly.markers`). For that, the number
of chunks is read under the lock of the session's row, which each commit of chunks takes: no window that was read before
reaches further, and each window that is read afterwards finds the marker.
"""

import uuid
from typing import Any

import structlog
from django.db import transaction

from audio.errors import InvalidParameter, SessionClosed, SessionNotFound, TooManyMarkers
from audio.ingest.sessions import as_current
from audio.ingest.types import Producer
from audio.models import AudioSession, Marker, Recording, RecordingState

logger = structlog.stdlib.get_logger(__name__)

MAX_MARKERS_PER_SESSION = 1000


def add_marker(
    session_id: uuid.UUID, label: str, seconds: float | None = None, producer: Producer | None = None
) -> Marker:
    """Add a marker to a session.

    Args:
        session_id: The session.
        label: The label of the marker.
        seconds: Where it is in the recording; None for the end of the audio so far.
        producer: The connection that asks for it, which can mark only an open session. None if no connection does.

    Raises:
        InvalidParameter: The recording is shorter.
        SessionClosed: The session is closed.
        SessionNotFound: There is no such session.
        Superseded: A newer connection has taken over the source of the one that asks.
        TooManyMarkers: The session has as many markers as it may have.
    """
    with as_current(session_id, producer):
        session = _locked(session_id)
        if producer is not None and not session.is_open:
            raise SessionClosed
        place = _place(session, seconds)
        if Marker.objects.filter(session=session).count() >= MAX_MARKERS_PER_SESSION:
            raise TooManyMarkers(limit=MAX_MARKERS_PER_SESSION)
        marker = Marker.objects.create(session=session, label=label, **place)
    logger.info("marker_added", session_id=str(session_id), marker_id=str(marker.pk))
    return marker


def change_marker(marker: Marker, changes: dict[str, Any]) -> None:
    """Change the label of a marker, or move it: to `position_seconds`, or if that is None to the end so far.

    Raises:
        InvalidParameter: The recording is shorter.
        SessionNotFound: The session was deleted meanwhile.
    """
    with transaction.atomic():
        values = {name: value for name, value in changes.items() if name != "position_seconds"}
        if "position_seconds" in changes:
            values |= _place(_locked(marker.session_id), changes["position_seconds"])
        Marker.objects.filter(pk=marker.pk).update(**values)


def _locked(session_id: uuid.UUID) -> AudioSession:
    session = AudioSession.objects.select_for_update().filter(pk=session_id).first()
    if session is None:
        raise SessionNotFound("The session was deleted.")
    return session


def _place(session: AudioSession, seconds: float | None) -> dict[str, Any]:
    """Return the values of a marker's row. Its caller has locked the session's row."""
    # Locked too: a recording that becomes ready now gives a position to the markers that have none.
    recording = Recording.objects.select_for_update().filter(pk=session.pk).first()
    duration = recording.duration_seconds if recording and recording.state == RecordingState.READY else None
    if seconds is None:
        position = duration if session.total_chunks else 0.0
        return {"after_sequence": session.total_chunks, "position_seconds": position, "byte_offset": None}
    if duration is not None and seconds > duration:
        raise InvalidParameter(
            f"position_seconds must not be behind the end of the recording, {duration:.3f}.",
            parameter="position_seconds",
            received=seconds,
            limit=duration,
        )
    return {"after_sequence": None, "position_seconds": seconds, "byte_offset": None}
