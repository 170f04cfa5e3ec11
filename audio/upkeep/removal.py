"""The removal of sessions with all their data: those that somebody deletes, and those older than RETENTION_DAYS."""

import contextlib
import itertools
import uuid
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import OperationalError, transaction
from django.db.models import F, Q

from audio import database, dispatch, ingest
from audio.errors import SessionNotFound, StorageUnavailable
from audio.journal.files import Extent, erase
from audio.models import AudioChunk, AudioSession, DeletedSession, JournalFile
from audio.storage import paths
from audio.upkeep import erasures
from audio.upkeep.sweeps import Action, Sweep
from audio.webhooks import events

logger = structlog.stdlib.get_logger(__name__)

REPEAT_DELETION_AFTER = timedelta(minutes=2)
REQUESTS_PER_SWEEP = 500
ROWS_PER_STATEMENT = 1000
SESSIONS_PER_ROUND = 10_000


def enqueue_deletion(session_id: uuid.UUID) -> bool:
    """Close a session and mark it for deletion in the background.

    Returns:
        Whether the session exists and was not marked before.
    """
    with transaction.atomic():
        unmarked = AudioSession.objects.filter(pk=session_id, delete_requested_at=None)
        if not unmarked.update(delete_requested_at=ingest.database_time()):
            return False
        ingest.close_if(session_id, Q())
        dispatch.delete_session(session_id)
    return True


def enqueue_deletions(sweep: Sweep) -> None:
    """Enqueue deletions again that were enqueued a while ago. It is harmless to run one twice."""
    before = sweep.now - REPEAT_DELETION_AFTER
    waiting = AudioSession.objects.filter(delete_requested_at__lt=before)
    for key in list(waiting.order_by("delete_requested_at").values_list("pk", flat=True)[:REQUESTS_PER_SWEEP]):
        if sweep.dry_run or waiting.filter(pk=key).update(delete_requested_at=sweep.now):
            if not sweep.dry_run:
                dispatch.delete_session(key)
            sweep.note(Action.REQUESTED_DELETIONS, key)


def delete_session(session_id: uuid.UUID) -> None:
    """Remove a session with all its data: files, rows, and its payloads in the journals.

    The session is closed first, so that nothing can be added. Other processes erase the payloads in the journals that
    they own (`audio.ingest.erasures`). Records without a row are searched for later (`audio.upkeep.erasures`). A
    thousand rows are deleted at a time, because a long transaction on SQLite would delay every acknowledgement. On a
    full disk the deletion uses the space of the database's reserve.

    Raises:
        SessionNotFound: There is no such session.
        StorageUnavailable: The remote storage does not answer. Nothing was deleted.
    """
    try:
        _delete(session_id)
    except OperationalError as error:
        if not (database.is_full(error) and database.release_reserve()):
            raise
        logger.warning("reserve_released", session_id=str(session_id))
        _delete(session_id)


def _delete(session_id: uuid.UUID) -> None:
    ingest.close_session(session_id, by="deletion")
    paths.delete_files(session_id)
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
        raise SessionNotFound
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


def _expired(before: datetime) -> list[uuid.UUID]:
    is_sound = Q(age_counts_from=None, end_time__gte=F("start_time"))
    old = AudioSession.objects.filter(is_sound | Q(age_counts_from__lte=before), end_time__lte=before)
    return list(old.order_by("end_time").values_list("pk", flat=True)[:SESSIONS_PER_ROUND])


def delete_expired(sweep: Sweep) -> None:
    """Delete the sessions that ended more than RETENTION_DAYS ago, the oldest first; none if the setting is 0.

    A session with contradictory times is kept, because a clock was wrong.
    """
    if not settings.RETENTION_DAYS:
        return
    before = sweep.now - timedelta(days=settings.RETENTION_DAYS)
    for key in _expired(before):
        if sweep.is_over:
            return
        if not sweep.dry_run:
            logger.info("session_expired", session_id=str(key), days=settings.RETENTION_DAYS)
            try:
                with contextlib.suppress(SessionNotFound):  # another process was first
                    delete_session(key)
            except StorageUnavailable as error:
                logger.warning("deletion_put_off", session_id=str(key), error=str(error))
                return
        sweep.note(Action.DELETED_SESSIONS, key)
