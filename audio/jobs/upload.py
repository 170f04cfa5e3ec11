"""The upload of a finished recording to the storage that RECORDINGS_STORAGE names, and the removal of its local file.

    is_local --_upload--> is_local, remote_at --_remove--> remote_at

The steps are: upload, read back and compare, commit `remote_at`, remove the local file. After a rebuild, the older
object with the same bytes is deleted too. Each step can be repeated. A run that dies leaves an object that no row
names, which the next run replaces, or a file, which the next run removes. The session's lock keeps all other writers
away from the recording. Readers read the row again if the file is gone.
"""

import uuid

import structlog
from django.db.models import QuerySet

from audio import dispatch
from audio.assembly import conclusion
from audio.errors import ObjectDamagedError, SessionBusyError
from audio.journal.files import sync_folder
from audio.models import DatabaseNow, Recording, RecordingState
from audio.storage import paths
from audio.storage.lock import session_lock
from audio.storage.remote import remote_storage

logger = structlog.stdlib.get_logger(__name__)


def upload(session_id: uuid.UUID) -> None:
    """Move the recording of a session to the remote storage, if it is ready and still local.

    The local file stays if an error is raised, and the same call may succeed later.

    Raises:
        SessionBusyError: Another run is working on the session.
        StorageUnavailableError: The remote storage does not answer.
        ObjectDamagedError: The object that was read back differs from the recording.
    """
    if not _to_move(session_id).exists():
        return
    # If the session is deleted meanwhile, the object of this run goes with the lock.
    with session_lock(session_id) as is_ours:
        if not is_ours:
            raise SessionBusyError
        _move(session_id)
    if not Recording.objects.filter(pk=session_id, state=RecordingState.READY, rebuild_requested_at=None).exists():
        # A rebuild was requested meanwhile; its run has found the session locked.
        dispatch.concatenate(session_id)


def _to_move(session_id: uuid.UUID) -> QuerySet[Recording]:
    return Recording.objects.filter(pk=session_id, state=RecordingState.READY, is_local=True)


def _move(session_id: uuid.UUID) -> None:
    # The sweep enqueues the upload again once `updated_at` is old enough.
    _to_move(session_id).update(updated_at=DatabaseNow())
    recording = _to_move(session_id).first()
    if recording is None:
        return
    if recording.remote_at is None and not _upload(recording):
        return
    _forget_others(recording)
    _remove(recording)


def _upload(recording: Recording) -> bool:
    """Upload, verify and commit; return whether the recording still exists.

    A row that changed since it was read is not updated, and its local file stays.
    """
    conclusion.add_digest(recording)
    remote, name = remote_storage(), recording.file_name
    remote.put(name, paths.root() / name)
    try:
        remote.verify(name, recording.size_bytes or 0, recording.sha256)
    except ObjectDamagedError:
        logger.error("upload_damaged", session_id=str(recording.pk))
        raise
    _as_read(recording).filter(remote_at=None).update(
        remote_at=DatabaseNow(), verified_at=DatabaseNow(), updated_at=DatabaseNow()
    )
    row = Recording.objects.filter(pk=recording.pk).only("remote_at").first()
    if row is not None:
        recording.remote_at = row.remote_at
    return row is not None


def _forget_others(recording: Recording) -> None:
    """Delete older objects of the session with the same bytes, which a rebuild has left. Objects that differ stay."""
    remote = remote_storage()
    for name in remote.names(paths.folder_name(recording.pk)):
        if name == recording.file_name:
            continue
        try:
            remote.verify(name, recording.size_bytes or 0, recording.sha256)
        except ObjectDamagedError:
            logger.warning("object_kept", session_id=str(recording.pk), name=name)
        else:
            remote.delete_object(name)


def _remove(recording: Recording) -> None:
    """Remove the local file of a recording whose row says that it is remote."""
    remote = _as_read(recording).filter(remote_at=recording.remote_at)
    if remote.exists():
        path = paths.root() / recording.file_name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        remote.update(is_local=False, updated_at=DatabaseNow())


def _as_read(recording: Recording) -> QuerySet[Recording]:
    return _to_move(recording.pk).filter(ready_at=recording.ready_at)
