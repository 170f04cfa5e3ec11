"""The reading of one journal: its information about sessions, and the rows of its committed chunks."""

import itertools
import uuid
from collections.abc import Sequence
from pathlib import Path

from django.db.models import Max

from audio.integrity.reindex.rows import (
    ROWS_PER_STATEMENT,
    chunk_row,
    identities,
    identity,
    insert,
    insert_counted,
)
from audio.integrity.reindex.sessions import Sessions
from audio.integrity.reindex.state import (
    CommittedChunk,
    ConnectionCounts,
    InFlightChunk,
    JournaledSession,
    UnreadableChunk,
)
from audio.journal.files import Damage, ScannedRecord, walk
from audio.journal.records import Committed, RecordType, parse_commit, parse_session, parse_void
from audio.models import AudioChunk, JournalFile
from audio.storage import paths


def read(path: Path, sessions: Sessions) -> None:
    """Read a journal from its beginning to its end."""
    sessions.result.journals += 1
    reading = _Reading(path, sessions)
    for found in walk(path):
        match found:
            case ScannedRecord():
                reading.take(found)
            case Damage(offset):
                reading.note_damage(offset)
    reading.end()


class _Reading:
    """One journal, as far as it has been read.

    Attributes:
        name: The name of the journal.
        is_behind_damage: Whether records may be missing before the current one.
    """

    def __init__(self, path: Path, sessions: Sessions) -> None:
        self.name = str(path.relative_to(paths.root()))
        self.is_behind_damage = False
        self._sessions = sessions
        self._path = path
        self._id = 0
        # The chunks, by their offsets, that no commit record and no void record has named so far.
        self._open_records: dict[int, ScannedRecord] = {}
        # The last sequence of each session that a commit record has named.
        self._last: dict[uuid.UUID, int] = {}
        rows = AudioChunk.objects.filter(journal__name=self.name)
        # The offset of the last chunk of the journal that the database knew before.
        self._last_known: int = rows.aggregate(last=Max("offset", default=-1))["last"]
        # Chunks that a commit record has named, whose rows are inserted with the next flush.
        self._committed: list[CommittedChunk] = []

    def note_damage(self, offset: int) -> None:
        """Report a range of bytes that holds no record."""
        self._sessions.add_problem("record_damaged", "No record begins here.", file_name=self.name, offset=offset)
        self.is_behind_damage = True

    def take(self, record: ScannedRecord) -> None:
        """Process the next record. An erased chunk is not restored."""
        if record.header.type is RecordType.CHUNK:
            self._take_chunk(record)
        elif not record.intact:
            self._sessions.add_problem(
                "record_damaged", "A record fails its CRC-32.", file_name=self.name, offset=record.offset
            )
        elif record.header.type is RecordType.SESSION:
            session = self._sessions.get(record.header.session_id)
            session.descriptions.setdefault(record.header.source_id, parse_session(record.payload))
        elif record.header.type is RecordType.COMMIT:
            for entry in parse_commit(record.payload):
                self._commit(entry)
        else:
            for offset in parse_void(record.payload):
                self._open_records.pop(offset, None)

    def _take_chunk(self, record: ScannedRecord) -> None:
        header = record.header
        self._open_records[record.offset] = ScannedRecord(record.offset, header, b"", record.intact)
        # A rejected chunk is included, because its connection has counted it.
        if header.epoch:
            source = self._sessions.get(header.session_id).connections.setdefault(header.source_id, {})
            connection = source.setdefault(header.epoch, ConnectionCounts(header.number))
            connection.first_number = min(connection.first_number, header.number)

    def _commit(self, entry: Committed) -> None:
        record = self._open_records.pop(entry.offset, None)
        if record is None:
            return
        header = record.header
        session = self._sessions.get(header.session_id)
        if header.erased:
            # A committed chunk was erased: its session was deleted, unless the chunk was moved to another file.
            session.is_deleted |= not header.moved
            return
        if not self._sessions.begin(session, header.source_id):
            return
        self._last[session.key] = entry.sequence
        if header.epoch:
            session.connections[header.source_id][header.epoch].take(header.number, entry.source_count)
        if session.is_restored:
            session.chunks += 1
            session.is_uncertain |= self.is_behind_damage
        if not record.intact:
            where = {"session_id": str(session.key), "file_name": self.name, **entry._asdict()}
            where.pop("source_count")
            self._sessions.add_problem("chunk_damaged", "A chunk fails its CRC-32.", **where)
        self._committed.append(CommittedChunk(session, entry.offset, entry.sequence, header))
        if len(self._committed) >= ROWS_PER_STATEMENT:
            self._flush()

    def _journal_id(self) -> int:
        if not self._id:
            defaults = {"process_id": _process_id(self._path)}
            row, _ = JournalFile.objects.get_or_create(name=self.name, defaults=defaults)
            self._id = row.pk
        return self._id

    def _flush(self) -> None:
        """Insert the missing rows of committed chunks, and report chunks whose sequence another chunk has."""
        chunks, self._committed = self._without_rows(self._committed), []
        if not self._sessions.is_dry_run and (restored := [chunk for chunk in chunks if chunk.session.is_restored]):
            insert([self._row(chunk) for chunk in restored])
            self._report_duplicates(self._without_rows(restored))
        others = sorted((chunk for chunk in chunks if chunk.session.is_known), key=_session_key)
        for _, group in itertools.groupby(others, key=_session_key):
            self._extend(list(group))

    def _without_rows(self, chunks: Sequence[CommittedChunk]) -> list[CommittedChunk]:
        """Leave out chunks that have a row with their location in this journal."""
        rows = AudioChunk.objects.filter(journal__name=self.name, offset__in=[chunk.offset for chunk in chunks])
        offsets = set(rows.values_list("offset", flat=True))
        return [chunk for chunk in chunks if chunk.offset not in offsets]

    def _row(self, chunk: CommittedChunk) -> AudioChunk:
        self._sessions.source_key(chunk.session, chunk.header.source_id)
        return chunk_row(chunk.session, chunk.header, self._journal_id(), chunk.offset, chunk.sequence)

    def _extend(self, chunks: Sequence[CommittedChunk]) -> None:
        """Add chunks to a session that the database knows."""
        session = chunks[0].session
        present = identities(session, [chunk.sequence for chunk in chunks])
        new = {chunk.sequence: chunk for chunk in reversed(chunks) if chunk.sequence not in present}
        self._report_duplicates([chunk for chunk in chunks if new.get(chunk.sequence) is not chunk])
        session.chunks += len(new)
        session.is_uncertain |= bool(new) and self.is_behind_damage
        if new and not self._sessions.is_dry_run:
            insert_counted(session, [self._row(chunk) for chunk in new.values()])

    def _report_duplicates(self, chunks: Sequence[CommittedChunk]) -> None:
        """Report those of these chunks whose sequence another chunk has. A chunk that was moved is the same chunk."""
        for chunk in chunks:
            other = identities(chunk.session, [chunk.sequence]).get(chunk.sequence)
            if other is not None and other != identity(chunk.header):
                chunk.session.is_uncertain = True
                sentence = f"Another chunk of the session has the sequence {chunk.sequence}."
                where = {"session_id": str(chunk.session.key), "sequence": chunk.sequence, "offset": chunk.offset}
                self._sessions.add_problem("place_taken", sentence, file_name=self.name, **where)

    def end(self) -> None:
        """Collect the chunks in flight, after the last record. An incomplete record was never synced, and is none."""
        self._flush()
        for offset, record in self._open_records.items():
            session = self._sessions.get(record.header.session_id)
            if not record.intact:
                session.unreadable.append(UnreadableChunk(self.name, offset, offset > self._last_known))
            elif (
                not record.header.erased
                and self._sessions.begin(session, record.header.source_id)
                and not self._is_outcome_known(session, offset)
            ):
                journal_id = 0 if self._sessions.is_dry_run else self._journal_id()
                after = self._last.get(session.key, 0)
                session.in_flight.append(InFlightChunk(journal_id, offset, record.header, after))

    def _is_outcome_known(self, session: JournaledSession, offset: int) -> bool:
        """Whether the database knows the outcome of a chunk that no commit record names.

        Rows are inserted in the order of the journal. So the database knows the outcome if it had the row of this chunk
        or of a later one.
        """
        return session.is_known and offset <= self._last_known


def _session_key(chunk: CommittedChunk) -> uuid.UUID:
    return chunk.session.key


def _process_id(path: Path) -> uuid.UUID:
    """Return the id of the process that wrote a journal, with which its name begins."""
    try:
        return uuid.UUID(path.name.partition("-")[0])
    except ValueError:
        return uuid.UUID(int=0)
