"""Garbage collection of journals.

A journal can be removed when each session with chunks in it is deleted, or has a recording that replaces them:

- The session is closed, and its recording is `ready` and made of all chunks of the session. Each chunk was read from
  its journal with a correct CRC-32, and its window was synced before the chunk was counted.
- The file of the recording is read now, and has the size and the SHA-256 that were stored when it was made.
- The recording has been `ready` for JOURNAL_KEEP_DAYS. In this time people can notice faults that no program finds, and
  `rebuild` it.

Chunks of other sessions (open, failed, unfinished, or with a damaged recording) are moved to a journal of the session's
own. Then the shared journal is removed. A journal is never touched if a process may still append to it, if it was
written to lately, or if it has committed chunks that the database does not know, for example after the restoration of a
backup.

A process may die after any step. The journal's lock ends with the process. Rows are changed to point to records only
after these are synced. `removed_at` is committed before the file is unlinked. The next sweep starts again.
"""

import contextlib
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
from audio.errors import ObjectDamagedError, StorageUnavailableError
from audio.journal.files import ScannedRecord, journal_lock, sync_folder, walk
from audio.journal.records import Committed, Header, RecordType, parse_commit
from audio.models import AudioChunk, AudioSession, DatabaseNow, JournalFile, Recording, RecordingState
from audio.storage import durable, paths
from audio.storage.remote import remote_storage
from audio.upkeep.erasures import is_deleted
from audio.upkeep.moving import move
from audio.upkeep.sweeps import Action, Sweep

logger = structlog.stdlib.get_logger(__name__)

_FILES_PER_ROUND = 200
_ROWS_PER_STATEMENT = 500
# A transaction may be committed a moment after its process has stopped waiting for the outcome.
QUIET = timedelta(hours=1)
_LOOK_AGAIN_AFTER = timedelta(days=1)


def release(sweep: Sweep) -> None:
    """Remove journals that can be removed, among those that were not checked for a day."""
    lately = Q(checked_at__isnull=True) | Q(checked_at__lt=sweep.now - _LOOK_AGAIN_AFTER)
    _release(sweep, lately, _FILES_PER_ROUND)


def release_all(sweep: Sweep) -> None:
    """Remove all journals that can be removed."""
    _release(sweep, Q(), None)


def _release(sweep: Sweep, which: Q, count: int | None) -> None:
    _forget_removed(sweep)
    for journal in list(_candidates(sweep.now).filter(which)[:count]):
        if sweep.is_over:
            return
        try:
            _look_at(journal, sweep)
        except (OSError, StorageUnavailableError) as error:
            logger.error("journal_put_off", journal=str(journal), error=str(error))
        if not sweep.dry_run:
            JournalFile.objects.filter(pk=journal.pk).update(checked_at=sweep.now)


def _candidates(now: datetime) -> QuerySet[JournalFile]:
    """Return the journals that may be removable.

    These are the journals that no row of a chunk names, and those that are old enough for all their chunks to be
    replaced.
    """
    condition = Q(~_is_named())
    if settings.JOURNAL_KEEP_DAYS:
        condition |= Q(created_at__lte=_kept_since(now))
    return JournalFile.objects.filter(condition, removed_at__isnull=True, created_at__lte=now - QUIET).order_by("pk")


def _is_named() -> Exists:
    return Exists(AudioChunk.objects.filter(journal=OuterRef("pk")))


def _kept_since(now: datetime) -> datetime:
    return now - timedelta(days=settings.JOURNAL_KEEP_DAYS)


def _forget_removed(sweep: Sweep) -> None:
    """Delete the rows of removed journals that no row of a chunk names any more."""
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
            _collect(journal, sweep)


def _missing(journal: JournalFile, sweep: Sweep) -> None:
    if AudioChunk.objects.filter(journal=journal).exists():
        _unexplained(sweep, journal, "the file is missing, but has chunks")
    elif not sweep.dry_run:
        journal.delete()


