"""Moves the chunks of a session out of a shared journal file into one of the session's own, in its folder.

The records are copied as they are, header and payload, after their CRCs were checked; a batch is synced before its
rows are pointed to it, in one transaction. A reader finds the chunk through its row, before or after: a row that was
read just before the old record is erased is read again (`audio.assembly.chunks`). A move that was cut short leaves rows
that name the old file, which the next one moves to another new file.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from django.db import transaction

from audio import ingest
from audio.errors import ChunkDamaged
from audio.journal.files import SUFFIX, Extent, JournalReader, JournalWriter, erase
from audio.journal.records import ERASED, MOVED, Committed, commit_record, session_record
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile
from audio.storage import paths

logger = structlog.stdlib.get_logger(__name__)

ROWS_PER_BATCH = 500
_BATCH_BYTES = 8 << 20


def move(session_id: uuid.UUID, journal: JournalFile) -> bool:
    """Moves the session's chunks out of the journal file, which the caller holds; returns whether all of them went.

    One that is not as it was stored stays where it is. Raises OSError.
    """
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is not None:
        name = f"{paths.folder_name(session_id)}/{uuid.uuid4().hex}{SUFFIX}"
        # The row comes first: a file that no row names is one that the database lost.
        target = JournalFile.objects.create(name=name, process_id=journal.process_id, created_at=ingest.database_time())
        writer = JournalWriter.at(paths.root(), name)
        try:
            _Move(session, journal, target, writer).run()
        finally:
            writer.close()
            # Deleted meanwhile: what was put into its folder goes too.
            if not AudioSession.objects.filter(pk=session_id).exists():
                paths.delete_files(session_id)
    return not AudioChunk.objects.filter(session_id=session_id, journal=journal).exists()


class _Move:
    """One move, from one file into one file."""

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
        """Moves batch after batch."""
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
            # A copy to which no row leads would outlive the deletion of its session.
            erase(paths.root(), left, own=[self._journal_name], flags=ERASED | MOVED)

    def _records(self, rows: Sequence[AudioChunk]) -> list[tuple[AudioChunk, bytes]]:
        """Returns the rows with their records, without those that are not as they were stored."""
        found = []
        with JournalReader(paths.root()) as reader:
            for row in rows:
                try:
                    record = reader.read_record(Extent(self._journal_name, row.offset, row.size_bytes, row.crc32))
                except ChunkDamaged as error:
                    logger.error(
                        "chunk_unmovable", session_id=str(row.session_id), sequence=row.sequence, error=str(error)
                    )
                else:
                    found.append((row, record))
        return found

    def _description(self, row: AudioChunk) -> bytes:
        """What is known of a source stands before its first chunk in the file."""
        if row.source_id in self._source_counts:
            return b""
        before = AudioChunk.objects.filter(
            session=self._session, source=row.source_id, sequence__lt=row.sequence
        ).count()
        self._source_counts[row.source_id] = before
        known: dict[str, Any] = ingest.describe(self._session, self._source_names.get(row.source_id, ""))
        return session_record(self._session.pk.bytes, row.source_id, known)

    def _counted(self, row: AudioChunk) -> int:
        """The count of the source with this chunk, if it has a name."""
        self._source_counts[row.source_id] += 1
        return self._source_counts[row.source_id] if self._source_names.get(row.source_id) else 0
