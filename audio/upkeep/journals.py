"""Journal files that may go, and the chunks in them that may not.

A file may go when each session with chunks in it is deleted, or has a recording that takes their place (`_is_spent`):

- the session is closed, and the recording `ready` with as many chunks as the session has: each was read from its
  journal, where its CRC-32 held, and is in a window that was fsynced before it was counted;
- its file has, when it is read now, the size and the SHA-256 that were recorded when it was made: what the disk holds
  is what was made of the chunks;
- it has been `ready` for JOURNAL_KEEP_DAYS: time enough to notice what no program can, and to `rebuild`.

Chunks of other sessions (open, failed, unfinished, a recording that is not as it was made) are moved to a file of
the session's own. Then the file goes. A file that somebody may still append to, that was written to lately, or that
holds committed chunks which the database does not know (one restored from a backup, say), is never touched.

Every step may be the last of a process that dies: the file is held by an flock that ends with it, rows are pointed
only to records that are synced, the row says `removed_at` before the file is unlinked. Whoever comes next begins anew.
"""

import contextlib
import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from audio import dispatch
from audio.errors import ObjectDamaged, StorageUnavailable
from audio.journal.files import ScannedRecord, journal_lock, resumes_at, scan, sync_folder
from audio.journal.records import Committed, Header, RecordType, parse_commit
from audio.models import AudioChunk, AudioSession, DatabaseNow, JournalFile, Recording, RecordingState
from audio.storage import paths
from audio.storage.remote import remote_storage
from audio.upkeep.erasures import is_deleted
from audio.upkeep.moving import move
from audio.upkeep.sweeps import Action, Sweep

logger = structlog.stdlib.get_logger(__name__)

_FILES_PER_ROUND = 200
_ROWS_PER_STATEMENT = 500
# A transaction whose outcome its process did not wait for may still be committed, a moment later.
QUIET = timedelta(hours=1)
_LOOK_AGAIN_AFTER = timedelta(days=1)


def release(sweep: Sweep) -> None:
    """Removes journal files that may go, of those that were not looked at for a day."""
    lately = Q(checked_at__isnull=True) | Q(checked_at__lt=sweep.now - _LOOK_AGAIN_AFTER)
    _release(sweep, lately, _FILES_PER_ROUND)


def release_all(sweep: Sweep) -> None:
    """Removes all journal files that may go."""
    _release(sweep, Q(), None)


def _release(sweep: Sweep, which: Q, count: int | None) -> None:
    _forget_removed(sweep)
    for journal in list(_candidates(sweep.now).filter(which)[:count]):
        if sweep.is_over:
            return
        try:
            _look_at(journal, sweep)
        except (OSError, StorageUnavailable) as error:
            logger.error("journal_put_off", journal=str(journal), error=str(error))
        if not sweep.dry_run:
            JournalFile.objects.filter(pk=journal.pk).update(checked_at=sweep.now)


def _candidates(now: datetime) -> QuerySet[JournalFile]:
    """Files that no chunk's row names, and those so old that all in them may be."""
    condition = Q(~_is_named())
    if settings.JOURNAL_KEEP_DAYS:
        condition |= Q(created_at__lte=_kept_since(now))
    return JournalFile.objects.filter(condition, removed_at__isnull=True, created_at__lte=now - QUIET).order_by("pk")


def _is_named() -> Exists:
    return Exists(AudioChunk.objects.filter(journal=OuterRef("pk")))


def _kept_since(now: datetime) -> datetime:
    return now - timedelta(days=settings.JOURNAL_KEEP_DAYS)


def _forget_removed(sweep: Sweep) -> None:
    """Forgets removed files whose last chunk's row is gone."""
    if not sweep.dry_run:
        for journal in JournalFile.objects.filter(~_is_named(), removed_at__isnull=False):
            _unlink(journal)


def _look_at(journal: JournalFile, sweep: Sweep) -> None:
    path = paths.root() / journal.name
    with contextlib.ExitStack() as stack:
        try:
            is_ours = stack.enter_context(journal_lock(path))
        except FileNotFoundError:
            _missing(journal, sweep)
            return
        if is_ours and sweep.now.timestamp() - path.stat().st_mtime >= QUIET.total_seconds():
            _settle(journal, sweep)


