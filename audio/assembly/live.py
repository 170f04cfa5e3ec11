"""The next windows of many open sessions at once.

One statement reads the rows of all sessions and one writes them, and the masters are synced together, so that a window
costs little more than its bytes. Some sessions need a run of their own instead (`audio.assembly.concatenate`): those
whose files FFmpeg decodes, those with a marker to place, those whose last run has died, and those whose window fails
here.
"""

import contextlib
import uuid
from collections.abc import Collection, Iterable, Sequence

import structlog
from django.db.models import QuerySet
from structlog.contextvars import bound_contextvars

from audio.assembly import chunks, statements
from audio.assembly.assembler import PartsDifferError
from audio.assembly.concatenate import run_of
from audio.assembly.run import Run
from audio.errors import MediaError
from audio.media import plan
from audio.media.plan import Family
from audio.models import AudioSession, Marker, Recording, RecordingState
from audio.storage import paths
from audio.storage.lock import LOCK_NAME, file_lock

logger = structlog.stdlib.get_logger(__name__)

_GROWING = (RecordingState.EMPTY, RecordingState.LIVE)
_UNFINISHED = (*_GROWING, RecordingState.BUILDING)


def extend(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Process the next window of each open session that has pending chunks.

    Args:
        session_ids: The sessions, open or not.

    Returns:
        The sessions that need a run of their own.
    """
    waiting = [session for session in _sessions(session_ids) if _has_work(session)]
    together = [session.pk for session in waiting if _fits(session)]
    alone = [session.pk for session in waiting if session.pk not in together]
    if not together:
        return alone
    with contextlib.ExitStack() as locks:
        ours = [key for key in together if locks.enter_context(file_lock(paths.folder(key) / LOCK_NAME))]
        alone += _extend(ours)
    return alone + _closed_meanwhile(together)


def _sessions(session_ids: Collection[uuid.UUID]) -> list[AudioSession]:
    return list(AudioSession.objects.filter(pk__in=session_ids).select_related("recording").order_by())


def _has_work(session: AudioSession) -> bool:
    recording = getattr(session, "recording", None)
    if recording is None or not session.is_open:
        return session.total_chunks > 0 and (recording is None or recording.state in _UNFINISHED)
    is_decided = "format" not in session.undecided
    return is_decided and recording.state in _GROWING and session.total_chunks > recording.looked_to


def _fits(session: AudioSession) -> bool:
    """Whether the window of a session can be made together with others."""
    recording = getattr(session, "recording", None)
    if recording is None:
        return False
    family = recording.checkpoint.get("family") or plan.family(session.format, session.chunk_mode)
    return session.is_open and recording.token is None and Family(family) is not Family.FILES


def _extend(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Extend the recordings of sessions whose locks the caller holds, and return those that need a run of their own."""
    token = uuid.uuid4()
    free = Recording.objects.filter(pk__in=session_ids, state__in=_GROWING, token=None)
    free.update(token=token)
    recordings = Recording.objects.filter(pk__in=session_ids, token=token).select_related("session").order_by()
    runs = {recording.pk: run_of(recording.session, recording, is_handed_over=True) for recording in recordings}
    try:
        windows = chunks.windows_after({key: run.looked_to for key, run in runs.items()})
        # The markers are read after the chunks. A marker that is set later is after all of them
        # (`audio.ingest.markers`).
        marked = set(_unplaced(runs).values_list("session_id", flat=True))
        alone = [key for key, run in runs.items() if key in marked or not _append(run, windows.get(key))]
        for key in alone:
            runs[key].give_back()
        _commit(token, {key: run for key, run in runs.items() if key not in alone})
    finally:
        for run in runs.values():
            run.close()
    return alone


def _unplaced(session_ids: Iterable[uuid.UUID]) -> QuerySet[Marker]:
    return Marker.objects.filter(session__in=list(session_ids), after_sequence__isnull=False)


def _append(run: Run, window: list[chunks.PendingChunk] | None) -> bool:
    """Write a window to its master, and return whether that succeeded. If not, the run of its own says why."""
    if not window:
        return False
    with bound_contextvars(session_id=str(window[0].session_id)):
        try:
            run.append(window)
        except (MediaError, OSError, PartsDifferError) as error:
            logger.info("window_put_off", error=str(error))
            return False
    return True


def _commit(token: uuid.UUID, runs: dict[uuid.UUID, Run]) -> None:
    """Sync the masters, and commit their lengths in one statement. The claims are given up with it."""
    committed = statements.commit_windows(token, {key: run.sync() for key, run in runs.items()})
    for key in committed:
        runs[key].committed()


def _closed_meanwhile(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return the sessions that were closed while this task held their locks, because their own task found them locked.

    The files of sessions that were deleted meanwhile are deleted again.
    """
    found = {session.pk: session for session in _sessions(session_ids)}
    for key in session_ids:
        if key not in found:
            paths.delete_files(key)
    return [key for key, session in found.items() if not session.is_open and _has_work(session)]
