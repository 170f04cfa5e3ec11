"""One execution of a task that has a row.

A run holds an flock in a working folder of its own, which is removed when the run ends.
"""

import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import structlog
from structlog.contextvars import bound_contextvars

from audio.errors import AudioError
from audio.integrity import verify
from audio.jobs import chapters, peaks, recording, rows, transcode
from audio.jobs.rows import TaskRevokedError
from audio.models import BackgroundTask, Recording, TaskKind
from audio.storage import paths
from audio.storage.lock import LOCK_NAME, file_lock

logger = structlog.stdlib.get_logger(__name__)


def run(task_id: uuid.UUID) -> None:
    """Run the task with this id, unless it has ended or is deleted, or another run is working on it.

    An error of the audio or of the state of the recording makes the task `failed`. Temporary and other errors are
    raised, and the same call may succeed later.
    """
    task = BackgroundTask.objects.select_related("session").filter(pk=task_id).first()
    if task is None:
        return
    work = paths.folder(task.session_id) / paths.DERIVED_FOLDER / str(task_id)
    with paths.deleted_with(task.session_id), _named(task), file_lock(work / LOCK_NAME) as is_ours:
        if is_ours:
            _begin(task, work)


def _named(task: BackgroundTask) -> AbstractContextManager[None]:
    """Bind the task to every line of the log."""
    what = f"{task.kind} {task.format}".strip()
    return bound_contextvars(session_id=str(task.session_id), task_id=str(task.pk), task=what)


def _begin(task: BackgroundTask, work: Path) -> None:
    row = BackgroundTask.objects.filter(pk=task.pk)
    try:
        if row.start():
            _MAKERS[TaskKind(task.kind)](task, work)
            logger.info("task_ended")
    except TaskRevokedError:
        logger.info("task_revoked")
    except AudioError as error:
        if error.retryable:
            raise
        rows.fail(task.pk, error.code, error.detail)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _verify(task: BackgroundTask, work: Path) -> None:
    found = Recording.objects.filter(pk=task.session_id).first()
    seconds = (found.duration_seconds if found else None) or 0.0
    report = rows.reporter(task, seconds)
    verified = verify.session(task.session_id, lambda progress: report(progress * seconds))
    rows.complete(task.pk, is_current=False, report=verified.as_dict(), seconds_done=seconds)


_MAKERS: dict[TaskKind, Callable[[BackgroundTask, Path], None]] = {
    TaskKind.CONCATENATE: recording.make,
    TaskKind.TRANSCODE: transcode.make,
    TaskKind.CHAPTERS: chapters.make,
    TaskKind.WAVEFORM: peaks.make,
    TaskKind.VERIFY: _verify,
}