def _missing(journal: JournalFile, sweep: Sweep) -> None:
    if AudioChunk.objects.filter(journal=journal).exists():
        _unexplained(sweep, journal, "the file is missing, but has chunks")
    elif not sweep.dry_run:
        journal.delete()


def _unexplained(sweep: Sweep, journal: JournalFile, why: str) -> None:
    logger.error("journal_kept", journal=str(journal), reason=why)
    sweep.note(Action.UNEXPLAINED, f"{journal}: {why}")


def _settle(journal: JournalFile, sweep: Sweep) -> None:
    """Removes the file if it may go, after moving what may not. The caller holds it."""
    kept = _Kept(journal, sweep)
    if kept.some_wait or (kept.needed and kept.is_own):
        return
    if why := _unknown_content(journal):
        _unexplained(sweep, journal, why)
        return
    kept.look_at_recordings(sweep)
    if kept.needed and kept.is_own:
        return
    for session_id in kept.needed:
        sweep.note(Action.MOVED_SESSIONS, f"{session_id} from {journal}")
        if not sweep.dry_run and not move(session_id, journal):
            _unexplained(sweep, journal, f"chunks of {session_id} are damaged")
            return
    if sweep.dry_run or _mark_removed(journal, kept):
        sweep.note(Action.REMOVED_JOURNALS, journal)


class _Kept:
    """Which sessions still need the chunks that they have in a journal file (`needed`), and which have a recording
    instead (`spent`); `some_wait` says that one of these was made too lately, or is being made anew: to wait is better
    than to move."""

    def __init__(self, journal: JournalFile, sweep: Sweep) -> None:
        self.is_own = journal.name.startswith(f"{paths.FOLDER}/")
        self.needed: list[uuid.UUID] = []
        self.spent: list[Recording] = []
        is_awaited = False
        for key, session in _sessions_in(journal):
            recording = getattr(session, "recording", None)
            if session is None or recording is None or not _is_complete(session, recording):
                self.needed.append(key)
            elif recording.rebuild_requested_at is not None:
                is_awaited = True
            else:
                self.spent.append(recording)
                _ask_for_digest(recording, sweep)
        kept_since = _kept_since(sweep.now)
        are_old = settings.JOURNAL_KEEP_DAYS and all(_is_old(recording, kept_since) for recording in self.spent)
        self.some_wait = is_awaited or (bool(self.spent) and not are_old)

    def look_at_recordings(self, sweep: Sweep) -> None:
        """Reads the files of the recordings; sessions whose is not as it was made still need their chunks."""
        sound = [recording for recording in self.spent if _is_sound(recording, sweep)]
        self.needed += [recording.pk for recording in self.spent if recording not in sound]
        self.spent = sound


def _sessions_in(journal: JournalFile) -> Iterator[tuple[uuid.UUID, AudioSession | None]]:
    """Gives the ids of the sessions that have chunks in the file, with their sessions."""
    found = AudioChunk.objects.filter(journal=journal).order_by("session_id").values_list("session_id", flat=True)
    for keys in _batches(list(found.distinct())):
        sessions = AudioSession.objects.select_related("recording").in_bulk(keys)
        yield from ((key, sessions.get(key)) for key in keys)


