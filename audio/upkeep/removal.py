"""The removal of sessions with all their data, on request or after their retention.

A deletion begins with a mark (`delete_requested_at`) in the session's row, under the row's lock. A session under a
legal hold gets no mark, and a session with a mark gets no legal hold. So no hold can be set between the steps of a
deletion. The sweep completes an interrupted deletion.
"""

import contextlib
import itertools
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import OperationalError, transaction
from django.db.models import F, Q

from audio import database, dispatch, ingest
from audio.errors import LegalHoldError, SessionNotFoundError, StorageUnavailableError
from audio.journal.files import Extent, erase
from audio.models import AudioChunk, AudioSession, DeletedSession, JournalFile, Project
from audio.storage import paths
from audio.upkeep import erasures
from audio.upkeep.sweeps import Action, Sweep
from audio.webhooks import events
from audio.wire.parameters import RETENTION_MAX_DAYS

logger = structlog.stdlib.get_logger(__name__)

REPEAT_DELETION_AFTER = timedelta(minutes=2)
REQUESTS_PER_SWEEP = 500
ROWS_PER_STATEMENT = 1000
SESSIONS_PER_ROUND = 10_000
_ANY = Q()
# The same condition as in the indexes.
_CAN_EXPIRE = Q(legal_hold=False, end_time__isnull=False)


def enqueue_deletion(session_id: uuid.UUID) -> bool:
    """Close a session and mark it for deletion in the background.

    Returns:
        Whether the session was not marked before.

    Raises:
        LegalHoldError: The session is under a legal hold.
        SessionNotFoundError: There is no such session.
    """
    with transaction.atomic():
        if not _mark(session_id):
            return False
        ingest.close_if(session_id, Q())
        dispatch.delete_session(session_id)
    return True


def _mark(session_id: uuid.UUID, condition: Q = _ANY) -> bool:
    """Mark a session for deletion, and return whether it was not marked before.

    Raises:
        LegalHoldError: The session is under a legal hold.
        SessionNotFoundError: There is no such session, or it does not meet the condition.
    """
    with transaction.atomic():
        session = AudioSession.objects.select_for_update().filter(condition, pk=session_id).first()
        if session is None:
            raise SessionNotFoundError(received=str(session_id))
        if session.legal_hold:
            raise LegalHoldError
        unmarked = AudioSession.objects.filter(pk=session_id, delete_requested_at=None)
        return bool(unmarked.update(delete_requested_at=ingest.database_time()))


def enqueue_deletions(sweep: Sweep) -> None:
    """Enqueue deletions again that were enqueued a while ago. It is harmless to run one twice."""
    before = sweep.now - REPEAT_DELETION_AFTER
    waiting = AudioSession.objects.filter(delete_requested_at__lt=before)
    for key in list(waiting.order_by("delete_requested_at").values_list("pk", flat=True)[:REQUESTS_PER_SWEEP]):
        if sweep.dry_run or waiting.filter(pk=key).update(delete_requested_at=sweep.now):
            if not sweep.dry_run:
                dispatch.delete_session(key)
            sweep.note(Action.REQUESTED_DELETIONS, key)


def delete_session(session_id: uuid.UUID, condition: Q = _ANY) -> None:
    """Remove a session with all its data: files, rows, and its payloads in the journals.

    The session is closed first, so that nothing can be added. Other processes erase the payloads in the journals that
    they own (`audio.ingest.erasures`). Records without a row are searched for later (`audio.upkeep.erasures`). A
    thousand rows are deleted at a time, because a long transaction on SQLite would delay every acknowledgement. On a
    full disk the deletion uses the space of the database's reserve.

    Args:
        session_id: The session.
        condition: A condition that its row still has to meet.

    Raises:
        LegalHoldError: The session is under a legal hold.
        SessionNotFoundError: There is no such session, or it does not meet the condition.
        StorageUnavailableError: The remote storage does not answer. Nothing was deleted.
    """
    try:
        _delete(session_id, condition)
    except OperationalError as error:
        if not (database.is_full(error) and database.release_reserve()):
            raise
        logger.warning("reserve_released", session_id=str(session_id))
        _delete(session_id, condition)


