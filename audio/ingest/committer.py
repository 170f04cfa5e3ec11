"""The committer: one thread that makes chunks durable, a batch at a time.

A batch consists of the chunks that arrived while the last batch was committed, and those that arrive within the next
few milliseconds. A batch of any number of sessions costs one write and one fdatasync of the journal, one transaction,
and one wake-up of the event loop. The committer delivers the outcomes after the transaction was committed.
"""

import errno
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from django.db import connection

from audio import database, metrics
from audio.errors import AudioError, JournalFailedError, StorageFullError
from audio.ingest.calls import Call, Calls
from audio.ingest.commit import JournalledChunk, RowWriter
from audio.ingest.pending import Append, Pending
from audio.ingest.types import Accepted, Outcome, Producer
from audio.journal.files import Extent, JournalWriter, erase
from audio.journal.records import HEADER_BYTES, Committed, RecordType, commit_record, pack_header, session_record
from audio.journal.records import void_record as make_void_record

logger = structlog.stdlib.get_logger(__name__)

BATCH_MAX_CHUNKS = 2000
# A chunk waits for two batches at most, of its project and of others.
BATCH_MAX_BYTES = 2 * 1024 * 1024
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# A chunk with its outcome.
Delivery = tuple[Append, Outcome]


class _OpenJournal:
    """A journal file, the key of its row, and the records about the last batch that are not written yet."""

    def __init__(self, writer: JournalWriter, journal_id: int) -> None:
        self.writer = writer
        self.id = journal_id
        self.described: set[tuple[uuid.UUID, int]] = set()
        self.trailer: list[bytes] = []


