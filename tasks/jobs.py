"""The tasks that REST shows. Each has a row, which has the id of the task and stores its progress.

Each task can be repeated. If a run has died, the task starts again; if the task has ended or was revoked, it does not.
The result is also stored as Celery's result, for operators who look there.
"""

import uuid
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task

from audio import database
from audio.dispatch import BACKGROUND
from audio.errors import MediaLimitExceededError
from audio.jobs import rows, run
from tasks.repeatable import Repeatable

_OPTIONS: dict[str, Any] = {"bind": True, "base": Repeatable}


def _run(task: Repeatable) -> dict[str, Any]:
    task_id = uuid.UUID(task.request.id)
    database.hold_reserve()
    try:
        run.run(task_id)
    except SoftTimeLimitExceeded:
        limit = MediaLimitExceededError()
        rows.fail(task_id, limit.code, limit.detail)
    return rows.status(task_id)


@shared_task(name=BACKGROUND["transcode"], **_OPTIONS)
def transcode(self: Repeatable, session_id: str, audio_format: str) -> dict[str, Any]:
    """Make a session's recording in another format."""
    return _run(self)


@shared_task(name=BACKGROUND["chapters"], **_OPTIONS)
def chapters(self: Repeatable, session_id: str, audio_format: str) -> dict[str, Any]:
    """Copy a session's recording, or its transcode, into a file with chapters."""
    return _run(self)


@shared_task(name=BACKGROUND["waveform"], **_OPTIONS)
def waveform(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Make the peaks of a session's recording."""
    return _run(self)


@shared_task(name=BACKGROUND["verify"], **_OPTIONS)
def verify(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Compare a session's rows, chunks and recording with each other."""
    return _run(self)


@shared_task(name=BACKGROUND["concatenate"], **_OPTIONS)
def concatenate_asked(self: Repeatable, session_id: str) -> dict[str, Any]:
    """Process the pending chunks of a session, because a client requested it."""
    return _run(self)
