"""The tasks that make recordings. Each can be repeated, because the database knows what is left to do."""

import uuid

import structlog
from celery import shared_task
from django.db import Error as DatabaseError

from audio import database
from audio.assembly import live
from audio.dispatch import CONCATENATE, CONCATENATE_LIVE, UPLOAD
from audio.errors import AudioError, ObjectDamagedError
from audio.jobs.recording import make_recording
from audio.jobs.upload import upload
from tasks.repeatable import WORTH_ANOTHER_TRY, Repeatable

logger = structlog.stdlib.get_logger(__name__)


@shared_task(name=CONCATENATE_LIVE, ignore_result=True)
def concatenate_live(session_ids: list[str]) -> None:
    """Process the next windows of open sessions.

    The task does not retry a session that fails: the next window or the close of the session enqueues it again.
    """
    try:
        database.hold_reserve()
        alone = live.extend([uuid.UUID(session_id) for session_id in session_ids])
    except (DatabaseError, OSError, AudioError) as error:
        logger.warning("windows_failed", sessions=len(session_ids), error=str(error))
        return
    for session_id in alone:
        try:
            make_recording(session_id)
        except (DatabaseError, OSError, AudioError) as error:
            logger.warning("window_failed", session_id=str(session_id), error=str(error))


@shared_task(name=CONCATENATE, base=Repeatable, ignore_result=True)
def concatenate_session(session_id: str) -> None:
    """Process all pending chunks of a session."""
    database.hold_reserve()
    make_recording(uuid.UUID(session_id))


@shared_task(
    name=UPLOAD,
    base=Repeatable,
    ignore_result=True,
    autoretry_for=(*WORTH_ANOTHER_TRY, ObjectDamagedError),
    retry_backoff=2,
    retry_backoff_max=300,
    max_retries=8,
)
def upload_recording(session_id: str) -> None:
    """Move the finished recording of a session to the remote storage.

    After the last retry the sweep enqueues the task again.
    """
    upload(uuid.UUID(session_id))
