"""Markers: moments in a recording with a label.

A marker is placed after the last chunk that the session has, or at a number of seconds. In the first case assembly ends
a window at this chunk, and so knows the position at which it ends (`audio.assembly.markers`). The number of chunks is
read under the lock of the session's row, which each commit of chunks acquires. So no window that was read earlier
reaches beyond it, and each window that is read later finds the marker.

The markers of a session are also in a file beside its recording, from which they are restored if the database is lost
(`audio.integrity.reindex`). The file does not contain computed positions, because assembly computes them again.
"""

import math
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from django.db import transaction

from audio.database import is_full
from audio.errors import (
    InvalidParameterError,
    SessionClosedError,
    SessionNotFoundError,
    StorageFullError,
    StorageUnavailableError,
    TooManyMarkersError,
)
from audio.ingest.sessions import as_current
from audio.ingest.types import Producer
from audio.models import AudioSession, Marker, Recording, RecordingState
from audio.storage import session_file
from audio.wire.parameters import parse_label

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
        InvalidParameterError: The recording is shorter.
        SessionClosedError: The session is closed.
        SessionNotFoundError: There is no such session.
        StorageFullError, StorageUnavailableError: The marker could not be stored.
        SupersededError: A newer connection has taken over the source of the one that asks.
        TooManyMarkersError: The session has as many markers as it may have.
    """
    with as_current(session_id, producer):
        session = _locked(session_id)
        if producer is not None and not session.is_open:
            raise SessionClosedError
        place = _place(session, seconds)
        if Marker.objects.filter(session=session).count() >= MAX_MARKERS_PER_SESSION:
            raise TooManyMarkersError(limit=MAX_MARKERS_PER_SESSION)
        marker = Marker.objects.create(session=session, label=label, **place)
        _write_file(session_id)
    logger.info("marker_added", session_id=str(session_id), marker_id=str(marker.pk))
    return marker


def change_marker(marker: Marker, changes: dict[str, Any]) -> None:
    """Change the label of a marker, or move it: to `position_seconds`, or if that is None to the end so far.

    Raises:
        InvalidParameterError: The recording is shorter.
        SessionNotFoundError: The session was deleted meanwhile.
        StorageFullError, StorageUnavailableError: The change could not be stored.
    """
    with transaction.atomic():
        session = _locked(marker.session_id)
        values = {name: value for name, value in changes.items() if name != "position_seconds"}
        if "position_seconds" in changes:
            values |= _place(session, changes["position_seconds"])
        Marker.objects.filter(pk=marker.pk).update(**values)
        _write_file(session.pk)


def delete_marker(marker: Marker) -> None:
    """Delete a marker.

    Raises:
        SessionNotFoundError: The session was deleted meanwhile.
        StorageFullError, StorageUnavailableError: The change could not be stored.
    """
    with transaction.atomic():
        session = _locked(marker.session_id)
        Marker.objects.filter(pk=marker.pk).delete()
        _write_file(session.pk)


def _write_file(session_id: uuid.UUID) -> None:
    """Write the file of a session's markers. Its caller has locked the session's row."""
    described = [
        {
            "id": str(marker.pk),
            "label": marker.label,
            "after_sequence": marker.after_sequence,
            "position_seconds": marker.position_seconds if marker.after_sequence is None else None,
            "created_at": marker.created_at.isoformat(),
        }
        for marker in Marker.objects.filter(session=session_id)
    ]
    try:
        session_file.write(session_id, {"markers": described}, session_file.MARKERS_NAME)
    except OSError as error:
        raise StorageFullError if is_full(error) else StorageUnavailableError from error


def described_markers(session_id: uuid.UUID, description: Mapping[str, Any]) -> list[Marker]:
    """Return the markers, not saved, that the file of a session describes.

    Raises:
        KeyError, ValueError, TypeError, InvalidParameterError: The description is wrong.
    """
    return [_described(session_id, each) for each in description.get("markers", [])][:MAX_MARKERS_PER_SESSION]


def _described(session_id: uuid.UUID, described: Mapping[str, Any]) -> Marker:
    sequence, seconds = described["after_sequence"], described["position_seconds"]
    created_at = datetime.fromisoformat(described["created_at"])
    if (sequence is None) == (seconds is None):
        raise ValueError("a marker is either behind a chunk or at a moment")
    if not (0 <= (seconds or 0.0) < math.inf and (sequence or 0) >= 0):
        raise ValueError("a marker is in the recording")
    if created_at.tzinfo is None:
        raise ValueError("a time has a zone")
    return Marker(
        pk=uuid.UUID(described["id"]),
        session_id=session_id,
        label=parse_label("label", described["label"]),
        after_sequence=None if sequence is None else int(sequence),
        position_seconds=None if seconds is None else float(seconds),
        created_at=created_at,
    )


def _locked(session_id: uuid.UUID) -> AudioSession:
    session = AudioSession.objects.select_for_update().filter(pk=session_id).first()
    if session is None:
        raise SessionNotFoundError("The session was deleted.")
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
        raise InvalidParameterError(
            f"position_seconds must not be after the end of the recording, {duration:.3f}.",
            parameter="position_seconds",
            received=seconds,
            limit=duration,
        )
    return {"after_sequence": None, "position_seconds": seconds, "byte_offset": None}
