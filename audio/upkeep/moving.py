"""The move of a session's chunks from a shared journal to one of the session's own, in its folder.

Records are copied unchanged, after their CRCs were checked. A batch is synced, and then one transaction changes its
rows to point to the copies. Readers find a chunk through its row, before or after the move. A reader whose row is older
than the erasure of the old record reads the row again (`audio.assembly.chunks`). If a move is interrupted, some rows
still name the old journal. The next move copies their chunks to another new journal.
"""

import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import structlog
from django.db import transaction

from audio import ingest
from audio.errors import ChunkDamagedError
from audio.journal.files import SUFFIX, Extent, JournalReader, JournalWriter, erase
from audio.journal.records import ERASED, MOVED, Committed, commit_record, session_record
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile
from audio.storage import paths

logger = structlog.stdlib.get_logger(__name__)

ROWS_PER_BATCH = 500
_BATCH_BYTES = 8 << 20


def move(session_id: uuid.UUID, journal: JournalFile) -> bool:
    """Move the session's chunks out of a journal whose lock the caller holds; return whether all of them were moved.

    A damaged chunk stays where it is.

    Raises:
        OSError: The copy could not be written.
    """
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is not None:
        name = f"{paths.folder_name(session_id)}/{uuid.uuid4().hex}{SUFFIX}"
        # The row is inserted first, because a journal without a row looks like one that the database has lost.
        target = JournalFile.objects.create(name=name, process_id=journal.process_id, created_at=ingest.database_time())
        with paths.deleted_with(session_id), closing(JournalWriter.at(paths.root(), name)) as writer:
            _Move(session, journal, target, writer).run()
    return not AudioChunk.objects.filter(session_id=session_id, journal=journal).exists()


class _Move:
    """One move from one journal to another."""

    def __init__(self, session: AudioSession, journal: JournalFile, target: JournalFile, writer: JournalWriter) -> None:
        self._session = session
        self._rows = AudioChunk.objects.filter(session=session, journal=journal)
        self._journal_name = journal.name
        self._target = target
        self._writer = writer
        sources = AudioSource.objects.filter(session=session)
        self._source_names: dict[int, str] = dict(sources.values_list("pk", "name"))
        self._source_counts: dict[int, int] = {}

    def run(self) -> None:
        """Move one batch after the other."""
        sequence = 0
        while rows := self._batch_after(sequence):
            sequence = rows[-1].sequence
            self._move(rows)

    def _batch_after(self, sequence: int) -> list[AudioChunk]:
        rows = list(self._rows.filter(sequence__gt=sequence).order_by("sequence")[:ROWS_PER_BATCH])
        size_bytes = count = 0
        while count < len(rows) and (not count or size_bytes + rows[count].size_bytes <= _BATCH_BYTES):
            size_bytes += rows[count].size_bytes
            count += 1
        return rows[:count]

    def _move(self, rows: Sequence[AudioChunk]) -> None:
        buffers: list[bytes] = []
        committed: list[Committed] = []
        moved: list[AudioChunk] = []
        left: list[Extent] = []
        end = self._writer.end
        for row, record in self._records(rows):
            description = self._description(row)
            buffers += [description, record]
            end += len(description)
            committed.append(Committed(end, row.sequence, self._counted(row)))
            left.append(Extent(self._journal_name, row.offset, row.size_bytes, row.crc32))
            row.journal, row.offset = self._target, end
            end += len(record)
            moved.append(row)
        if moved:
            self._writer.append([*buffers, commit_record(committed)])
            with transaction.atomic():
                self._rows.bulk_update(moved, ["journal", "offset"])
            # Without a row, the old record would not be erased when its session is deleted.
            erase(paths.root(), left, own=[self._journal_name], flags=ERASED | MOVED)

    def _records(self, rows: Sequence[AudioChunk]) -> list[tuple[AudioChunk, bytes]]:
        """Return the rows with their records, without damaged ones."""
        found = []
        with JournalReader(paths.root()) as reader:
            for row in rows:
                try:
                    record = reader.read_record(Extent(self._journal_name, row.offset, row.size_bytes, row.crc32))
                except ChunkDamagedError as error:
                    logger.error(
                        "chunk_unmovable", session_id=str(row.session_id), sequence=row.sequence, error=str(error)
                    )
                else:
                    found.append((row, record))
        return found

    def _description(self, row: AudioChunk) -> bytes:
        """Return the record that describes a source, before its first chunk in the file; otherwise nothing."""
        if row.source_id in self._source_counts:
            return b""
        before = AudioChunk.objects.filter(
            session=self._session, source=row.source_id, sequence__lt=row.sequence
        ).count()
        self._source_counts[row.source_id] = before
        known: dict[str, Any] = ingest.describe(self._session, self._source_names.get(row.source_id, ""))
        return session_record(self._session.pk.bytes, row.source_id, known)

    def _counted(self, row: AudioChunk) -> int:
        """Return the count of a named source including this chunk; 0 for the unnamed source."""
        self._source_counts[row.source_id] += 1
        return self._source_counts[row.source_id] if self._source_names.get(row.source_id) else 0
