"""Where the files of a session are, and what of them can be served.

Everything made of a session stands in `sessions/<first two hex digits>/<its id>/` under the storage root; names
in the database are relative to that root. Only the writer of a recording (`audio.assembly.concatenate`) changes
these files; readers go by the lengths that the database tells. A finished recording may have moved to a remote
storage (`audio.jobs.upload`), where it has the same name.
"""

import errno
import hashlib
import shutil
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog
from django.conf import settings
from django.core.files.storage import storages

from audio.errors import RecordingBuilding, RecordingEmpty, RecordingFailed, StorageUnavailable
from audio.journal.files import FOLDER as JOURNALS
from audio.media import ffmpeg, wav
from audio.media.plan import FORMATS
from audio.media.wav import PcmFormat
from audio.models import OPEN_TASK_STATES, AudioSession, BackgroundTask, Recording, RecordingState, TaskKind

if TYPE_CHECKING:
    from audio.storage.s3 import RecordingsStorage

logger = structlog.stdlib.get_logger(__name__)

FOLDER = "sessions"
DERIVED_FOLDER = "derived"
PEAKS_SUFFIX = ".peaks"


@dataclass(frozen=True, slots=True)
class Servable:
    """Something to download: `head` takes the place of the first bytes of the file at `path`.

    `size_bytes` counts what is served, `etag` is strong and quoted (RFC 9110 section 8.8.3). `remote_name` names the
    object in the remote storage that takes the place of the file, where it has moved.
    """

    path: Path
    head: bytes
    size_bytes: int
    content_type: str
    etag: str
    download_name: str
    modified_at: datetime
    remote_name: str = ""


def root() -> Path:
    """Returns the storage root."""
    return Path(settings.AUDIO_STORAGE_PATH)


def remote() -> "RecordingsStorage":
    """Returns the storage that RECORDINGS_STORAGE names; raises StorageUnavailable if it names none."""
    if not settings.RECORDINGS_STORAGE:
        logger.error("storage_unnamed")
        raise StorageUnavailable
    return cast("RecordingsStorage", storages["recordings"])


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


def master_format(session: AudioSession, recording: Recording) -> PcmFormat:
    """Return the format of the samples in a session's WAV master."""
    rate, channels = recording.sample_rate or session.sample_rate, recording.channels or session.channels
    return PcmFormat(recording.master_encoding, rate, channels)


def servable(session: AudioSession, recording: Recording, is_partial: bool = False) -> Servable:
    """Return what can be served of a session: the recording, or what is concatenated so far.

    Args:
        session: The session.
        recording: Its recording.
        is_partial: Whether of a recording that failed the part will do that could be made.

    Raises:
        RecordingEmpty: There is nothing yet, and there may never be.
        RecordingBuilding: It is being made.
        RecordingFailed: It could not be made, or no part of it.
    """
    match recording.state:
        case RecordingState.READY:
            return _ready(session, recording)
        case RecordingState.LIVE if recording.master_bytes:
            return _snapshot(session, recording)
        case RecordingState.FAILED if is_partial and has_part(recording):
            return _part(session, recording)
        case RecordingState.FAILED:
            raise RecordingFailed(
                f"The recording could not be made: {recording.error_detail}",
                reason=recording.error_code,
                sequence=recording.failed_sequence,
            )
        case RecordingState.BUILDING:
            raise RecordingBuilding(progress=round(recording.progress, 3))
        case _ if session.total_chunks and not session.is_open:
            # No worker has begun with it yet.
            raise RecordingBuilding(progress=0.0)
        case _:
            raise RecordingEmpty


def _ready(session: AudioSession, recording: Recording) -> Servable:
    at = recording.ready_at or recording.updated_at
    return Servable(
        path=root() / recording.file_name,
        head=b"",
        size_bytes=recording.size_bytes or 0,
        content_type=FORMATS[recording.format].content_type,
        etag=etag(recording.file_name, recording.size_bytes, at),
        download_name=f"{session.id}.{recording.format}",
        modified_at=at,
        remote_name=recording.file_name if recording.remote_at else "",
    )


def has_part(recording: Recording) -> bool:
    """Whether a part of a recording that failed could be made."""
    header_bytes = wav.HEADER_BYTES if recording.master_encoding else 0
    is_made = bool(recording.size_bytes) or recording.master_bytes > header_bytes
    return recording.state == RecordingState.FAILED and is_made


def _part(session: AudioSession, recording: Recording) -> Servable:
    found = _ready(session, recording) if recording.size_bytes else _snapshot(session, recording)
    return replace(found, download_name=f"{session.id}-incomplete{Path(found.download_name).suffix}")


def _snapshot(session: AudioSession, recording: Recording) -> Servable:
    head, audio_format = b"", session.format
    if recording.master_encoding:
        pcm = master_format(session, recording)
        head, audio_format = wav.header(pcm, recording.master_bytes - wav.HEADER_BYTES), "wav"
    return Servable(
        path=root() / recording.master_name,
        head=head,
        size_bytes=recording.master_bytes,
        content_type=FORMATS[audio_format].content_type,
        etag=etag(recording.master_name, recording.master_bytes, None),
        download_name=f"{session.id}-live.{audio_format}",
        modified_at=recording.updated_at,
    )


def etag(name: str, size_bytes: int | None, at: datetime | None) -> str:
    """Returns the strong validator of a file of a session: it never changes below a committed length, so that its
    name, its length and when it was finished tell its bytes."""
    digest = hashlib.sha256(f"{name} {size_bytes} {at.isoformat() if at else 'live'}".encode()).hexdigest()
    return f'"{digest[:32]}"'


def delete_files(session_id: uuid.UUID) -> None:
    """Deletes every file made of a session, remote ones first; its chunks in the journals are not among them.

    Repeatable, and safe beside a run that still writes there: it is begun anew until nothing is left. Raises
    StorageUnavailable before it has deleted anything here.
    """
    if settings.RECORDINGS_STORAGE or Recording.objects.filter(pk=session_id, remote_at__isnull=False).exists():
        remote().delete_folder(folder_name(session_id))
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


def forget_derived(session_id: uuid.UUID) -> None:
    """Forgets what was made of a session's recording, because that is another now, and stops what runs."""
    made = BackgroundTask.objects.filter(session=session_id, is_current=True).exclude(kind=TaskKind.CONCATENATE)
    made.filter(state__in=OPEN_TASK_STATES).revoke()
    made.update(is_current=False)


def delete_derived(session_id: uuid.UUID) -> None:
    """Deletes the files of what was forgotten."""
    shutil.rmtree(folder(session_id) / DERIVED_FOLDER, ignore_errors=True)
