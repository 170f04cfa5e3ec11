"""The file of a recording on the local disk, for what needs a file: the one that is here, else a copy."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from audio.errors import StorageFull
from audio.models import Recording
from audio.storage import paths
from audio.storage.remote import remote_storage


@contextlib.contextmanager
def recording_file(recording: Recording) -> Iterator[Path]:
    """Gives the file of a ready recording; a copy, if it has to be one, goes with the block. Raises what `file_in`
    raises."""
    if not settings.RECORDINGS_STORAGE:
        yield paths.root() / recording.file_name
        return
    place = paths.folder(recording.pk) / paths.DERIVED_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="copy-", dir=place) as work:
        yield file_in(Path(work), recording)


def file_in(work: Path, recording: Recording, on_block: Callable[[], None] = lambda: None) -> Path:
    """Takes a folder and a ready recording; returns its file, which stays for as long as the folder does.

    A recording that is not here is copied into the folder; `on_block` is called after each megabyte. Raises
    StorageUnavailable, ObjectDamaged, or StorageFull if the copy would take more than half of the space that is left.
    """
    return hard_link(paths.root() / recording.file_name, work) or _fetched(recording, work, on_block)


def hard_link(path: Path, work: Path) -> Path | None:
    """Returns the file, under a name in the folder where an upload could remove it meanwhile; None if it is not
    there."""
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
    # The rest is for those who record meanwhile.
    if shutil.disk_usage(work).free < 2 * size_bytes:
        raise StorageFull
    copy = work / path.name
    remote_storage().fetch(recording.file_name, copy, size_bytes, recording.sha256, on_block=on_block)
    return copy
