"""The recording of a session, and the jobs that follow once it is ready."""

import uuid
from pathlib import Path

from django.db.models import QuerySet

from audio import dispatch
from audio.assembly import concatenate
from audio.errors import SessionBusyError
from audio.jobs import peaks, rows
from audio.models import BackgroundTask, Recording, RecordingState, TaskKind
from audio.storage.lock import session_lock


def make_recording(session_id: uuid.UUID) -> None:
    """Process the pending chunks of a session (`audio.assembly.concatenate`).

    A recording that becomes ready gets its waveform; then its upload is enqueued (`audio.jobs.upload`).

    Raises:
        AudioError: The errors of `concatenate`.
    """
    concatenate.concatenate(session_id)
    recording = Recording.objects.select_related("session").filter(pk=session_id, state=RecordingState.READY).first()
    if recording is None:
        return
    if not _waveforms(session_id).exists():
        with session_lock(session_id) as is_ours:
            if is_ours and not peaks.keep_peaks(recording):
                rows.enqueue(recording.session, TaskKind.WAVEFORM)
    if recording.is_local:
        dispatch.upload(session_id)


def _waveforms(session_id: uuid.UUID) -> QuerySet[BackgroundTask]:
    return BackgroundTask.objects.filter(session=session_id, kind=TaskKind.WAVEFORM, is_current=True)


def make(task: BackgroundTask, work: Path) -> None:
    """Process the pending chunks of a session for a task that a client requested.

    Raises:
        SessionBusyError: Another run is working on the session.
    """
    make_recording(task.session_id)
    recording = Recording.objects.select_related("session").filter(pk=task.session_id).first()
    if recording is None or _is_unfinished(recording):
        raise SessionBusyError
    if recording.state == RecordingState.FAILED:
        rows.fail(task.pk, recording.error_code, recording.error_detail)
    else:
        rows.complete(task.pk, is_current=False)


def _is_unfinished(recording: Recording) -> bool:
    """Whether the session is closed, and its recording is neither ready nor failed."""
    session = recording.session
    is_final = recording.state in (RecordingState.READY, RecordingState.FAILED)
    return session.total_chunks > 0 and not session.is_open and not is_final
