"""The rebuild of a recording from its chunks.

The ready recording stays until the new one is complete. Then one transaction changes the row and the file. If the new
one cannot be made, nothing changes.
"""

import uuid
from collections.abc import Callable
from typing import Any

import structlog
from django.db import transaction

from audio.assembly import chunks, markers
from audio.assembly.losses import Failure
from audio.assembly.made import Made
from audio.assembly.run import DETAIL_CHARACTERS, ClaimLostError, Run
from audio.errors import ChunksReleasedError
from audio.models import AudioSession, DatabaseNow, Recording, RecordingState
from audio.storage import derived, paths

logger = structlog.stdlib.get_logger(__name__)

# The row of a recording before its first run.
_NOTHING: dict[str, Any] = {
    "token": None, "master_name": "", "master_encoding": "", "master_bytes": 0, "sample_rate": 0, "channels": 0,
    "chunks_done": 0, "checkpoint": {}, "progress": 0.0, "file_name": "", "format": "", "size_bytes": None,
    "duration_seconds": None, "sha256": "", "ready_at": None, "verified_at": None, "is_without_audio": False,
    "remote_at": None, "is_local": True, "error_code": "", "error_detail": "", "failed_sequence": None,
    "warnings": [], "rebuild_requested_at": None, "rebuild_error_code": "", "rebuild_error_detail": "",
}  # fmt: skip


def rebuild(session_id: uuid.UUID) -> None:
    """Request that the next run makes the recording again from the chunks.

    A ready recording stays until the new one is complete. In any other state, the earlier result is discarded.

    Raises:
        ChunksReleasedError: Some of the chunks have been deleted.
    """
    with transaction.atomic():
        # The lock prevents that a sweep finds the recording ready and removes its chunks in between.
        mine = Recording.objects.filter(pk=session_id)
        recording = mine.select_for_update().first()
        if chunks.are_released(session_id):
            raise ChunksReleasedError
        if recording is not None and recording.state == RecordingState.READY:
            mine.update(
                rebuild_requested_at=DatabaseNow(),
                rebuild_error_code="",
                rebuild_error_detail="",
                updated_at=DatabaseNow(),
            )
            return
        mine.update(**_NOTHING, state=RecordingState.EMPTY, updated_at=DatabaseNow())
        derived.forget(session_id)
    derived.delete(session_id)


class Rebuild(Run):
    """A run over a session whose recording is ready.

    The row does not change until this run is complete. So the next run starts again if this one dies.
    """

    def __init__(self, session: AudioSession, recording: Recording) -> None:
        super().__init__(session, recording)
        self._values: dict[str, Any] = {}

    def _commit(self, *also: Callable[[], object], **values: Any) -> None:
        self._values |= values
        if not self._mine().update(updated_at=DatabaseNow()):
            raise ClaimLostError
        for each in also:
            each()

    def _publish(self, **values: Any) -> None:
        self._is_certain = False
        with transaction.atomic():
            # The row of the session is locked first, as by an insert of a task.
            AudioSession.objects.select_for_update().filter(pk=self._session.id).first()
            if not self._mine().update(**_NOTHING | self._values | values, updated_at=DatabaseNow()):
                raise ClaimLostError
            markers.place_rest(self._session.id, values["duration_seconds"])
            derived.forget(self._session.id)
        derived.delete(self._session.id)

    def fail(self, failure: Failure, kept: Made | None = None) -> None:
        """Keep the ready recording, and store in its row why there is no new one."""
        logger.error("rebuild_failed", code=failure.code, error=failure.detail)
        self._commit()
        self._mine().update(
            token=None,
            rebuild_requested_at=None,
            rebuild_error_code=failure.code,
            rebuild_error_detail=failure.detail[:DETAIL_CHARACTERS],
        )
        self._delete_files()

    def give_back(self) -> None:
        """Delete the files of this run. The next run starts again."""
        if self._is_certain:
            self._delete_files()

    def _delete_files(self) -> None:
        for path in paths.folder(self._session.id).glob(f"*-{self._token}.*"):
            path.unlink()