class Committer:
    """The thread that makes chunks durable. It calls `deliver` with their outcomes, in this thread.

    The outcomes of one producer come in the order in which its chunks were submitted. On SQLite the thread also runs
    the other functions that write (`audio.ingest.calls`), between two batches.
    """

    def __init__(
        self,
        root: Path,
        process_id: uuid.UUID,
        deliver: Callable[[list[Delivery]], None],
        gather_seconds: float,
        journal_file_size_bytes: int,
        calls: Calls | None = None,
    ) -> None:
        self._root = root
        self._process_id = process_id
        self._deliver = deliver
        self._gather_seconds = gather_seconds
        self._journal_file_size_bytes = journal_file_size_bytes
        self._rows = RowWriter()
        self._journal: _OpenJournal | None = None
        self._journals_opened = 0
        self._rejected: list[Extent] = []
        self._pending = Pending()
        self._calls = calls or Calls(lambda _: None)
        self._changed = threading.Condition()
        self._stopping = False
        self._idle = False
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, append: Append) -> None:
        """Enqueue a chunk. The event loop's thread calls this, and `deliver` gets the outcome."""
        self._pending.add(append)
        self._wake()

    def call(self, call: Call) -> None:
        """Enqueue a function that writes to the database. The event loop's thread calls this."""
        self._calls.add(call)
        self._wake()

    def _wake(self) -> None:
        # The committer sets the flag before it reads the queues for the last time. So it either finds the item, or is
        # notified here.
        if self._idle:
            with self._changed:
                self._changed.notify()

    def stop(self) -> None:
        """Commit the pending chunks, close the journal and end the thread, if it was started."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        ended_well = False
        try:
            while self._wait():
                self._calls.run()
                if batch := self._take():
                    self._deliver(list(zip(batch, self._commit(batch), strict=True)))
                    self._erase_rejected()
            self._retire_journal()
            connection.close()
            ended_well = True
        finally:
            if not ended_well:
                self._die()

    @staticmethod
    def _die() -> None:
        """End the process, so that its supervisor starts a new one.

        Without a committer every client would wait for ever. No acknowledged chunk is lost.
        """
        logger.critical("committer_died", exc_info=True)
        os._exit(70)

    def _wait(self) -> bool:
        """Wait for chunks or calls, and return whether there are any. If not, the committer has to stop."""
        if not self._pending and not self._calls:
            with self._changed:
                self._idle = True
                self._changed.wait_for(lambda: self._pending or self._calls or self._stopping)
                self._idle = False
        return bool(self._pending or self._calls)

    def _take(self) -> list[Append]:
        """Return a batch of the chunks that have arrived."""
        self._gather()
        return self._pending.take(BATCH_MAX_CHUNKS, BATCH_MAX_BYTES)

    def _gather(self) -> None:
        """Wait for more chunks until the oldest has waited for `gather_seconds`. Larger batches need less CPU.

        Chunks that arrived during the last flush have waited already, so a slow disk adds no further delay.
        """
        since_us = self._pending.waited_since_us()
        if since_us is not None and len(self._pending) < BATCH_MAX_CHUNKS and not self._calls:
            waited_seconds = time.time() - since_us / 1_000_000
            if 0 <= waited_seconds < self._gather_seconds and not self._stopping:
                time.sleep(self._gather_seconds - waited_seconds)

    def _commit(self, batch: list[Append]) -> Sequence[Outcome]:
        """Return an outcome for each chunk. Chunks of a producer that was rejected for good are not written."""
        rejections = [append.producer.rejection for append in batch]
        if not any(rejections):
            return self._store(batch)
        live = [append for append, rejection in zip(batch, rejections, strict=True) if rejection is None]
        outcomes = iter(self._store(live) if live else ())
        return [next(outcomes) if rejection is None else rejection for rejection in rejections]

    def _store(self, batch: list[Append]) -> Sequence[Outcome]:
        metrics.batch_chunks.observe(len(batch))
        try:
            database.hold_reserve()
            journal = self._open_journal()
            journalled = self._write(journal, batch)
            with metrics.commit.time():
                outcomes = self._rows.commit(journal.id, journalled)
        except AudioError as error:
            return self._reject_all(batch, error)
        except OSError as error:
            logger.error("journal_failed", error=str(error))
            full = error.errno in _NO_SPACE
            return self._reject_all(batch, StorageFullError() if full else JournalFailedError())
        self._note(journal, journalled, outcomes)
        return outcomes

    def _reject_all(self, batch: list[Append], error: AudioError) -> Sequence[Outcome]:
        """Reject a batch finally, and abandon the journal, because it is no longer known which bytes are durable."""
        self._abandon_journal()
        for append in batch:
            append.producer.rejection = error
        return [error] * len(batch)

    def _write(self, journal: _OpenJournal, batch: list[Append]) -> list[JournalledChunk]:
        buffers, journal.trailer = journal.trailer, []
        end = journal.writer.end + sum(map(len, buffers))
        journalled: list[JournalledChunk] = []
        for append in batch:
            end += self._describe(journal, append.producer, buffers)
            crc32 = zlib.crc32(append.payload)
            buffers += (self._header(append, crc32), append.payload)
            journalled.append(JournalledChunk(append.producer, end, len(append.payload), crc32, append.received_at_us))
            end += HEADER_BYTES + len(append.payload)
        with metrics.journal_flush.time():
            journal.writer.append(buffers)
        return journalled

    @staticmethod
    def _header(append: Append, crc32: int) -> bytes:
        producer = append.producer
        producer.number += 1
        return pack_header(
            RecordType.CHUNK,
            crc32,
            len(append.payload),
            producer.session_id.bytes,
            producer.source_id,
            producer.number,
            append.received_at_us,
            producer.epoch or 0,
        )

    @staticmethod
    def _describe(journal: _OpenJournal, producer: Producer, buffers: list[bytes]) -> int:
        """Add a description of the session before its first chunk in this file, and return its size in bytes."""
        key = (producer.session_id, producer.source_id)
        if key in journal.described:
            return 0
        journal.described.add(key)
        buffers.append(session_record(producer.session_id.bytes, producer.source_id, producer.description))
        return len(buffers[-1])

    def _note(self, journal: _OpenJournal, journalled: Sequence[JournalledChunk], outcomes: Sequence[Outcome]) -> None:
        """Prepare records about the outcomes of this batch for the next write. `verify` and `reindex` read them."""
        pairs = list(zip(journalled, outcomes, strict=True))
        committed = [Committed(p.offset, o.sequence, o.source_count) for p, o in pairs if isinstance(o, Accepted)]
        rejected = [p for p, o in pairs if not isinstance(o, Accepted)]
        if committed:
            journal.trailer.append(commit_record(committed))
        if rejected:
            journal.trailer.append(make_void_record(p.offset for p in rejected))
            self._rejected += [Extent(journal.writer.name, p.offset, p.size_bytes, p.crc32) for p in rejected]

    def _erase_rejected(self) -> None:
        """Erase rejected chunks from the file. A deletion of their session would not find them without rows."""
        rejected, self._rejected = self._rejected, []
        try:
            erase(self._root, rejected, own={extent.journal_name for extent in rejected})
        except OSError as error:
            logger.warning("rejected_chunks_not_erased", error=str(error))

    def _open_journal(self) -> _OpenJournal:
        if self._journal is not None and self._journal.writer.end >= self._journal_file_size_bytes:
            self._retire_journal()
        if self._journal is None:
            self._journals_opened += 1
            writer = JournalWriter(self._root, self._process_id, self._journals_opened)
            try:
                self._journal = _OpenJournal(writer, self._rows.create_journal(writer.name, self._process_id))
            except AudioError:
                writer.close()
                raise
        return self._journal

    def _retire_journal(self) -> None:
        """Write the records about the last batch, and close the file."""
        if self._journal is not None and self._journal.trailer:
            try:
                self._journal.writer.append(self._journal.trailer)
            except OSError as error:
                logger.warning("journal_trailer_not_written", error=str(error))
        self._abandon_journal()

    def _abandon_journal(self) -> None:
        if self._journal is not None:
            self._journal.writer.close()
            self._journal = None