def _delete(session_id: uuid.UUID, condition: Q) -> None:
    is_new = _mark(session_id, condition)
    ingest.close_session(session_id, by="deletion")
    try:
        paths.delete_files(session_id)
    except StorageUnavailableError:
        if is_new:
            AudioSession.objects.filter(pk=session_id).update(delete_requested_at=None)
        raise
    chunks = AudioChunk.objects.filter(session_id=session_id)
    journals = _erase(session_id)
    while keys := list(chunks.values_list("pk", flat=True)[:ROWS_PER_STATEMENT]):
        AudioChunk.objects.filter(pk__in=keys).delete()
    with transaction.atomic():
        # The session's row is locked before those of its sources, in the same order as in the commit of chunks.
        session = AudioSession.objects.select_for_update().filter(pk=session_id)
        row = session.first()
        started_at = row.start_time if row is not None else None
        was_there = row is not None and AudioSession.objects.filter(pk=session_id).delete()[0]
        if row is not None and was_there:
            times = {"started_at": started_at, "deleted_at": ingest.database_time()}
            DeletedSession.objects.get_or_create(pk=session_id, defaults=times)
            events.session_deleted(row)
    # A worker may have written files for as long as the row existed.
    paths.delete_files(session_id)
    erasures.erase_finished(session_id)
    JournalFile.objects.filter(name__in=journals).delete()
    if not was_there:
        raise SessionNotFoundError
    logger.info("session_deleted", session_id=str(session_id))


def _erase(session_id: uuid.UUID) -> set[str]:
    """Erase the session's payloads, and return the journals that were the session's own."""
    own: set[str] = set()
    chunks = AudioChunk.objects.filter(session_id=session_id).order_by("sequence")
    journals = dict(chunks.order_by("journal").values_list("journal", "journal__name").distinct())
    # This needs the rows of the chunks, which are deleted later.
    erasures.remember(session_id, {key for key, name in journals.items() if name is not None})
    ours = ingest.own_names(list(journals.values()))
    rows = chunks.values_list("journal__name", "offset", "size_bytes", "crc32").iterator(chunk_size=ROWS_PER_STATEMENT)
    while batch := [Extent(*row) for row in itertools.islice(rows, ROWS_PER_STATEMENT)]:
        erase(settings.AUDIO_STORAGE_PATH, batch, own=ours)
        own |= {e.journal_name for e in batch if e.journal_name.startswith(f"{paths.folder_name(session_id)}/")}
    return own


def delete_expired(sweep: Sweep) -> None:
    """Delete the sessions whose retention is over, the oldest of each retention first.

    The retention is that of the session, otherwise that of its project, otherwise RETENTION_DAYS. 0 keeps a session. A
    session with contradictory times is kept, because a clock was wrong.
    """
    for chosen, days in _retentions():
        expired = _expired(chosen, sweep.now - timedelta(days=min(days, RETENTION_MAX_DAYS)))
        old = AudioSession.objects.filter(expired).order_by("end_time").values_list("pk", flat=True)
        for key in list(old[:SESSIONS_PER_ROUND]):
            if sweep.is_over or not _delete_expired(sweep, key, expired, days):
                return


def _retentions() -> Iterator[tuple[Q, int]]:
    """Yield a condition on sessions for each retention, with its days. Each has an index in the order of `end_time`."""
    for days in _own_retentions():
        yield Q(retention_days=days), days
    for key, own_days in list(Project.objects.order_by("pk").values_list("pk", "retention_days")):
        if days := settings.RETENTION_DAYS if own_days is None else own_days:
            yield Q(project=key, retention_days=None), days


def _own_retentions() -> Iterator[int]:
    """Yield each different retention of single sessions, with one lookup in the index for each."""
    days: int | None = 0
    own = AudioSession.objects.filter(_CAN_EXPIRE).order_by("retention_days").values_list("retention_days", flat=True)
    while days := own.filter(retention_days__gt=days).first():
        yield days


def _expired(chosen: Q, before: datetime) -> Q:
    is_sound = Q(age_counts_from=None, end_time__gte=F("start_time"))
    return chosen & _CAN_EXPIRE & (is_sound | Q(age_counts_from__lte=before)) & Q(end_time__lte=before)


def _delete_expired(sweep: Sweep, key: uuid.UUID, expired: Q, days: int) -> bool:
    """Delete a session if it is still expired; return whether more can be deleted."""
    if not sweep.dry_run:
        logger.info("session_expired", session_id=str(key), days=days)
        try:
            with contextlib.suppress(SessionNotFoundError, LegalHoldError):  # another process was first
                delete_session(key, expired)
        except StorageUnavailableError as error:
            logger.warning("deletion_put_off", session_id=str(key), error=str(error))
            return False
    sweep.note(Action.DELETED_SESSIONS, key)
    return True
