"""Erasure of deleted sessions in journals to which the deletion could not write.

Only the process that appends to a journal may write to it. On a network file system a second writer could overwrite a
page that the first has just stored. So a deletion leaves a row for each such journal (`JournalErasure`). The owner of
the journal erases the chunks. If the journal is finished, `audio.upkeep.erasures` does.
"""

import os
import socket
import uuid
from collections.abc import Collection
from pathlib import Path

import structlog

from audio.database import database_time
from audio.journal.files import erase_sessions
from audio.models import IngestProcess, JournalErasure, JournalFile

logger = structlog.stdlib.get_logger(__name__)


def erase_own(root: Path, process_id: uuid.UUID) -> None:
    """Erase deleted sessions from the journals that this process appends to.

    The rows stay until the journal is finished, because another chunk of the session may be about to be written.
    """
    pending = JournalErasure.objects.filter(journal__process_id=process_id, erased_at=None)
    by_name: dict[str, set[uuid.UUID]] = {}
    for name, session_id in pending.values_list("journal__name", "session_id"):
        by_name.setdefault(name, set()).add(session_id)
    for name, session_ids in by_name.items():
        erase_sessions(root / name, session_ids)
        pending.filter(journal__name=name, session_id__in=session_ids).update(erased_at=database_time())
        logger.info("journal_erased", journal=name, sessions=len(session_ids))


def own_names(names: Collection[str]) -> set[str]:
    """Return those of the journals that belong to this process."""
    here = IngestProcess.objects.filter(host=socket.gethostname(), pid=os.getpid()).values("pk")
    return set(JournalFile.objects.filter(name__in=names, process_id__in=here).values_list("name", flat=True))
