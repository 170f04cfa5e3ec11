"""The events. Each function is called within the transaction that changes the state, and inserts one row.

`docs/webhooks.md` shows the payload of each type.
"""

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from audio import dispatch
from audio.models import (
    AudioSession,
    BackgroundTask,
    EventType,
    Recording,
    RecordingState,
    TaskKind,
    TaskState,
    WebhookEndpoint,
    WebhookEvent,
)


def sessions_opened(sessions: Sequence[AudioSession]) -> None:
    """Store that sessions were created, with one statement."""
    WebhookEvent.objects.bulk_create(
        _event(EventType.SESSION_OPENED, session, started_at=session.start_time.isoformat()) for session in sessions
    )
    for project_id in {session.project_id for session in sessions}:
        transaction.on_commit(partial(_hint, project_id))


def session_closed(session_id: uuid.UUID, by: str) -> None:
    """Store that a session was closed.

    Args:
        session_id: The session, whose row was changed in this transaction.
        by: The reason of the close: `client`, `request`, `sweep` or `deletion`.
    """
    session = AudioSession.objects.select_related("recording").get(pk=session_id)
    _store(EventType.SESSION_CLOSED, session, closed_by=by, **_times(session), **_recording_of(session))


def session_deleted(session: AudioSession) -> None:
    """Store that a session was deleted with all its data."""
    _store(EventType.SESSION_DELETED, session, **_times(session))


def recording_ready(recording: Recording) -> None:
    """Store that a recording is ready and its SHA-256 known. A rebuild stores it again."""
    _store(EventType.RECORDING_READY, recording.session, **_recording(recording))


def recording_failed(session_id: uuid.UUID) -> None:
    """Store that a recording can't be made from the chunks of a session, whose row was changed in this transaction."""
    recording = Recording.objects.select_related("session").get(pk=session_id)
    error = {"code": recording.error_code, "detail": recording.error_detail}
    _store(EventType.RECORDING_FAILED, recording.session, **_recording(recording), error=error)


def task_ended(task_id: uuid.UUID) -> None:
    """Store that a background task, whose row was changed in this transaction, has completed or failed."""
    task = BackgroundTask.objects.select_related("session").get(pk=task_id)
    is_failed = task.state == TaskState.FAILED
    shown = {
        "task_id": str(task.pk),
        "task": task.kind,
        "format": task.format or None,
        "status": task.state,
        "url": None if is_failed else _result_url(task),
        "size_bytes": task.size_bytes,
    }
    error = {"code": task.error_code, "detail": task.error_detail} if is_failed else None
    event_type = EventType.TASK_FAILED if is_failed else EventType.TASK_COMPLETED
    _store(event_type, task.session, task=shown, **({"error": error} if error else {}))


def url_of(path: str) -> str:
    """Return the absolute URL of a path of the API if PUBLIC_URL is set, otherwise the path."""
    return f"{settings.PUBLIC_URL.geturl()}{path}" if settings.PUBLIC_URL else path


def payload(event: WebhookEvent) -> dict[str, Any]:
    """Return the JSON of an event for endpoints and pages."""
    about = {"session_id": str(event.session_id) if event.session_id else None}
    about |= {"project": event.project.name, "user_id": event.user_id}
    return {"type": event.type, "timestamp": event.at.isoformat(), "data": about | event.data}


def _store(event_type: EventType, session: AudioSession, **data: Any) -> None:
    _event(event_type, session, **data).save(force_insert=True)
    transaction.on_commit(partial(_hint, session.project_id))


def _event(event_type: EventType, session: AudioSession, **data: Any) -> WebhookEvent:
    return WebhookEvent(
        type=event_type, project_id=session.project_id, session_id=session.pk, user_id=session.user_id, data=data
    )


def _hint(project_id: int) -> None:
    # Most projects have no endpoint, so their events need no task. The sweep publishes them.
    if WebhookEndpoint.objects.filter(project=project_id, is_enabled=True).exists():
        dispatch.webhooks()


def _times(session: AudioSession) -> dict[str, Any]:
    return {
        "started_at": session.start_time.isoformat(),
        "ended_at": session.end_time.isoformat() if session.end_time else None,
        "total_chunks": session.total_chunks,
        "byte_count": session.byte_count,
    }


def _recording_of(session: AudioSession) -> dict[str, Any]:
    return _recording(session.recording if hasattr(session, "recording") else Recording(session=session))


def _recording(recording: Recording) -> dict[str, Any]:
    is_ready = recording.state == RecordingState.READY
    shown = {
        "state": recording.state,
        "url": url_of(f"/api/audio/sessions/{recording.session_id}/audio") if is_ready else None,
        "format": recording.format or None,
        "size_bytes": recording.size_bytes,
        "sha256": recording.sha256 or None,
        "duration_seconds": recording.duration_seconds,
        "warning_count": len(recording.warnings),
    }
    return {"recording": shown}


def _result_url(task: BackgroundTask) -> str | None:
    base = f"/api/audio/sessions/{task.session_id}"
    match task.kind:
        case TaskKind.TRANSCODE:
            return url_of(f"{base}/audio?format={task.format}")
        case TaskKind.CHAPTERS:
            return url_of(f"{base}/audio?format={task.format}&markers=true")
        case TaskKind.WAVEFORM:
            return url_of(f"{base}/waveform")
        case TaskKind.CONCATENATE:
            return url_of(f"{base}/audio")
        case _:
            return url_of(f"/api/tasks/{task.pk}")
