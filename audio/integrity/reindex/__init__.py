"""The restoration of the database's rows from the journals, after the database was lost or restored from a backup.

Session records describe the sessions, and commit records contain the sequence of each chunk. A chunk that neither a
commit record nor a void record names was in flight when its process ended, and only the database knew whether it was
accepted. The counts of its source may show this: the count with a later chunk of the same connection, and the number at
which the next connection began. All other chunks in flight are kept, after the chunks of their journal with a known
sequence, and the session is marked as `uncertain`.

Existing rows of chunks are never changed. If the database knows a session but lacks chunks of it, as an older backup
does, the chunks are inserted, and its counters are updated in the same transaction. An unknown session is inserted as
`pending`. Once all journals have been read, one transaction sets its number of chunks and enqueues its recording. So an
interrupted reindexing can start again. A deleted session does not come back: either the database says that it was
deleted, or its chunks were committed and erased. The memory contains a few numbers for each session and source, and the
chunks that were in flight.

The modules, in the order in which a run uses them:

    run         reads all journals journal     reads one journal, and inserts the chunks that were committed sessions
    collects all sessions, and inserts those that the database lacks state       the state of one session completion
    completes the sessions after all journals have been read outcomes    decides which chunks in flight are restored,
    and with which sequences rows        the rows, and the statements that insert and read them result      the counts
    and the problems
"""

from audio.integrity.reindex.result import Reindexed
from audio.integrity.reindex.run import reindex

__all__ = ["Reindexed", "reindex"]
