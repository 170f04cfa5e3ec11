"""Where the files of a session are.

Everything made of a session stands in `sessions/<first two hex digits>/<its id>/` under the storage root; names
in the database are relative to that root. Only the writer of a recording (`audio.assembly.concatenate`) changes
these files; readers go by the lengths that the database tells. A finished recording may have moved to a remote
storage (`audio.jobs.upload`), where it has the same name.
"""

import errno
import shutil
import uuid
from pathlib import Path

from django.conf import settings

from audio.journal.files import FOLDER as JOURNALS
from audio.media import ffmpeg
from audio.models import Recording
from audio.storage.remote import remote_storage

FOLDER = "sessions"
DERIVED_FOLDER = "derived"
PEAKS_SUFFIX = ".peaks"


def root() -> Path:
    """Returns the storage root."""
    return Path(settings.AUDIO_STORAGE_PATH)


def folder_name(session_id: uuid.UUID) -> str:
    """Returns the name of the session's folder, relative to the storage root."""
    return f"{FOLDER}/{session_id.hex[:2]}/{session_id}"


def folder(session_id: uuid.UUID) -> Path:
    """Returns the session's folder."""
    return root() / folder_name(session_id)


def peaks_path(recording: Recording) -> Path:
    """Returns where the peaks of the samples that are concatenated so far are: beside their master."""
    return peaks_path_of(root() / recording.master_name)


def peaks_path_of(master: Path) -> Path:
    """Returns where the peaks of a master's samples are."""
    return master.with_suffix(PEAKS_SUFFIX)


def delete_files(session_id: uuid.UUID) -> None:
    """Deletes every file made of a session, remote ones first; its chunks in the journals are not among them.

    Repeatable, and safe beside a run that still writes there: it is begun anew until nothing is left. Raises
    StorageUnavailable before it has deleted anything here.
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


def journal_paths() -> list[Path]:
    """Returns the journals, those of sessions that have one of their own behind the others."""
    shared = (root() / JOURNALS).rglob("*.journal")
    return [*sorted(shared), *sorted((root() / FOLDER).glob("*/*/*.journal"))]


def clear_leftovers(session_id: uuid.UUID) -> None:
    """Removes the working folders of runs that died. The caller holds the session's lock: none of them is in use."""
    for leftover in folder(session_id).glob(f"{ffmpeg.WORK_PREFIX}*"):
        shutil.rmtree(leftover)
