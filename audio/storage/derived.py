"""Files made of a session's recording: transcodes and waveforms, which go when the recording changes."""

import shutil
import uuid

from audio.models import OPEN_TASK_STATES, BackgroundTask, TaskKind
from audio.storage.paths import DERIVED_FOLDER, folder


def forget(session_id: uuid.UUID) -> None:
    """Forget what was made of a session's recording, because that is another now, and stop what runs."""
    made = BackgroundTask.objects.filter(session=session_id, is_current=True).exclude(kind=TaskKind.CONCATENATE)
    made.filter(state__in=OPEN_TASK_STATES).revoke()
    made.update(is_current=False)


def delete(session_id: uuid.UUID) -> None:
    """Delete the files of what was forgotten."""
    shutil.rmtree(folder(session_id) / DERIVED_FOLDER, ignore_errors=True)
