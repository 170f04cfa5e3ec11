"""The file of a recording on the local disk, copied from the remote storage if it has moved there."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from audio.errors import StorageFullError
from audio.models import Recording
from audio.storage import paths
from audio.storage.remote import remote_storage


@contextlib.contextmanager
def recording_file(recording: Recording) -> Iterator[Path]:
    """Yield the file of a ready recording. A copy is deleted at the end of the block.

    Raises:
        StorageUnavailableError, ObjectDamagedError, StorageFullError: The errors of `file_in`.
    """
    if not settings.RECORDINGS_STORAGE:
        yield paths.root() / recording.file_name
        return
    place = paths.folder(recording.pk) / paths.DERIVED_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="copy-", dir=place) as work:
        yield file_in(Path(work), recording)


def file_in(work: Path, recording: Recording, on_block: Callable[[], None] = lambda: None) -> Path:
    """Return the file of a ready recording. It exists for as long as the folder `work`.

    Args:
        work: A folder, into which the recording is copied if it has moved to the remote storage.
        recording: The recording.
        on_block: Called after each megabyte of the copy.

    Raises:
        StorageUnavailableError: The remote storage does not answer.
        ObjectDamagedError: The object differs from the recording.
        StorageFullError: The copy would take more than half of the free space.
    """
    return hard_link(paths.root() / recording.file_name, work) or _fetched(recording, work, on_block)


def hard_link(path: Path, work: Path) -> Path | None:
    """Return the file, or a hard link to it in `work` if an upload could remove it; None if it is missing."""
    if not settings.RECORDINGS_STORAGE:
        return path if path.exists() else None
    link = work / path.name
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(path)
    except FileNotFoundError:
        return None
    return link


def _fetched(recording: Recording, work: Path, on_block: Callable[[], None]) -> Path:
    recording.refresh_from_db()
    path, size_bytes = paths.root() / recording.file_name, recording.size_bytes or 0
    if recording.remote_at is None:
        return path
    # Sessions that are being recorded need the rest of the space.
    if shutil.disk_usage(work).free < 2 * size_bytes:
        raise StorageFullError
    copy = work / path.name
    remote_storage().fetch(recording.file_name, copy, size_bytes, recording.sha256, on_block=on_block)
    return copy
