"""Files that jobs made from a recording, such as transcodes. They are removed when the recording changes."""

import shutil
import uuid

from audio.models import OPEN_TASK_STATES, BackgroundTask, TaskKind
from audio.storage.paths import DERIVED_FOLDER, folder


def forget(session_id: uuid.UUID) -> None:
    """Revoke the jobs on a recording that has changed, and remove their files from the rows."""
    made = BackgroundTask.objects.filter(session=session_id, is_current=True).exclude(kind=TaskKind.CONCATENATE)
    made.filter(state__in=OPEN_TASK_STATES).revoke()
    made.update(is_current=False)


def delete(session_id: uuid.UUID) -> None:
    """Delete the files that `forget` has removed from the rows."""
    shutil.rmtree(folder(session_id) / DERIVED_FOLDER, ignore_errors=True)
