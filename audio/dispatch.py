"""The names of the Celery tasks, and the functions that enqueue them.

The broker may lose a task, or be unavailable. The sweep finds unfinished work in the database and enqueues it again.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from celery import current_app
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

logger = structlog.stdlib.get_logger(__name__)

CONCATENATE = "sercuescribe.concatenate"
CONCATENATE_LIVE = "sercuescribe.concatenate_live"
CHORE = "sercuescribe.chore"
UPLOAD = "sercuescribe.upload"
SWEEP = "sercuescribe.sweep"
DELETE_SESSION = "sercuescribe.delete_session"
DELIVER_WEBHOOKS = "sercuescribe.deliver_webhooks"
# Tasks that have a row, by their kind. Long tasks go to another queue (the setting CELERY_TASK_ROUTES), so that they
# never delay the recordings of closed sessions.
BACKGROUND = {
    "concatenate": "sercuescribe.concatenate_asked",
    "transcode": "sercuescribe.transcode",
    "chapters": "sercuescribe.chapters",
    "waveform": "sercuescribe.waveform",
    "verify": "sercuescribe.verify",
}
# How many of the (up to forty) sessions of one task are shown to operators.
_SHOWN_SESSIONS = 2


def concatenate(session_id: uuid.UUID) -> None:
    """Enqueue the assembly of a session's pending chunks, which finishes the recording if the session is closed.

    The task is sent when the surrounding transaction, if any, is committed.
    """
    transaction.on_commit(lambda: _send(CONCATENATE, [str(session_id)]))


def concatenate_live(session_ids: Sequence[uuid.UUID]) -> None:
    """Enqueue the next windows of open sessions in one task. A task for each session would cost more than its chunks.

    The task never expires, because the clocks of two hosts may differ. If nothing is left to do, it costs one query.
    """
    keys = [str(session_id) for session_id in session_ids]
    shown = f"({len(keys)} sessions, {', '.join(keys[:_SHOWN_SESSIONS])}{', ...' if keys[_SHOWN_SESSIONS:] else ''})"
    _send(CONCATENATE_LIVE, [keys], argsrepr=shown)


def chore(name: str) -> None:
    """Enqueue a chore."""
    _send(CHORE, [name])


def upload(session_id: uuid.UUID) -> None:
    """Enqueue the upload of a session's finished recording, if RECORDINGS_STORAGE names a storage."""
    if settings.RECORDINGS_STORAGE:
        transaction.on_commit(lambda: _send(UPLOAD, [str(session_id)]))


def background(task_id: uuid.UUID, kind: str, session_id: uuid.UUID, audio_format: str) -> None:
    """Enqueue the task whose row has this id, once the row is committed."""
    arguments = [str(session_id), audio_format] if audio_format else [str(session_id)]
    transaction.on_commit(lambda: _send(BACKGROUND[kind], arguments, task_id=str(task_id)))


def delete_session(session_id: uuid.UUID) -> None:
    """Enqueue the removal of a session that is marked for deletion, once the mark is committed."""
    transaction.on_commit(lambda: _send(DELETE_SESSION, [str(session_id)]))


def webhooks() -> None:
    """Enqueue the delivery of all events that are due."""
    _send(DELIVER_WEBHOOKS, [])


def _send(name: str, arguments: list[Any], **options: Any) -> None:
    try:
        current_app.send_task(name, args=arguments, **options)
    except OperationalError as error:
        logger.warning("broker_away", task=name, arguments=arguments, error=str(error))
