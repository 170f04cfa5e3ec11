"""The last part of a deletion: the erasure of the records of deleted sessions in journals, with or without a row.

A record has no row if its commit failed, if its process was killed before the commit, or if the chunk was moved. So
each journal that was written while a deleted session existed is searched once, when no process appends to it any more.
"""

import contextlib
import uuid
from datetime import timedelta

from audio.journal.files import erase_sessions, journal_lock
from audio.models import DeletedSession, JournalErasure, JournalFile
from audio.storage import paths
from audio.upkeep.sweeps import Action, Sweep

NAME = "erasures"
_SESSIONS_PER_ROUND = 1000
# The clocks of hosts and of the storage differ by less than this.
_MARGIN = timedelta(hours=1)


def erase_deleted(sweep: Sweep) -> None:
    """List the journals that may contain records of deleted sessions, and erase the records in finished journals."""
    if not sweep.dry_run:
        _list_journals()
    names = JournalErasure.objects.order_by("journal").values_list("journal__name", flat=True).distinct()
    for name in list(names):
        if sweep.is_over:
            return
        _erase(name, sweep)


def _list_journals() -> None:
    """Insert a row for each journal and each deleted session that existed while the journal was written."""
    unlisted = list(DeletedSession.objects.filter(is_listed=False).order_by("deleted_at")[:_SESSIONS_PER_ROUND])
    if not unlisted:
        return
    latest = max(session.deleted_at for session in unlisted) + _MARGIN
    rows = []
    for journal in JournalFile.objects.filter(removed_at=None, created_at__lte=latest):
        with contextlib.suppress(FileNotFoundError):
            written_at = (paths.root() / journal.name).stat().st_mtime
            rows += [
                JournalErasure(journal=journal, session_id=session.pk)
                for session in unlisted
                if _may_hold(journal, written_at, session)
            ]
    JournalErasure.objects.bulk_create(rows, batch_size=500, ignore_conflicts=True)
    DeletedSession.objects.filter(pk__in=[session.pk for session in unlisted]).update(is_listed=True)


def _may_hold(journal: JournalFile, written_at: float, session: DeletedSession) -> bool:
    is_later = journal.created_at > session.deleted_at + _MARGIN
    is_earlier = session.started_at is not None and written_at < (session.started_at - _MARGIN).timestamp()
    return not is_later and not is_earlier


def _erase(name: str, sweep: Sweep) -> None:
    waiting = JournalErasure.objects.filter(journal__name=name)
    listed = dict(waiting.values_list("pk", "session_id"))
    path = paths.root() / name
    try:
        with journal_lock(path) as is_ours:
            if not is_ours:
                return
            if not sweep.dry_run:
                erase_sessions(path, set(listed.values()))
            sweep.note(Action.ERASED_JOURNALS, name)
    except FileNotFoundError:
        pass
    if not sweep.dry_run:
        waiting.filter(pk__in=listed).delete()


def erase_finished(session_id: uuid.UUID) -> None:
    """Erase all records of a session from its listed journals to which no process appends any more."""
    noted = JournalErasure.objects.filter(session_id=session_id)
    for key, name in list(noted.values_list("pk", "journal__name")):
        with contextlib.suppress(FileNotFoundError), journal_lock(paths.root() / name) as is_ours:
            if is_ours:
                erase_sessions(paths.root() / name, {session_id})
                noted.filter(pk=key).delete()


def remember(session_id: uuid.UUID, journal_ids: set[int]) -> None:
    """Insert rows for the journals from which a session's records are to be erased, for their owners to see."""
    rows = [JournalErasure(journal_id=key, session_id=session_id) for key in sorted(journal_ids)]
    JournalErasure.objects.bulk_create(rows, batch_size=500, ignore_conflicts=True)


def is_deleted(session_id: uuid.UUID) -> bool:
    """Whether a session was deleted, so that any data of it is to be erased."""
    return DeletedSession.objects.filter(pk=session_id).exists()
