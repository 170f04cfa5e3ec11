"""One pass over all journals."""

from collections.abc import Callable

from audio.integrity.reindex import journal
from audio.integrity.reindex.completion import Completion
from audio.integrity.reindex.result import Reindexed
from audio.integrity.reindex.sessions import Sessions
from audio.storage import paths

OnProgress = Callable[[float], None]


def reindex(is_dry_run: bool = False, on_progress: OnProgress = lambda _: None) -> Reindexed:
    """Restore every session and chunk that the journals know and the database does not, and return the counts.

    No server may receive chunks meanwhile.

    Args:
        is_dry_run: Whether to write nothing.
        on_progress: Called with the progress, from 0 to 1.
    """
    sessions = Sessions(is_dry_run)
    journals = paths.journal_paths()
    for number, path in enumerate(journals, start=1):
        journal.read(path, sessions)
        on_progress(number / len(journals))
    Completion(sessions).complete_all()
    return sessions.result
