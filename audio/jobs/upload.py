"""A finished recording goes to the storage that RECORDINGS_STORAGE names, and its local file away.

    is_local --_upload--> is_local, remote_at --_remove--> remote_at

The order is upload, read back, commit `remote_at`, remove the file, and of one that was made anew the object of the
same bytes that was there before. Each step can be repeated: a run that dies
leaves an object that no row names and the next one replaces, or a file that the next one removes. The session's lock
keeps everything away that writes the recording; who reads it looks at the row, and again where the file is gone.
"""

import uuid

import structlog
from django.db.models import QuerySet

from audio import dispatch
from audio.assembly import concatenate
from audio.errors import ObjectDamaged, SessionBusy
from audio.journal.files import sync_folder
from audio.models import AudioSession, DatabaseNow, Recording, RecordingState
from audio.storage import paths
from audio.storage.lock import session_lock
from audio.storage.remote import remote_storage

logger = structlog.stdlib.get_logger(__name__)


def upload(session_id: uuid.UUID) -> None:
    """Moves the recording of a session to the remote storage, if it is ready and still here.

    Raises SessionBusy if somebody else works on the session, StorageUnavailable, or ObjectDamaged if what the storage
    gives back is not the recording; the local file is there then, and the same call may succeed later.
    """
    if not _to_move(session_id).exists():
        return
    try:
        with session_lock(session_id) as is_ours:
            if not is_ours:
                raise SessionBusy
            _move(session_id)
    finally:
        # Deleted meanwhile: the object that this run has made goes too.
        if not AudioSession.objects.filter(pk=session_id).exists():
            paths.delete_files(session_id)
    if not Recording.objects.filter(pk=session_id, state=RecordingState.READY, rebuild_requested_at=None).exists():
        # To be made anew: who came for that has found the session locked.
        dispatch.concatenate(session_id)


def _to_move(session_id: uuid.UUID) -> QuerySet[Recording]:
    return Recording.objects.filter(pk=session_id, state=RecordingState.READY, is_local=True)


def _move(session_id: uuid.UUID) -> None:
    # The sweep asks again once a row was not touched for a while.
    _to_move(session_id).update(updated_at=DatabaseNow())
    recording = _to_move(session_id).first()
    if recording is None:
        return
    if recording.remote_at is None and not _upload(recording):
        return
    _forget_others(recording)
    _remove(recording)


def _upload(recording: Recording) -> bool:
    """Upload, verify and commit, and return whether the recording is still there.

    A row that is not as it was read stays so, and the file stays with it.
    """
    concatenate.add_digest(recording)
    remote, name = remote_storage(), recording.file_name
    remote.put(name, paths.root() / name)
    try:
        remote.verify(name, recording.size_bytes or 0, recording.sha256)
    except ObjectDamaged:
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
    """Deletes objects of the session that are the same as its recording: it was made anew. One that differs stays."""
    remote = remote_storage()
    for name in remote.names(paths.folder_name(recording.pk)):
        if name == recording.file_name:
            continue
        try:
            remote.verify(name, recording.size_bytes or 0, recording.sha256)
        except ObjectDamaged:
            logger.warning("object_kept", session_id=str(recording.pk), name=name)
        else:
            remote.delete_object(name)


def _remove(recording: Recording) -> None:
    """Removes the local file of a recording whose row says that it is remote."""
    remote = _as_read(recording).filter(remote_at=recording.remote_at)
    if remote.exists():
        path = paths.root() / recording.file_name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        remote.update(is_local=False, updated_at=DatabaseNow())


def _as_read(recording: Recording) -> QuerySet[Recording]:
    return _to_move(recording.pk).filter(ready_at=recording.ready_at)
