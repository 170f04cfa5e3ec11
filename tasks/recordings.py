"""The tasks that make recordings. Each is repeatable: the database says what is left to do."""

import uuid

from celery import shared_task
from django.db import Error as DatabaseError

from audio.build.concatenate import concatenate
from audio.dispatch import CONCATENATE
from audio.errors import AudioError


@shared_task(
    name=CONCATENATE,
    ignore_result=True,
    autoretry_for=(DatabaseError, OSError, AudioError),
    retry_backoff=1,
    retry_backoff_max=60,
    max_retries=10,
)
def concatenate_session(session_id: str) -> None:
    """Brings the recording of a session as far as its chunks allow."""
    concatenate(uuid.UUID(session_id))
