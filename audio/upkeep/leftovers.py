"""Garbage collection of files without a row: leftovers of dead workers and of deleted sessions, and unknown files.

After a day, files that are certainly of no use are removed: working folders of runs whose lock is free, folders of
deleted sessions, and journals that were marked as removed or never had a record. All other files are only reported. The
database may have lost their rows, and an unknown file may be the last copy of a recording.
"""

import os
import shutil
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from audio.assembly import superseded
from audio.journal.files import FOLDER as JOURNALS
from audio.journal.files import SUFFIX, journal_lock
from audio.models import AudioSession, BackgroundTask, Chore, DeletedSession, JournalFile
from audio.storage import paths
from audio.storage.lock import LOCK_NAME, file_lock
from audio.upkeep.sweeps import Action, Sweep

logger = structlog.stdlib.get_logger(__name__)

NAME = "leftovers"
PREFIXES = [f"{number:02x}" for number in range(256)]
_OLD = timedelta(days=1)
_REMEMBERED = timedelta(days=30)
_FOLDERS_PER_STATEMENT = 500


def tidy_next(sweep: Sweep) -> None:
    """Check the next of the 256 parts of the storage. All parts take about a day."""
    chore, _ = Chore.objects.get_or_create(name=NAME)
    following = (PREFIXES.index(chore.cursor) + 1) % len(PREFIXES) if chore.cursor in PREFIXES else 0
    prefix = PREFIXES[following]
    if Chore.objects.filter(pk=NAME, cursor=chore.cursor).update(cursor=prefix):
        _tidy(prefix, sweep)


def tidy_all(sweep: Sweep) -> None:
    """Check the whole storage."""
    for prefix in PREFIXES:
        _tidy(prefix, sweep)


def _tidy(prefix: str, sweep: Sweep) -> None:
    folders = _listed(paths.root() / paths.FOLDER / prefix)
    for start in range(0, len(folders), _FOLDERS_PER_STATEMENT):
        _tidy_sessions(folders[start : start + _FOLDERS_PER_STATEMENT], sweep)
    _tidy_journals([path for path in _listed(paths.root() / JOURNALS / prefix) if path.suffix == SUFFIX], sweep)
    if not sweep.dry_run:
        DeletedSession.objects.filter(deleted_at__lt=sweep.now - _REMEMBERED).delete()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _is_old(path: Path, sweep: Sweep) -> bool:
    try:
        return sweep.now.timestamp() - path.lstat().st_mtime >= _OLD.total_seconds()
    except FileNotFoundError:
        return False


def _unexplained(path: Path, sweep: Sweep, why: str) -> None:
    name = path.relative_to(paths.root())
    logger.warning("file_unexplained", name=str(name), reason=why)
    sweep.note(Action.UNEXPLAINED, f"{name}: {why}")


def _note_removed(path: Path, sweep: Sweep) -> None:
    sweep.note(Action.REMOVED_LEFTOVERS, path.relative_to(paths.root()))


# Folders of sessions


def _tidy_sessions(folders: Sequence[Path], sweep: Sweep) -> None:
    named = {session_id: path for path in folders if (session_id := _session_id(path))}
    known = set(AudioSession.objects.filter(pk__in=named).values_list("pk", flat=True))
    deleted = set(DeletedSession.objects.filter(pk__in=named.keys() - known).values_list("pk", flat=True))
    for session_id, path in named.items():
        if session_id in known:
            _tidy_known(session_id, path, sweep)
        elif session_id in deleted or (_is_bare(path) and _is_old(path, sweep)):
            _note_removed(path, sweep)
            if not sweep.dry_run:
                paths.delete_files(session_id)
        elif _is_old(path, sweep):
            _unexplained(path, sweep, "no session has this id")
    for path in set(folders) - set(named.values()):
        _unexplained(path, sweep, "the name is unknown")


def _session_id(path: Path) -> uuid.UUID | None:
    """Return the id of the session whose folder this is; None if it can't be the folder of a session."""
    try:
        session_id = uuid.UUID(path.name)
    except ValueError:
        return None
    return session_id if paths.folder(session_id) == path else None


def _is_bare(path: Path) -> bool:
    """Whether the folder contains nothing but locks and empty folders."""
    return all(name == LOCK_NAME for _, _, names in os.walk(path) for name in names)


def _tidy_known(session_id: uuid.UUID, folder: Path, sweep: Sweep) -> None:
    listed = _listed(folder)
    for path in listed:
        if path.name.startswith("work-"):
            _remove_dead_run(path, folder / LOCK_NAME, sweep)
    audio = [path for path in listed if path.name.startswith(("master", "recording"))]
    if len(audio) > 1 and any(_is_old(path, sweep) for path in audio):
        _tidy_recording(session_id, folder, sweep)
    if folder / paths.DERIVED_FOLDER in listed:
        _tidy_derived(session_id, folder / paths.DERIVED_FOLDER, sweep)
    _tidy_journals([path for path in listed if path.suffix == SUFFIX], sweep)


def _tidy_recording(session_id: uuid.UUID, folder: Path, sweep: Sweep) -> None:
    """Remove files of dead runs, and of earlier recordings, beside a ready recording."""
    if sweep.dry_run:
        return
    with file_lock(folder / LOCK_NAME) as is_ours:
        if is_ours:
            superseded.tidy(session_id)


def _tidy_derived(session_id: uuid.UUID, folder: Path, sweep: Sweep) -> None:
    """Remove working folders of tasks that have ended, and files that no task names."""
    tasks = BackgroundTask.objects.filter(session=session_id)
    unended = {str(key) for key in tasks.open().values_list("pk", flat=True)}
    made = set(tasks.values_list("file_name", flat=True))
    for path in _listed(folder):
        if path.is_dir() and path.name not in unended:
            _remove_dead_run(path, path / LOCK_NAME, sweep)
        elif path.is_file() and path.stem not in unended and f"{path.relative_to(paths.root())}" not in made:
            _remove_file(path, sweep)


def _remove_dead_run(path: Path, lock: Path, sweep: Sweep) -> None:
    """Remove the working folder of a run if its lock is free."""
    if not _is_old(path, sweep):
        return
    with file_lock(lock) as is_ours:
        if is_ours:
            _note_removed(path, sweep)
            if not sweep.dry_run:
                shutil.rmtree(path, ignore_errors=True)


def _remove_file(path: Path, sweep: Sweep) -> None:
    if _is_old(path, sweep):
        _note_removed(path, sweep)
        if not sweep.dry_run:
            path.unlink(missing_ok=True)


# Journals


def _tidy_journals(journals: Sequence[Path], sweep: Sweep) -> None:
    """Compare journals on the disk with their rows."""
    names = [str(path.relative_to(paths.root())) for path in journals]
    rows = dict(JournalFile.objects.filter(name__in=names).values_list("name", "removed_at")) if names else {}
    for name, path in zip(names, journals, strict=True):
        if name not in rows and _is_old(path, sweep):
            _tidy_unknown(path, sweep)
        elif rows.get(name) is not None:
            # The process that removed it died after it had changed the row.
            _note_removed(path, sweep)
            if not sweep.dry_run:
                path.unlink(missing_ok=True)


def _tidy_unknown(path: Path, sweep: Sweep) -> None:
    with journal_lock(path) as is_ours:
        if is_ours and not path.stat().st_size:
            _note_removed(path, sweep)
            if not sweep.dry_run:
                path.unlink()
        elif is_ours:
            _unexplained(path, sweep, "the database does not know this journal")