def _unexplained(sweep: Sweep, journal: JournalFile, why: str) -> None:
    logger.error("journal_kept", journal=str(journal), reason=why)
    sweep.note(Action.UNEXPLAINED, f"{journal}: {why}")


def _collect(journal: JournalFile, sweep: Sweep) -> None:
    """Remove the journal if possible, after the chunks that are still needed were moved. The caller holds its lock."""
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
    """The sessions with chunks in a journal, by whether they still need them.

    `needed` are sessions that need their chunks, and `spent` are recordings that replace them. `some_wait` is set if
    one of these recordings is too new or is being rebuilt. Then it is better to wait than to move chunks.
    """

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
                _enqueue_digest(recording, sweep)
        kept_since = _kept_since(sweep.now)
        are_old = settings.JOURNAL_KEEP_DAYS and all(_is_old(recording, kept_since) for recording in self.spent)
        self.some_wait = is_awaited or (bool(self.spent) and not are_old)

    def look_at_recordings(self, sweep: Sweep) -> None:
        """Read the files of the recordings. Sessions with a damaged recording still need their chunks."""
        sound = [recording for recording in self.spent if _is_sound(recording, sweep)]
        self.needed += [recording.pk for recording in self.spent if recording not in sound]
        self.spent = sound


def _sessions_in(journal: JournalFile) -> Iterator[tuple[uuid.UUID, AudioSession | None]]:
    """Yield the ids of the sessions with chunks in the journal, and the sessions (None for a deleted one)."""
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


def _enqueue_digest(recording: Recording, sweep: Sweep) -> None:
    """Enqueue the SHA-256 of a recording whose worker died before it was computed."""
    if not sweep.dry_run and not recording.sha256:
        dispatch.concatenate(recording.pk)


def _is_sound(recording: Recording, sweep: Sweep) -> bool:
    """Whether the file of the recording has not changed.

    The file is read once a day at most, however many journals wait for the result.
    """
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
    """Whether the file, or the object that replaces it, has the size and the SHA-256 of the recording.

    Raises:
        StorageUnavailableError: The remote storage does not answer.
    """
    if _digest(paths.root() / recording.file_name, recording.size_bytes) == recording.sha256:
        return True
    recording.refresh_from_db(fields=["is_local"])
    if recording.is_local:
        return False
    try:
        remote_storage().verify(recording.file_name, recording.size_bytes or 0, recording.sha256)
    except (ObjectDamagedError, FileNotFoundError):
        return False
    return True


def _digest(path: Path, size_bytes: int | None) -> str:
    """Return the SHA-256 of the file; empty if there is no file of that size."""
    try:
        return durable.sha256_of(path) if path.stat().st_size == size_bytes else ""
    except FileNotFoundError:
        return ""


def _unknown_content(journal: JournalFile) -> str:
    """Return why the journal has unknown content or cannot be read to its end; empty if there is no such reason.

    A committed chunk is known if its row names this journal, or if it was moved and a row of its session names another
    one. Chunks of deleted sessions are erased, or will be.
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
    """Return the records of a journal.

    Records after damage are included, because they may be the only copies of their chunks.
    """
    return (found for found in walk(path) if isinstance(found, ScannedRecord))


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
    """Remove the journal, unless one of the recordings was rebuilt meanwhile; return whether it was removed."""
    looked_at = {recording.pk: _as_looked_at(recording) for recording in kept.spent}
    spent = sorted(looked_at)
    with transaction.atomic():
        # The locks prevent that a rebuild of one of them starts in between.
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
    """Return the values that change if a recording is rebuilt, or its rebuild is requested."""
    return recording.state, recording.ready_at, recording.sha256, recording.rebuild_requested_at


def _unlink(journal: JournalFile) -> None:
    """Remove the file of a journal that is marked as removed, and its row if no chunk names it.

    The call can be repeated.
    """
    path = paths.root() / journal.name
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync_folder(path.parent)
    if not AudioChunk.objects.filter(journal=journal).exists():
        journal.delete()
