"""The verification of one session: its rows, its chunks in the journals, and its recording.

A verification reads the chunks and the recording once, with limited memory, and changes nothing. If the chunks were
removed by garbage collection, it compares the rows with each other, and the recording with its stored size and SHA-256.
Chunks that arrive after the start of a verification are ignored.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from audio.assembly import superseded
from audio.assembly.comparison import RecordingDiffersError
from audio.errors import ChunkDamagedError, ObjectDamagedError, SessionBusyError, SessionNotFoundError
from audio.integrity import replay
from audio.journal.files import Extent, JournalReader
from audio.journal.records import Header, RecordType
from audio.models import AudioChunk, AudioSession, JournalFile, Recording, RecordingState
from audio.pages import in_pages
from audio.storage import durable, local, paths

OnProgress = Callable[[float], None]
_PROBLEMS_KEPT = 100
_RELEASED = ""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that a check has found.

    `code` is stable and meant for programs, `detail` for people. The other fields locate the problem, as far as
    possible. `file_name` is relative to the storage root.
    """

    code: str
    detail: str
    session_id: str | None = None
    sequence: int | None = None
    file_name: str | None = None
    offset: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(slots=True)
class Problems:
    """A collection of problems that counts all and keeps the first ones."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if it is among the first ones."""
        self.count += 1
        if len(self.first) < _PROBLEMS_KEPT:
            self.first.append(problem)


@dataclass(slots=True)
class Verified:
    """The result for one session.

    `recording` is the state of the recording, or `compared` if the recording was compared with its chunks. `warnings`
    are those of the recording, and are not problems of the storage.
    """

    session_id: uuid.UUID
    chunks: int = 0
    size_bytes: int = 0
    recording: str = RecordingState.EMPTY.value
    problems: Problems = field(default_factory=Problems)
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "session_id": str(self.session_id),
            "chunks": self.chunks,
            "bytes": self.size_bytes,
            "recording": self.recording,
            "warnings": self.warnings,
            "problem_count": self.problems.count,
            "problems": [problem.as_dict() for problem in self.problems.first],
        }


def session(session_id: uuid.UUID, on_progress: OnProgress = lambda _: None) -> Verified:
    """Verify a session.

    Args:
        session_id: The session's id.
        on_progress: Called with the progress, from 0 to 1.

    Raises:
        SessionNotFoundError: There is no such session, or it was deleted meanwhile.
        SessionBusyError: A run is working on the recording.
    """
    found = Verified(session_id)
    _Session(found, on_progress).compare()
    if not AudioSession.objects.filter(pk=session_id).exists():
        raise SessionNotFoundError(session_id=str(session_id))
    return found


class _Row(NamedTuple):
    sequence: int
    source_id: int
    journal_id: int
    offset: int
    size_bytes: int
    crc32: int
    received_at: datetime


@dataclass(slots=True)
class _Source:
    """The row of a source, and the values of its chunks so far."""

    name: str
    chunk_count: int
    seen: int = 0
    last: tuple[int, int] = (0, 0)


