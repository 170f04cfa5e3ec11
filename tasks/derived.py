"""The tasks that somebody asked for: each has a row of its own, named by its id, that says how far it is.

Each is repeatable: a run that died is begun anew, one that was revoked or has ended is not. What became of it is also
Celery's result, for operators who look there.
"""

import uuid
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task

from audio import database
from audio.dispatch import BACKGROUND
from audio.errors import MediaLimitExceeded
from audio.jobs import rows, run
from tasks.repeatable import Repeatable

_OPTIONS: dict[str, Any] = {"bind": True, "base": Repeatable}


def _run(task: Repeatable) -> dict[str, Any]:
    task_id = uuid.UUID(task.request.id)
    database.hold_reserve()
    try:
        run.run(task_id)
    except SoftTimeLimitExceeded:
        rows.fail(task_id, MediaLimitExceeded())
    return rows.status(task_id)


@shared_task(name=BACKGROUND["transcode"], **_OPTIONS)
def transcode(self: Repeatable, session_id: str, audio_format: str) -> dict[str, Any]:
    """Makes a session's recording in another format."""
    return _run(self)


@shared_task(name=BACKGROUND["waveform"], **_OPTIONS)
def waveform(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Makes the peaks of a session's recording."""
    return _run(self)


@shared_task(name=BACKGROUND["verify"], **_OPTIONS)
def verify(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Compares a session's rows, chunks and recording with each other."""
    return _run(self)


@shared_task(name=BACKGROUND["concatenate"], **_OPTIONS)
def concatenate_asked(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Brings a session's recording as far as its chunks allow, because somebody asked for it."""
    return _run(self)
