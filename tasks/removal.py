"""The removal of sessions that an operator has marked for deletion."""

import contextlib
import uuid

from celery import shared_task

from audio import upkeep
from audio.dispatch import DELETE_SESSION
from audio.errors import SessionNotFoundError
from tasks.repeatable import Repeatable


@shared_task(name=DELETE_SESSION, base=Repeatable, ignore_result=True)
def delete_session(session_id: str) -> None:
    """Remove a session and all its data. A session that is already gone is no error."""
    with contextlib.suppress(SessionNotFoundError):
        upkeep.delete_session(uuid.UUID(session_id))
