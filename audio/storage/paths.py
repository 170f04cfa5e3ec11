"""The paths of a session's files.

All files made from a session are in `sessions/<first two hex digits>/<its id>/` under the storage root. Names in the
database are relative to that root. Only assembly changes a recording's files; readers rely on the lengths in the
database. A finished recording may have moved to a remote storage (`audio.jobs.upload`), where it has the same name.
"""

import contextlib
import errno
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from audio.journal.files import FOLDER as JOURNALS
from audio.media import ffmpeg
from audio.models import AudioSession, Recording
from audio.storage.remote import remote_storage

FOLDER = "sessions"
DERIVED_FOLDER = "derived"
PEAKS_SUFFIX = ".peaks"


def root() -> Path:
    """Return the storage root."""
    return Path(settings.AUDIO_STORAGE_PATH)


def folder_name(session_id: uuid.UUID) -> str:
    """Return the name of the session's folder, relative to the storage root."""
    return f"{FOLDER}/{session_id.hex[:2]}/{session_id}"


def folder(session_id: uuid.UUID) -> Path:
    """Return the session's folder."""
    return root() / folder_name(session_id)


def peaks_path(recording: Recording) -> Path:
    """Return the path of the peaks of a recording's master, which are beside the master."""
    return peaks_path_of(root() / recording.master_name)


def peaks_path_of(master: Path) -> Path:
    """Return the path of the peaks of the master with this path."""
    return master.with_suffix(PEAKS_SUFFIX)


def delete_files(session_id: uuid.UUID) -> None:
    """Delete every file made from a session, remote ones first. Its chunks in the journals stay.

    The call can be repeated. It is also safe while a run still writes there, because it deletes until the folder is
    gone.

    Raises:
        StorageUnavailableError: The remote storage did not answer. No local file has been deleted.
    """
    if settings.RECORDINGS_STORAGE or Recording.objects.filter(pk=session_id, remote_at__isnull=False).exists():
        remote_storage().delete_folder(folder_name(session_id))
    path = folder(session_id)
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


@contextlib.contextmanager
def deleted_with(session_id: uuid.UUID) -> Iterator[None]:
    """Delete the session's files at the end of the block if the session was deleted meanwhile.

    A deletion does not wait for writers. So each writer checks at its end whether its files have to go.

    Raises:
        StorageUnavailableError: The remote storage did not answer.
    """
    try:
        yield
    finally:
        if not AudioSession.objects.filter(pk=session_id).exists():
            delete_files(session_id)


def journal_paths() -> list[Path]:
    """Return the paths of all journals: the shared ones, then those that belong to one session."""
    shared = (root() / JOURNALS).rglob("*.journal")
    return [*sorted(shared), *sorted((root() / FOLDER).glob("*/*/*.journal"))]


def clear_leftovers(session_id: uuid.UUID) -> None:
    """Remove the working folders of dead runs. The caller holds the session's lock, so none of them is in use."""
    for leftover in folder(session_id).glob(f"{ffmpeg.WORK_PREFIX}*"):
        shutil.rmtree(leftover)
