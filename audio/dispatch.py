"""The names of the background tasks, and how the product asks for one.

A request is a hint: the broker may lose it, or be away. The sweep finds in the database what was not done.
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
# Those whose state is in a row of their own, by their kind. What takes long goes to another queue (the setting
# CELERY_TASK_ROUTES), so that it never delays the closing of sessions.
BACKGROUND = {
    "concatenate": "sercuescribe.concatenate_asked",
    "transcode": "sercuescribe.transcode",
    "waveform": "sercuescribe.waveform",
    "verify": "sercuescribe.verify",
}
# Of the forty of one request, in what an operator sees of it.
_SHOWN_SESSIONS = 2


def concatenate(session_id: uuid.UUID) -> None:
    """Asks for the recording of a session to be brought up to date, and finished if the session is closed.

    The request leaves once the surrounding transaction, if any, is committed.
    """
    transaction.on_commit(lambda: _send(CONCATENATE, [str(session_id)]))


def concatenate_live(session_ids: Sequence[uuid.UUID]) -> None:
    """Asks for the next windows of open sessions, in one task: a task a session would cost more than the chunks.

    None expires, because the clocks of two hosts may differ: a request for which nothing is left to do costs a query.
    """
    keys = [str(session_id) for session_id in session_ids]
    shown = f"({len(keys)} sessions, {', '.join(keys[:_SHOWN_SESSIONS])}{', ...' if keys[_SHOWN_SESSIONS:] else ''})"
    _send(CONCATENATE_LIVE, [keys], argsrepr=shown)


def chore(name: str) -> None:
    """Asks for a chore of the upkeep."""
    _send(CHORE, [name])


def upload(session_id: uuid.UUID) -> None:
    """Asks for the finished recording of a session to be moved to the storage that RECORDINGS_STORAGE names, if any."""
    if settings.RECORDINGS_STORAGE:
        transaction.on_commit(lambda: _send(UPLOAD, [str(session_id)]))


def background(task_id: uuid.UUID, kind: str, session_id: uuid.UUID, audio_format: str) -> None:
    """Asks for the background task with that id, a row that says what there is to do, once that row is committed."""
    arguments = [str(session_id), audio_format] if audio_format else [str(session_id)]
    transaction.on_commit(lambda: _send(BACKGROUND[kind], arguments, task_id=str(task_id)))


def delete_session(session_id: uuid.UUID) -> None:
    """Asks for the removal of a session that is marked for it, once the mark is committed."""
    transaction.on_commit(lambda: _send(DELETE_SESSION, [str(session_id)]))


def _send(name: str, arguments: list[Any], **options: Any) -> None:
    try:
        current_app.send_task(name, args=arguments, **options)
    except OperationalError as error:
        logger.warning("broker_away", task=name, arguments=arguments, error=str(error))
