"""The survey of the storage: each journal is compared with its rows, and each file with the rows that name it.

Tables are read page by page, and files once, so that memory does not grow with them. A server may write meanwhile, so
everything that seems to be missing is looked up again before it is reported.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from django.db.models import QuerySet

from audio import pages
from audio.integrity.verify import Problem, Problems
from audio.journal.files import Damage, JournalReader, ScannedRecord, walk
from audio.journal.records import RecordType, parse_commit, parse_void
from audio.media.ffmpeg import WORK_PREFIX
from audio.models import (
    AudioChunk,
    AudioSession,
    BackgroundTask,
    DeletedSession,
    JournalFile,
    Recording,
    RecordingState,
    TaskState,
)
from audio.storage import paths
from audio.storage.lock import LOCK_NAME

OnProgress = Callable[[float], None]
_FINISHED = (RecordingState.READY, RecordingState.FAILED)
# The folders in `sessions/` have the first two characters of the sessions' ids as names.
_PREFIX_CHARACTERS = 2
# `derived/NAME`; a file at a deeper level is in the working folder of a task.
_DERIVED_FILE_PARTS = 2


@dataclass(slots=True)
class Surveyed:
    """The result for one journal (`name`), or for the whole storage."""

    name: str
    count: int = 0
    problems: Problems = field(default_factory=Problems)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "count": self.count,
            "problem_count": self.problems.count,
            "problems": [problem.as_dict() for problem in self.problems.first],
        }


def journal_names() -> list[str]:
    """Return the names of all journals that have a row or a file, in order."""
    there = {str(path.relative_to(paths.root())) for path in paths.journal_paths()}
    return sorted(there | set(JournalFile.objects.values_list("name", flat=True)))


def journal(name: str) -> Surveyed:
    """Count the chunks of a journal, and find its problems.

    A row is missing if a commit record names it and the table does not have it. A record that neither a commit nor a
    void names was in flight when its process ended, which is no problem.
    """
    found = Surveyed(name)
    _Journal(found).compare()
    return found


@dataclass(slots=True)
class _OpenRecord:
    """A chunk record that no commit or void has named yet. `sequence` is that of its row, or 0 if it has no row."""

    record: ScannedRecord
    sequence: int


class _Journal:
    """One pass over a journal: its records and its rows, side by side in the order of their offsets."""

    def __init__(self, found: Surveyed) -> None:
        self._found = found
        self._path = paths.root() / found.name
        self._row = JournalFile.objects.filter(name=found.name).first()
        self._rows = _rows_of(self._row.pk) if self._row else iter(())
        self._next: tuple[int, int] | None = next(self._rows, None)
        self._open_records: dict[int, _OpenRecord] = {}

    def compare(self) -> None:
        """Compare the whole journal with its rows."""
        if not self._path.exists():
            if self._next is not None and not self._was_removed():
                self._add("journal_missing", "The journal is missing, but rows refer to it.")
            return
        if self._row is None and not JournalFile.objects.filter(name=self._found.name).exists():
            self._add("orphan_journal", "No row refers to this journal.")
        for found in walk(self._path):
            match found:
                case ScannedRecord():
                    self._compare_record(found)
                case Damage(offset):
                    self._add("record_damaged", "No record begins where the previous one ends.", offset=offset)
        self._skip_rows_behind()

    def _was_removed(self) -> bool:
        """Whether the journal was removed by garbage collection, because recordings replace its chunks."""
        return JournalFile.objects.filter(name=self._found.name, removed_at__isnull=False).exists()

    def _add(self, code: str, detail: str, **where: Any) -> None:
        self._found.problems.add(Problem(code, detail, file_name=self._found.name, **where))

    def _compare_record(self, record: ScannedRecord) -> None:
        match record.header.type:
            case RecordType.CHUNK:
                self._take(record)
            case RecordType.COMMIT if record.intact:
                for entry in parse_commit(record.payload):
                    self._check_committed(entry.offset, entry.sequence)
            case RecordType.VOID if record.intact:
                for offset in parse_void(record.payload):
                    self._check_voided(offset)
            case _:
                if not record.intact:
                    self._add("record_damaged", "A record fails its CRC-32.", offset=record.offset)

    def _take(self, record: ScannedRecord) -> None:
        self._found.count += 1
        self._skip_rows_before(record.offset)
        sequence = 0
        if self._next is not None and self._next[0] == record.offset:
            sequence = self._next[1]
            self._next = next(self._rows, None)
            if not record.intact:
                self._report(record, "chunk_damaged", "A chunk fails its CRC-32.", sequence)
        self._open_records[record.offset] = _OpenRecord(replace(record, payload=b""), sequence)

    def _skip_rows_before(self, offset: int) -> None:
        """Skip rows whose offset is the start of no chunk."""
        while self._next is not None and self._next[0] < offset:
            self._check_place(*self._next)
            self._next = next(self._rows, None)

    def _skip_rows_behind(self) -> None:
        """Skip rows after the end of the file.

        A row whose record exists was inserted after the file was read to its end.
        """
        while self._next is not None and not self._check_place(*self._next):
            self._next = next(self._rows, None)

    def _check_place(self, offset: int, sequence: int) -> bool:
        """Whether there is a record at the offset of a row. A missing one is reported."""
        with JournalReader(paths.root()) as reader:
            is_there = reader.header(self._found.name, offset) is not None
        if not is_there:
            sentence = f"There is no record where chunk {sequence} of a session should be."
            self._add("record_missing", sentence, sequence=sequence, offset=offset)
        return is_there

    def _check_committed(self, offset: int, sequence: int) -> None:
        """Compare a chunk that a commit record names with its row."""
        chunk = self._open_records.pop(offset, None)
        if chunk is None or chunk.record.header.erased:
            return
        there = chunk.sequence or self._sequence_now(chunk.record, sequence)
        if not there and not DeletedSession.objects.filter(pk=chunk.record.header.session_id).exists():
            self._report(chunk.record, "row_missing", f"The row of chunk {sequence} is missing.", sequence)
        elif there and there != sequence:
            sentence = f"The journal says that this is chunk {sequence}, but its row says {there}."
            self._report(chunk.record, "record_contradicts", sentence, sequence)

    def _check_voided(self, offset: int) -> None:
        """Check that a chunk that a void record names has no row."""
        chunk = self._open_records.pop(offset, None)
        if chunk is not None and chunk.sequence:
            sentence = f"The journal says that this chunk was rejected, but it has the row {chunk.sequence}."
            self._report(chunk.record, "record_contradicts", sentence, chunk.sequence)

    def _sequence_now(self, record: ScannedRecord, sequence: int) -> int:
        """Return the current sequence of a chunk's row; 0 if there is none.

        The row of a copy of the chunk in another file counts too.
        """
        header = record.header
        copies = AudioChunk.objects.filter(session_id=header.session_id, sequence=sequence, crc32=header.payload_crc32)
        if copies.exists():
            return sequence
        rows = AudioChunk.objects.filter(journal__name=self._found.name, offset=record.offset)
        return rows.values_list("sequence", flat=True).first() or 0

    def _report(self, record: ScannedRecord, code: str, detail: str, sequence: int) -> None:
        session_id = str(record.header.session_id)
        self._add(code, detail, session_id=session_id, sequence=sequence, offset=record.offset)


def _rows_of(journal_id: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, sequence) of a journal's rows, in the order of their offsets."""
    for page in pages.in_pages(AudioChunk.objects.filter(journal_id=journal_id), "offset", "sequence"):
        yield from page


