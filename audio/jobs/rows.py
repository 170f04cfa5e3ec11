r"""The rows of background tasks: enqueue, find, revoke, report and complete them.

    pending --run--> running --complete--> completed
        \__revoke______|____fail_________> revoked, failed

Two requests for the same work get the same row. A run commits only while the state in its row is `running`. When a task
was revoked, its run notices this with its next report, at most about a second later, and kills its FFmpeg.
"""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from django.db import IntegrityError, transaction

from audio import dispatch
from audio.errors import (
    RecordingNotReadyError,
    SessionNotFoundError,
    TaskEndedError,
    TaskFailedError,
    TaskNotFoundError,
    TaskRunningError,
)
from audio.models import AudioSession, BackgroundTask, DatabaseNow, Recording, RecordingState, TaskKind, TaskState
from audio.storage import downloads, durable, paths
from audio.webhooks import events

logger = structlog.stdlib.get_logger(__name__)

_PROGRESS_SECONDS = 1.0
_DETAIL_CHARACTERS = 500
_ATTEMPTS = 5
_MADE_OF_RECORDINGS = (TaskKind.TRANSCODE, TaskKind.CHAPTERS, TaskKind.WAVEFORM)


class TaskRevokedError(Exception):
    """The state in the row is no longer `running`, so the run must not commit anything."""


def enqueue(session: AudioSession, kind: TaskKind, audio_format: str = "", again: bool = False) -> BackgroundTask:
    """Return the task that does some work on a session; insert and send it if there is none yet.

    Args:
        session: The session.
        kind: The kind of work.
        audio_format: The format of a transcode or of a file with chapters.
        again: Whether to replace a task that failed by a new one.

    Raises:
        RecordingNotReadyError: The recording that the task needs is not finished. `downloads.servable` may raise other
            errors for the same reason.
        SessionNotFoundError: The session is gone.
    """
    if kind in _MADE_OF_RECORDINGS:
        require_ready(session)
    for _ in range(_ATTEMPTS):
        current = BackgroundTask.objects.filter(session=session, kind=kind, format=audio_format, is_current=True)
        task = current.first()
        if task is not None and again and task.state == TaskState.FAILED:
            current.filter(pk=task.pk).update(is_current=False)
            task = None
        if task is None:
            task = _new(session, kind, audio_format)
        if task is not None:
            return task
    raise SessionNotFoundError(session_id=str(session.pk))


def require_ready(session: AudioSession) -> None:
    """Raise RecordingNotReadyError, or what `downloads.servable` raises, unless the recording is ready."""
    recording = Recording.objects.filter(pk=session.pk).first() or Recording(session=session)
    if recording.state == RecordingState.LIVE:
        raise RecordingNotReadyError
    downloads.servable(session, recording)


def _new(session: AudioSession, kind: TaskKind, audio_format: str) -> BackgroundTask | None:
    """Insert a row and send its task; return None if another request was first, or if the session is gone."""
    try:
        with transaction.atomic():
            task = BackgroundTask.objects.create(
                session=session,
                project_id=session.project_id,
                kind=kind,
                format=audio_format,
                created_at=DatabaseNow(),
                updated_at=DatabaseNow(),
            )
            task.refresh_from_db(fields=["created_at", "updated_at"])
    except IntegrityError:
        return None
    send(task)
    return task


def send(task: BackgroundTask) -> None:
    """Send a task that has a row to its queue."""
    dispatch.background(task.pk, task.kind, task.session_id, task.format)


def find(task_id: str) -> BackgroundTask:
    """Return the task with this id.

    Raises:
        TaskNotFoundError: There is none.
    """
    try:
        key = uuid.UUID(task_id)
    except ValueError:
        raise TaskNotFoundError(task_id=task_id[:64]) from None
    task = BackgroundTask.objects.select_related("session__recording").filter(pk=key).first()
    if task is None:
        raise TaskNotFoundError(task_id=task_id[:64])
    return task


