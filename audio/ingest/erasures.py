"""What is left to erase of deleted sessions, in journals that the deletion could not write to.

Nobody writes into a file that another process appends to: on a network file system each would write its own copy of a
page over what the other has just stored. So a deletion leaves a row for each such file (`JournalErasure`). The process
that appends to it erases there, and once it is finished whoever holds it (`audio.upkeep.erasures`).
"""

import os
import socket
import uuid
from collections.abc import Collection
from pathlib import Path

import structlog

from audio.ingest.clock import database_time
from audio.journal.files import erase_sessions
from audio.models import IngestProcess, JournalErasure, JournalFile

logger = structlog.stdlib.get_logger(__name__)


def erase_own(root: Path, process_id: uuid.UUID) -> None:
    """Erase what was deleted from the journals that this process appends to.

    The rows stay until a file is finished, because a chunk may just be on its way into it.
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
    """Return which of these journals are written by this process, if they still are."""
    here = IngestProcess.objects.filter(host=socket.gethostname(), pid=os.getpid()).values("pk")
    return set(JournalFile.objects.filter(name__in=names, process_id__in=here).values_list("name", flat=True))