def orphans(on_progress: OnProgress = lambda _: None) -> Surveyed:
    """Count the files of all sessions; find files and folders that no row names, and rows whose file is missing.

    Files of unfinished recordings are not checked, because a run may be working on them.
    """
    found = Surveyed(paths.FOLDER)
    for number, folder in enumerate(folders := sorted((paths.root() / paths.FOLDER).glob("*")), start=1):
        is_prefix = folder.is_dir() and len(folder.name) == _PREFIX_CHARACTERS
        _look_at_folders(found, sorted(folder.iterdir()) if is_prefix else [folder])
        on_progress(number / len(folders))
    for name, query in _expected_files():
        if not (paths.root() / name).exists() and query.exists():
            found.problems.add(
                Problem("file_missing", "A row refers to this file, but it does not exist.", file_name=name)
            )
    return found


def _look_at_folders(found: Surveyed, folders: list[Path]) -> None:
    rest = iter(folders)
    while batch := list(islice(rest, pages.ROWS_PER_PAGE)):
        ids = {path: _session_id(path) for path in batch}
        states = _states([key for key in ids.values() if key is not None])
        for path, key in ids.items():
            if key not in states and path.exists() and (key is None or not _states([key])):
                _add_orphan(found, path, "No session owns this.")
            elif key is not None and states.get(key) in _FINISHED:
                _look_at_files(found, key, path)


