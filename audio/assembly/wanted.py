"""Windows on request, so that a live recording that somebody reads is at most two seconds behind.

A request enqueues a window and waits for it. A page that listens to a session only enqueues windows. However many
readers there are, a session has at most one such task per second.
"""

import time
import uuid
from collections.abc import Collection, Iterable

from django.core.cache import cache
from redis.exceptions import RedisError

from audio import dispatch
from audio.database import database_time
from audio.models import AudioSession, Recording, RecordingState

# A window that is not older than this is new enough.
FRESH_SECONDS = 1.0
WAIT_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 1
_POLL_SECONDS = 0.03
_GROWING = (RecordingState.EMPTY, RecordingState.LIVE)


def wait_for_window(session: AudioSession) -> bool:
    """Wait until a worker has updated the recording of an open session, for WAIT_SECONDS at most.

    Args:
        session: The session, with its recording.

    Returns:
        Whether the recording has changed.
    """
    if not _is_behind(session):
        return False
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        _enqueue([session.pk])
        time.sleep(_POLL_SECONDS)
        recording = Recording.objects.filter(pk=session.pk).first()
        if recording is None or recording.state not in _GROWING or recording.looked_to >= session.total_chunks:
            return True
    return False


def enqueue_windows(session_ids: Collection[uuid.UUID]) -> None:
    """Enqueue the windows of those sessions that are open and whose recordings are behind."""
    sessions = AudioSession.objects.open().filter(pk__in=session_ids).select_related("recording")
    _enqueue([session.pk for session in sessions.order_by() if _is_behind(session)])


def _is_behind(session: AudioSession) -> bool:
    """Whether audio of an open session has been pending for too long, by its rows."""
    recording = getattr(session, "recording", None)
    if recording is None or not session.is_open or recording.state not in _GROWING or "format" in session.undecided:
        return False
    if session.total_chunks <= recording.looked_to:
        return False
    age_seconds = (database_time() - recording.updated_at).total_seconds()
    # The clock may have been set back.
    return recording.state == RecordingState.EMPTY or not 0 <= age_seconds < FRESH_SECONDS


def _enqueue(session_ids: Iterable[uuid.UUID]) -> None:
    try:
        due = [key for key in session_ids if cache.add(f"window:{key}", True, _ASK_AGAIN_SECONDS)]
    except RedisError:
        return
    if due:
        dispatch.concatenate_live(due)
