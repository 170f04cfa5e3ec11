"""Files of a session that are not its recording: those of earlier recordings, and of runs that have died.

A complete file is kept until its successor is complete. Each run writes to files with names of its own
(`audio.assembly.master`). After the row names the new recording, this module checks the other files. It removes a file
whose bytes the recording contains, and moves any other file into the folder `aside`, to which nothing writes.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import structlog

from audio.media import plan, wav
from audio.models import AudioSession, Recording, RecordingState, Recovery
from audio.storage import durable, paths

logger = structlog.stdlib.get_logger(__name__)

ASIDE = "aside"
_BLOCK_BYTES = 1 << 20
# The first bytes contain lengths, which are written when the rest is complete.
_HEAD_BYTES = wav.HEADER_BYTES


def tidy(session_id: uuid.UUID, token: uuid.UUID | None = None) -> None:
    """Remove the files that the ready recording of a session has replaced, or move them aside.

    The caller holds the session's lock. The files are listed before the row is read, and nothing is done while the row
    has another claim. So a run that has lost its lock without noticing touches no file that is or will be in use.

    Args:
        session_id: The session.
        token: The claim of the caller, if it has one.
    """
    found = list(_files(session_id))
    recording = Recording.objects.filter(pk=session_id, state=RecordingState.READY, is_local=True).first()
    if recording is None or recording.token not in (None, token) or not _path(recording.file_name).exists():
        return
    kept = [_path(name) for name in {recording.file_name, recording.master_name} if _path(name).exists()]
    for path in found:
        if path in kept:
            continue
        if any(_holds(other, path) for other in kept):
            path.unlink(missing_ok=True)
        else:
            _put_aside(session_id, path)
    _forget_master(recording)


def set_aside(session_id: uuid.UUID) -> None:
    """Move all masters and recordings of a session into the folder `aside`. No run may work on the session."""
    for path in _files(session_id):
        _put_aside(session_id, path)


def files_aside(session_id: uuid.UUID) -> list[Path]:
    """Return the files in the folder `aside`."""
    return sorted((paths.folder(session_id) / ASIDE).glob("*"))


def _path(name: str) -> Path:
    return paths.root() / name


def _files(session_id: uuid.UUID) -> Iterator[Path]:
    """Yield the masters and recordings in the session's folder."""
    for pattern in ("master*", "recording*"):
        yield from (
            path
            for path in paths.folder(session_id).glob(pattern)
            if path.is_file() and path.suffix != paths.PEAKS_SUFFIX
        )


def _holds(recording: Path, path: Path) -> bool:
    """Whether the recording begins with the content of the other file, apart from the first bytes of both."""
    if path.suffix != recording.suffix:
        return not path.stat().st_size
    if path.stat().st_size > recording.stat().st_size:
        return False
    with recording.open("rb") as ours, path.open("rb") as theirs:
        ours.seek(_HEAD_BYTES)
        theirs.seek(_HEAD_BYTES)
        while block := theirs.read(_BLOCK_BYTES):
            if ours.read(len(block)) != block:
                return False
    return True


def _put_aside(session_id: uuid.UUID, path: Path) -> None:
    aside = path.parent / ASIDE
    aside.mkdir(exist_ok=True)
    target, number = aside / path.name, 0
    while target.exists():
        number += 1
        target = aside / f"{path.stem}.{number}{path.suffix}"
    durable.place(path, target)
    logger.warning("file_put_aside", session_id=str(session_id), name=str(target.relative_to(paths.root())))
    # The file contains audio that the restored rows do not have.
    AudioSession.objects.filter(pk=session_id, recovered=Recovery.EXACT).update(recovered=Recovery.UNCERTAIN)


def _forget_master(recording: Recording) -> None:
    """Remove a master that is no longer needed beside the recording, and peaks that belong to another master.

    A master of samples is kept beside a lossy recording, because transcodes from it are better.
    """
    master = _path(recording.master_name)
    is_needed = recording.master_encoding and recording.format not in plan.LOSSLESS
    if recording.master_name not in ("", recording.file_name) and not is_needed:
        master.unlink(missing_ok=True)
    for path in paths.folder(recording.pk).glob(f"*{paths.PEAKS_SUFFIX}"):
        if path != paths.peaks_path(recording):
            path.unlink(missing_ok=True)
