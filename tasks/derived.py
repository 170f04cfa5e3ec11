"""The tasks that somebody asked for: each has a row of its own, named by its id, that says how far it is.

Each is repeatable: a run that died is begun anew, one that was revoked or has ended is not.
"""

import uuid
from typing import Any

from celery import Task, shared_task
from django.db import Error as DatabaseError

from audio.build import derive
from audio.dispatch import BACKGROUND
from audio.errors import AudioError

_OPTIONS: dict[str, Any] = {
    "bind": True,
    "ignore_result": True,
    "autoretry_for": (DatabaseError, OSError, AudioError),
    "retry_backoff": 1,
    "retry_backoff_max": 60,
    "max_retries": 10,
}


@shared_task(name=BACKGROUND["transcode"], **_OPTIONS)
def transcode(self: "Task[Any, Any]", session_id: str, audio_format: str) -> None:
    """Makes a session's recording in another format."""
    derive.run(uuid.UUID(self.request.id))


@shared_task(name=BACKGROUND["waveform"], **_OPTIONS)
def waveform(self: "Task[Any, Any]", session_id: str) -> None:
    """Makes the peaks of a session's recording."""
    derive.run(uuid.UUID(self.request.id))


@shared_task(name=BACKGROUND["concatenate"], **_OPTIONS)
def concatenate_asked(self: "Task[Any, Any]", session_id: str) -> None:
    """Brings a session's recording as far as its chunks allow, because somebody asked for it."""
    derive.run(uuid.UUID(self.request.id))