def _batches(keys: Sequence[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    return (keys[start : start + _ROWS_PER_STATEMENT] for start in range(0, len(keys), _ROWS_PER_STATEMENT))


def _is_complete(session: AudioSession, recording: Recording) -> bool:
    is_counted = session.total_chunks == recording.chunks_done
    return not session.is_open and recording.state == RecordingState.READY and is_counted


def _is_old(recording: Recording, kept_since: datetime) -> bool:
    if not recording.sha256 or recording.ready_at is None:
        return False
    return max(recording.session.age_counts_from or recording.ready_at, recording.ready_at) <= kept_since


def _ask_for_digest(recording: Recording, sweep: Sweep) -> None:
    """Its worker died between the recording and its SHA-256."""
    if not sweep.dry_run and not recording.sha256:
        dispatch.concatenate(recording.pk)


def _is_sound(recording: Recording, sweep: Sweep) -> bool:
    """Whether the recording's file is what it was when it was made. It is read once a day at most, however many
    journal files wait for the answer."""
    if recording.verified_at is not None and recording.verified_at > sweep.now - _LOOK_AGAIN_AFTER:
        return True
    if not _is_as_made(recording):
        logger.error("recording_damaged", session_id=str(recording.pk))
        sweep.note(Action.UNEXPLAINED, f"{recording.pk}: the recording has changed since it was made; rebuild it")
        return False
    if not sweep.dry_run:
        Recording.objects.filter(pk=recording.pk, ready_at=recording.ready_at).update(verified_at=sweep.now)
    return True


def _is_as_made(recording: Recording) -> bool:
    """Whether the file, or the object that took its place, has the size and the SHA-256 of the recording. Raises
    StorageUnavailable."""
    if _digest(paths.root() / recording.file_name, recording.size_bytes) == recording.sha256:
        return True
    recording.refresh_from_db(fields=["is_local"])
    if recording.is_local:
        return False
    try:
        remote_storage().verify(recording.file_name, recording.size_bytes or 0, recording.sha256)
    except (ObjectDamaged, FileNotFoundError):
        return False
    return True


def _digest(path: Path, size_bytes: int | None) -> str:
    """Returns the SHA-256 of the file, empty if there is none of that size."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if path.stat().st_size == size_bytes else ""
    except FileNotFoundError:
        return ""


def _unknown_content(journal: JournalFile) -> str:
    """Returns why the file holds more than the database knows of, or can't be read to its end; empty if neither.

    A committed chunk is known if its row names this file, or if a row of its session has it elsewhere (it was moved);
    those of deleted sessions are erased, or will be.
    """
    rows = AudioChunk.objects.filter(journal=journal).order_by("offset").values_list("offset", flat=True)
    offsets = rows.iterator()
    expected = next(offsets, None)
    rowless: dict[int, Header] = {}
    for record in _records(paths.root() / journal.name):
        if record.header.type is RecordType.CHUNK and record.offset == expected:
            expected = next(offsets, None)
        elif record.header.type is RecordType.CHUNK and not record.header.erased:
            rowless[record.offset] = record.header
        elif record.header.type is RecordType.COMMIT and not _are_known(parse_commit(record.payload), rowless):
            return "it has chunks that the database does not know"
    return f"no chunk can be read at {expected}" if expected is not None else ""


def _records(path: Path) -> Iterator[ScannedRecord]:
    """Gives the records of a file, those behind damage too: it may be the only copy of what they hold."""
    start: int | None = 0
    while start is not None:
        end = start
        for record in scan(path, start):
            yield record
            end = record.end
        start = resumes_at(path, end)


def _are_known(entries: Iterable[Committed], rowless: dict[int, Header]) -> bool:
    return all(
        is_deleted(header.session_id)
        or AudioChunk.objects.filter(
            session_id=header.session_id, sequence=entry.sequence, crc32=header.payload_crc32
        ).exists()
        for entry in entries
        if (header := rowless.get(entry.offset)) is not None
    )


def _mark_removed(journal: JournalFile, kept: _Kept) -> bool:
    """Removes the file, unless one of the recordings is made anew since; returns whether it did."""
    looked_at = {recording.pk: _as_looked_at(recording) for recording in kept.spent}
    spent = sorted(looked_at)
    with transaction.atomic():
        # Locked, so that nobody begins to make one of them anew in between.
        for keys in _batches(spent):
            recordings = Recording.objects.select_for_update().filter(pk__in=keys).order_by("pk")
            if any(_as_looked_at(recording) != looked_at[recording.pk] for recording in recordings):
                return False
        for keys in _batches(kept.needed):
            if AudioChunk.objects.filter(journal=journal, session__in=keys).exists():
                return False
        JournalFile.objects.filter(pk=journal.pk).update(removed_at=DatabaseNow())
    _unlink(journal)
    return True


def _as_looked_at(recording: Recording) -> tuple[Any, ...]:
    """What of a recording says that it is the one whose file was looked at, and is not being made anew."""
    return recording.state, recording.ready_at, recording.sha256, recording.rebuild_requested_at


def _unlink(journal: JournalFile) -> None:
    """Removes the file of a row that says so, and the row if no chunk's names it. Repeatable."""
    path = paths.root() / journal.name
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync_folder(path.parent)
    if not AudioChunk.objects.filter(journal=journal).exists():
        journal.delete()