class _Session:
    """One pass over a session."""

    def __init__(self, found: Verified, on_progress: OnProgress) -> None:
        self._found = found
        self._on_progress = on_progress
        self._missing_journals: set[str] = set()
        # Whether garbage collection has removed chunks, because the recording replaces them (`audio.upkeep.journals`).
        self._is_released = False
        # A single statement reads the counters of both tables at the same moment.
        rows = AudioSession.objects.filter(pk=found.session_id).values_list(
            "total_chunks", "byte_count", "recovered", "sources__pk", "sources__name", "sources__chunk_count"
        )
        counters = list(rows)
        if not counters:
            raise SessionNotFoundError(session_id=str(found.session_id))
        self._total_chunks, self._byte_count, recovered = counters[0][:3]
        self._is_recovered = bool(recovered)
        self._sources = {row[3]: _Source(*row[4:]) for row in counters if row[3] is not None}

    def compare(self) -> None:
        """Compare the rows with the journals, the counters with the rows, and the recording with both."""
        self._check_chunks()
        self._check_counters()
        self._check_recording()

    def _report(self, recording: Recording, code: str, detail: str, file_name: str) -> None:
        """Report a problem of the recording.

        Raises:
            SessionBusyError: A run has changed the recording since it was read, so it may not be a problem.
        """
        if not Recording.objects.filter(pk=recording.pk, updated_at=recording.updated_at).exists():
            raise SessionBusyError
        self._add(code, detail, file_name=file_name)

    def _add(self, code: str, detail: str, **where: Any) -> None:
        self._found.problems.add(Problem(code, detail, session_id=str(self._found.session_id), **where))

    def _check_chunks(self) -> None:
        expected = 1
        for rows in self._pages():
            names = _journal_names(rows)
            with JournalReader(paths.root()) as reader:
                for row in rows:
                    self._expect(expected, row.sequence)
                    self._check_chunk(reader, row, names)
                    expected = row.sequence + 1
            self._on_progress(0.5 * expected / max(1, self._total_chunks))
        self._expect(expected, self._total_chunks + 1)

    def _pages(self) -> Iterator[list[_Row]]:
        mine = AudioChunk.objects.filter(session_id=self._found.session_id, sequence__lte=self._total_chunks)
        return ([_Row(*row) for row in page] for page in in_pages(mine, *_Row._fields))

    def _expect(self, expected: int, sequence: int) -> None:
        """Report the rows that are missing before the next row."""
        if sequence > expected:
            which = f"chunk {expected} is" if sequence == expected + 1 else f"chunks {expected} to {sequence - 1} are"
            self._add("row_missing", f"The rows of {which} missing.", sequence=expected)

    def _check_chunk(self, reader: JournalReader, row: _Row, names: dict[int, str]) -> None:
        self._found.chunks += 1
        self._found.size_bytes += row.size_bytes
        if names.get(row.journal_id) == _RELEASED:
            self._count_released(row)
            return
        if names.get(row.journal_id) in self._missing_journals:
            return
        header, wrong = self._record_of(reader, row, names)
        while wrong and (now := self._row_now(row)) != row:
            # The chunk was moved to another file since its row was read.
            self._missing_journals.discard(names.get(row.journal_id, ""))
            row, names = now, _journal_names([now])
            header, wrong = self._record_of(reader, row, names)
        if wrong and _journal_names([row]).get(row.journal_id) == _RELEASED:
            self._count_released(row)
            return
        for code, detail in wrong:
            where = {"sequence": row.sequence, "file_name": names.get(row.journal_id), "offset": row.offset}
            self._add(code, detail, **where)
        if header is not None and not header.erased:
            self._check_order(row, header)

    def _count_released(self, row: _Row) -> None:
        """Count a chunk whose bytes are deleted."""
        self._is_released = True
        if row.source_id in self._sources:
            self._sources[row.source_id].seen += 1

    def _row_now(self, row: _Row) -> _Row:
        rows = AudioChunk.objects.filter(session_id=self._found.session_id, sequence=row.sequence)
        now = rows.values_list(*_Row._fields).first()
        return _Row(*now) if now else row

    def _record_of(
        self, reader: JournalReader, row: _Row, names: dict[int, str]
    ) -> tuple[Header | None, list[tuple[str, str]]]:
        """Return the header of a chunk's record, if it exists, and the codes and sentences of its problems."""
        name = names.get(row.journal_id)
        if name is None:
            return None, [("journal_row_missing", f"Chunk {row.sequence} is in no known journal.")]
        if not (paths.root() / name).exists():
            self._missing_journals.add(name)
            return None, [("journal_missing", f"The journal of chunk {row.sequence} and others is missing.")]
        if (header := reader.header(name, row.offset)) is None:
            return None, [("record_missing", f"There is no record where chunk {row.sequence} should be.")]
        wrong = list(self._contradictions(row, header))
        try:
            reader.read(Extent(name, row.offset, row.size_bytes, row.crc32))
        except ChunkDamagedError as error:
            wrong.append(("chunk_damaged", error.detail))
        return header, wrong

    def _contradictions(self, row: _Row, header: Header) -> Iterator[tuple[str, str]]:
        if header.erased:
            yield "chunk_erased", f"Chunk {row.sequence} was erased from its journal."
            return
        pairs: dict[str, tuple[Any, Any]] = {
            "type": (header.type, RecordType.CHUNK),
            "session": (header.session_id, self._found.session_id),
            # Restored sources have other numbers than in the journals.
            "source": (header.source_id if not self._is_recovered else row.source_id, row.source_id),
            "size": (header.length_bytes, row.size_bytes),
            "CRC-32": (header.payload_crc32, row.crc32),
            "time": (header.received_at_us, _microseconds(row.received_at)),
        }
        wrong = [name for name, (there, expected) in pairs.items() if there != expected]
        if wrong:
            yield "record_contradicts", f"The record of chunk {row.sequence} contradicts its row: {', '.join(wrong)}."

    def _check_order(self, row: _Row, header: Header) -> None:
        """Check that the chunks of a named source are in the order of its numbers, with older connections first."""
        source = self._sources.get(row.source_id)
        if source is None:
            sentence = f"The row of the source of chunk {row.sequence} is missing."
            self._add("source_missing", sentence, sequence=row.sequence)
            return
        source.seen += 1
        place = (header.epoch, header.number)
        if source.name and place <= source.last:
            sentence = f"Chunk {row.sequence} comes after a later chunk of its source."
            self._add("out_of_order", sentence, sequence=row.sequence)
        source.last = place

    def _check_counters(self) -> None:
        if self._found.problems.count:
            # The counters would only repeat the problems that were found.
            return
        if self._found.size_bytes != self._byte_count:
            sentence = (
                f"The chunks have {self._found.size_bytes} bytes, but the row of the session says {self._byte_count}."
            )
            self._add("byte_count_wrong", sentence)
        for source in self._sources.values():
            if source.name and source.seen != source.chunk_count:
                sentence = f"Source {source.name!r} has {source.seen} chunks, but its row says {source.chunk_count}."
                self._add("source_count_wrong", sentence)

    def _check_recording(self) -> None:
        row = AudioSession.objects.select_related("recording").filter(pk=self._found.session_id).first()
        if row is None:
            return
        if not hasattr(row, "recording"):
            self._add("recording_row_missing", "The row of the recording is missing.")
            return
        recording = row.recording
        self._found.recording, self._found.warnings = recording.state, recording.warnings
        if recording.state == RecordingState.READY:
            self._check_file(row, recording)
            self._check_beside(recording)
        elif recording.state == RecordingState.FAILED:
            sentence = f"The recording could not be made ({recording.error_code}): {recording.error_detail}"
            self._add("recording_failed", sentence, sequence=recording.failed_sequence)
        elif recording.master_name:
            self._check_master(recording)
        self._on_progress(1.0)

    def _check_beside(self, recording: Recording) -> None:
        """Report a failed rebuild, and earlier recordings that were set aside."""
        if recording.rebuild_error_code:
            sentence = f"The recording could not be rebuilt ({recording.rebuild_error_code}): "
            self._add("rebuild_failed", sentence + recording.rebuild_error_detail, file_name=recording.file_name)
        for path in superseded.files_aside(recording.pk):
            sentence = "An earlier recording was moved aside, because this one does not have all its audio."
            self._add("recording_aside", sentence, file_name=str(path.relative_to(paths.root())))

    def _check_master(self, recording: Recording) -> None:
        path = paths.root() / recording.master_name
        size_bytes = path.stat().st_size if path.exists() else 0
        if size_bytes < recording.master_bytes:
            sentence = f"The master has {size_bytes} bytes instead of {recording.master_bytes}."
            self._report(recording, "master_damaged", sentence, recording.master_name)

    def _check_file(self, session: AudioSession, recording: Recording) -> None:
        name = recording.file_name
        try:
            with local.recording_file(recording) as path:
                self._compare_file(session, recording, path)
        except FileNotFoundError:
            self._report(recording, "recording_missing", "The file of the recording is missing.", name)
        except ObjectDamagedError as error:
            self._report(recording, "recording_damaged", error.detail, name)

    def _compare_file(self, session: AudioSession, recording: Recording, path: Path) -> None:
        name = recording.file_name
        if path.stat().st_size != recording.size_bytes:
            sentence = f"The recording has {path.stat().st_size} bytes, but its row says {recording.size_bytes}."
            self._report(recording, "recording_size_wrong", sentence, name)
        elif recording.sha256 and durable.sha256_of(path) != recording.sha256:
            sentence = "The SHA-256 of the recording differs from its row."
            self._report(recording, "recording_damaged", sentence, name)
        elif recording.chunks_done != session.total_chunks:
            sentence = f"The recording was made from {recording.chunks_done} of {session.total_chunks} chunks."
            self._report(recording, "recording_incomplete", sentence, name)
        if self._found.problems.count:
            return
        try:
            if self._is_released:
                replay.compare_header(session, recording, path)
                return
            replay.compare(session, recording, path, self._tell_replay)
        except RecordingDiffersError as error:
            self._report(recording, "recording_differs", str(error), name)
        self._found.recording = "compared"

    def _tell_replay(self, sequence: int) -> None:
        self._on_progress(0.5 + 0.5 * sequence / max(1, self._total_chunks))


def _journal_names(rows: Sequence[_Row]) -> dict[int, str]:
    """Return the names of the journals of these rows by their keys; `_RELEASED` for a removed journal."""
    found = JournalFile.objects.filter(pk__in={row.journal_id for row in rows})
    return {key: _RELEASED if at else name for key, name, at in found.values_list("pk", "name", "removed_at")}


def _microseconds(moment: datetime) -> int:
    """Return the microseconds since the Unix epoch."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