def revoke(task_id: str) -> None:
    """Revoke a task that is pending or running. Revoking it again is no error.

    For the kind `concatenate` only the row is revoked, because every recording is made in any case.

    Raises:
        TaskNotFoundError: There is no task with that id.
        TaskEndedError: The task has completed or failed.
    """
    task = find(task_id)
    if not BackgroundTask.objects.filter(pk=task.pk).revoke() and find(task_id).state != TaskState.REVOKED:
        raise TaskEndedError(task_id=str(task.pk))


def file_of(session: AudioSession, kind: TaskKind, audio_format: str = "") -> tuple[BackgroundTask, Path]:
    """Return the task that does some work on a session, and the file that it made; enqueue the task if there is none.

    Raises:
        TaskRunningError: The task has not ended yet.
        TaskFailedError: The task failed.
        AudioError: The errors of `enqueue`.
    """
    task = enqueue(session, kind, audio_format)
    match task.state:
        case TaskState.COMPLETED:
            return task, paths.root() / task.file_name
        case TaskState.FAILED:
            raise TaskFailedError(f"The task failed: {task.error_detail}", task_id=str(task.pk), reason=task.error_code)
        case _:
            raise TaskRunningError(task_id=str(task.pk), status=task.state, progress=round(task.progress, 3))


def complete(task_id: uuid.UUID, **values: Any) -> bool:
    """Mark a running task as completed.

    Args:
        task_id: The task.
        values: The other columns that change.

    Returns:
        Whether the task was running.
    """
    with transaction.atomic():
        was_running = bool(BackgroundTask.objects.filter(pk=task_id).complete(**values))
        if was_running:
            events.task_ended(task_id)
    return was_running


def fail(task_id: uuid.UUID, code: str, detail: str) -> None:
    """Mark a running task as failed."""
    with transaction.atomic():
        if BackgroundTask.objects.filter(pk=task_id).fail(code, detail[:_DETAIL_CHARACTERS]):
            events.task_ended(task_id)
            logger.warning("task_failed", task_id=str(task_id), code=code, error=detail)


def status(task_id: uuid.UUID) -> dict[str, Any]:
    """Return the `status` of a task, with its result or its error; `deleted` if its session was deleted."""
    task = BackgroundTask.objects.filter(pk=task_id).first()
    if task is None:
        return {"status": "deleted"}
    if task.state == TaskState.FAILED:
        return {"status": task.state, "code": task.error_code, "detail": task.error_detail}
    return {"status": task.state, "seconds_done": task.seconds_done, "size_bytes": task.size_bytes}


def reporter(task: BackgroundTask, total_seconds: float) -> Callable[[float], None]:
    """Return a function that stores the seconds done in a task's row, at most once a second.

    The function raises TaskRevokedError if the task was revoked.
    """
    reported_at = time.monotonic()

    def report(seconds: float) -> None:
        nonlocal reported_at
        now = time.monotonic()
        if now - reported_at < _PROGRESS_SECONDS:
            return
        reported_at = now
        progress = min(1.0, seconds / total_seconds) if total_seconds else 0.0
        if not BackgroundTask.objects.filter(pk=task.pk).tell(progress, seconds):
            raise TaskRevokedError

    return report


def ready_recording(task: BackgroundTask) -> Recording:
    """Return the recording of a task's session.

    Raises:
        AudioError: The recording is not ready, as for `enqueue`.
    """
    require_ready(task.session)
    return Recording.objects.get(pk=task.session_id)


def keep(task: BackgroundTask, output: Path, seconds: float) -> None:
    """Make a file durable, move it to its place, and commit it as the result of the task.

    Raises:
        TaskRevokedError: The task was revoked meanwhile.
    """
    final = paths.folder(task.session_id) / paths.DERIVED_FOLDER / output.name
    size_bytes = durable.place(output, final)
    name = name_of(task.session_id, final)
    if not complete(task.pk, file_name=name, size_bytes=size_bytes, seconds_done=seconds):
        final.unlink(missing_ok=True)
        raise TaskRevokedError


def name_of(session_id: uuid.UUID, path: Path) -> str:
    """Return the name of a derived file, relative to the storage root."""
    return f"{paths.folder_name(session_id)}/{paths.DERIVED_FOLDER}/{path.name}"