def _session_id(path: Path) -> uuid.UUID | None:
    """Return the id of the session whose folder this is; None if it can't be the folder of a session."""
    try:
        key = uuid.UUID(path.name)
    except ValueError:
        return None
    return key if path.is_dir() and path == paths.folder(key) else None


def _states(keys: Sequence[uuid.UUID]) -> dict[uuid.UUID, str | None]:
    """Return the states of the recordings of the existing sessions; None for a session without a recording."""
    return dict(AudioSession.objects.filter(pk__in=keys).values_list("pk", "recording__state"))


def _look_at_files(found: Surveyed, session_id: uuid.UUID, folder: Path) -> None:
    """Find files of a finished session that no row names, unless a task is working on them.

    A journal of the session's own is checked with the other journals.
    """
    there = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".journal")
    files = {path for path in there if not _is_in_work(path.relative_to(folder))}
    found.count += len(files)
    if files <= _named_files(session_id, folder):
        return
    # The names are read once more, because a run may have added a file since.
    for path in sorted(files - _named_files(session_id, folder)):
        if path.exists() and _states([session_id]).get(session_id) in _FINISHED:
            _add_orphan(found, path, "No row refers to this file.")


def _is_in_work(path: Path) -> bool:
    """Whether a run is working on a file, or was when it died. The next run removes such files."""
    is_task = path.parts[0] == paths.DERIVED_FOLDER and len(path.parts) > _DERIVED_FILE_PARTS
    return is_task or path.parts[0].startswith(WORK_PREFIX)


def _named_files(session_id: uuid.UUID, folder: Path) -> set[Path]:
    files = {folder / LOCK_NAME}
    for recording in Recording.objects.filter(pk=session_id):
        files |= {paths.peaks_path(recording), *_named(recording.file_name, recording.master_name)}
    tasks = BackgroundTask.objects.filter(session_id=session_id, is_current=True)
    return files | set(_named(*tasks.values_list("file_name", flat=True)))


def _named(*names: str) -> Iterator[Path]:
    return (paths.root() / name for name in names if name)


def _add_orphan(found: Surveyed, path: Path, detail: str) -> None:
    found.problems.add(Problem("orphan", detail, file_name=str(path.relative_to(paths.root()))))


def _expected_files() -> Iterator[tuple[str, QuerySet[Any]]]:
    """Yield each file that a row needs, with a query that tells whether the row still needs it."""
    recordings = Recording.objects.filter(state__in=_FINISHED, is_local=True).exclude(file_name="")
    tasks = BackgroundTask.objects.filter(state=TaskState.COMPLETED, is_current=True).exclude(file_name="")
    for rows in (recordings, tasks):
        for page in pages.in_pages(rows, "pk", "file_name"):
            for key, name in page:
                yield name, rows.filter(pk=key, file_name=name)
