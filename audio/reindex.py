"""The database's rows again from the journals alone, for the day on which the database is lost.

Session records say what the sessions were, commit records which place each chunk had. A chunk that neither a commit
nor a void names was in flight when its process ended, and only the database knew whether it was taken. Where a later
connection of its source began to count tells; all others are kept, behind those of its file whose places are
known, and the session says that its order is `uncertain`.

Rows that are there are never touched. A session is inserted as `pending`, and only when all journals are read it gets
its number of chunks and its recording is asked for, in one transaction: a run that died is begun anew. Memory holds a
few numbers for each session and source, and the chunks that were in flight.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Max, Sum

from audio import dispatch
from audio.build import store, superseded
from audio.build.verify import Problem, Problems
from audio.journal.files import ScannedRecord, resumes_at, scan
from audio.journal.records import Committed, Header, RecordType, parse_commit, parse_session, parse_void
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile, Recording, Recovery, SessionStatus

OnProgress = Callable[[float], None]
_ROWS_PER_STATEMENT = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Reindexed:
    """What was brought back. `in_flight_chunks` are those of `chunks` that no commit record names, `refused_chunks`
    those that were in flight and certainly not taken; `known_sessions` have rows and were left alone."""

    journals: int = 0
    sessions: int = 0
    uncertain_sessions: int = 0
    known_sessions: int = 0
    chunks: int = 0
    in_flight_chunks: int = 0
    refused_chunks: int = 0
    problems: Problems = field(default_factory=Problems)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "problems"}
        problems = [problem.as_dict() for problem in self.problems.first]
        return {**counts, "problem_count": self.problems.count, "problems": problems}


def reindex(is_dry_run: bool = False, on_progress: OnProgress = lambda _: None) -> Reindexed:
    """Brings back every session that the journals know and the database does not; returns the counts.

    No server may take chunks meanwhile. A dry run writes nothing. `on_progress` is called with numbers from 0 to 1.
    """
    run = _Run(is_dry_run)
    paths = store.journal_paths()
    for number, path in enumerate(paths, start=1):
        run.read(path)
        on_progress(number / len(paths))
    run.finish()
    return run.done


@dataclass(slots=True)
class _Connection:
    """What the chunks of one epoch of a source tell: the number of the first one, and the source's count with the last
    one that a commit names."""

    first_number: int
    last_count: int = 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A chunk that no commit and no void names; `after` is the last sequence of its session that its file knows."""

    journal_id: int
    offset: int
    header: Header
    after: int


@dataclass(slots=True)
class _Session:
    """What is known of a session. `is_ours`: it is being brought back."""

    key: uuid.UUID
    is_ours: bool = False
    is_uncertain: bool = False
    chunks: int = 0
    descriptions: dict[int, dict[str, Any]] = field(default_factory=dict)
    source_ids: dict[int, int] = field(default_factory=dict)
    connections: dict[int, dict[int, _Connection]] = field(default_factory=dict)
    in_flight: list[_InFlight] = field(default_factory=list)
    has_begun: bool = False


class _Run:
    """One reading of all journals."""

    def __init__(self, is_dry_run: bool) -> None:
        self.is_dry_run = is_dry_run
        self.done = Reindexed()
        self._sessions: dict[uuid.UUID, _Session] = {}

    def read(self, path: Path) -> None:
        """Takes the next journal."""
        self.done.journals += 1
        journal = _Journal(self, path)
        start: int | None = 0
        while start is not None:
            end = start
            for record in scan(path, start):
                journal.take(record)
                end = record.end
            start = resumes_at(path, end)
            if start is not None and start > end:
                self.add_problem("record_damaged", "No record begins here.", file_name=journal.name, offset=end)
                journal.is_behind_damage = True
        journal.end()

    def add_problem(self, code: str, detail: str, **where: Any) -> None:
        """Notes what is wrong with the journals."""
        self.done.problems.add(Problem(code, detail, **where))

    def session(self, key: uuid.UUID) -> _Session:
        """Returns what is known of the session."""
        return self._sessions.setdefault(key, _Session(key))

    def begun(self, session: _Session, source_id: int) -> bool:
        """Whether chunks of this source of the session are brought back; inserts their rows if they are new."""
        if not session.has_begun:
            session.has_begun = True
            session.is_ours = self._begin(session)
        if session.is_ours and source_id not in session.source_ids:
            session.source_ids[source_id] = self._begin_source(session, source_id)
        return session.is_ours

    def _begin(self, session: _Session) -> bool:
        row = AudioSession.objects.filter(pk=session.key).first()
        if row is not None:
            self.done.known_sessions += row.recovered != Recovery.PENDING
            return row.recovered == Recovery.PENDING
        description = next(iter(session.descriptions.values()), None)
        try:
            row = _row_of(session.key, description or {})
        except (KeyError, ValueError, TypeError, ValidationError):
            sentence = "The journals do not say what this session was: its chunks are left where they are."
            self.add_problem("session_unknown", sentence, session_id=str(session.key))
            return False
        if not self.is_dry_run:
            row.save(force_insert=True)
        return True

    def _begin_source(self, session: _Session, source_id: int) -> int:
        name = session.descriptions.get(source_id, {}).get("source", f"source {source_id}")
        if self.is_dry_run:
            return 0
        return AudioSource.objects.get_or_create(session_id=session.key, name=name)[0].pk

    def finish(self) -> None:
        """All journals are read: gives the chunks that were in flight their places, and completes the sessions."""
        for session in self._sessions.values():
            if session.is_ours:
                self._finish(session)

    def _finish(self, session: _Session) -> None:
        taken = _taken(session)
        self.done.refused_chunks += len(session.in_flight) - len(taken)
        session.is_uncertain |= bool(taken)
        new = _without_those_there(session, taken)
        self.done.in_flight_chunks += len(new)
        if not self.is_dry_run:
            _insert(_placed(session, new))
            self._complete(session)
        self.done.sessions += 1
        self.done.chunks += session.chunks + len(new)
        self.done.uncertain_sessions += session.is_uncertain

    def _complete(self, session: _Session) -> None:
        totals = AudioChunk.objects.filter(session_id=session.key).aggregate(
            count=Count("pk"), size_bytes=Sum("size_bytes"), last=Max("sequence"), at=Max("received_at")
        )
        if totals["last"] != totals["count"]:
            session.is_uncertain = True
            sentence = f"{totals['last'] - totals['count']} of {totals['last']} chunks are in no journal."
            self.add_problem("chunks_lost", sentence, session_id=str(session.key))
            # They may be in the recording that was made before, which can't be made again.
            superseded.set_aside(session.key)
        store.forget_derived(session.key)
        store.delete_derived(session.key)
        with transaction.atomic():
            for source_id, key in session.source_ids.items():
                _complete_source(key, session.connections.get(source_id, {}))
            Recording.objects.get_or_create(session_id=session.key)
            AudioSession.objects.filter(pk=session.key, recovered=Recovery.PENDING).update(
                total_chunks=totals["last"],
                byte_count=totals["size_bytes"],
                last_chunk_at=totals["at"],
                end_time=totals["at"],
                recovered=Recovery.UNCERTAIN if session.is_uncertain else Recovery.EXACT,
            )
            dispatch.concatenate(session.key)


def _complete_source(key: int, connections: dict[int, _Connection]) -> None:
    """The counters of a source that has a name."""
    if connections:
        count = AudioChunk.objects.filter(source_id=key, session__sources=key).count()
        AudioSource.objects.filter(pk=key).update(epoch=max(connections), chunk_count=count)


class _Journal:
    """One journal, as far as it is read."""

    def __init__(self, run: _Run, path: Path) -> None:
        self.name = str(path.relative_to(store.root()))
        self.is_behind_damage = False
        self._run = run
        self._path = path
        self._id = 0
        self._unsettled: dict[int, ScannedRecord] = {}
        self._last: dict[uuid.UUID, int] = {}
        self._rows: list[AudioChunk] = []

    def take(self, record: ScannedRecord) -> None:
        """Takes the next record. One that was erased is not brought back."""
        if record.header.type is RecordType.CHUNK:
            self._take_chunk(record)
        elif not record.intact:
            self._run.add_problem("record_damaged", "It fails its CRC-32.", file_name=self.name, offset=record.offset)
        elif record.header.type is RecordType.SESSION:
            session = self._run.session(record.header.session_id)
            session.descriptions.setdefault(record.header.source_id, parse_session(record.payload))
        elif record.header.type is RecordType.COMMIT:
            for entry in parse_commit(record.payload):
                self._commit(entry)
        else:
            for offset in parse_void(record.payload):
                self._unsettled.pop(offset, None)

    def _take_chunk(self, record: ScannedRecord) -> None:
        header = record.header
        if header.erased:
            return
        self._unsettled[record.offset] = ScannedRecord(record.offset, header, b"", record.intact)
        if header.epoch:
            source = self._run.session(header.session_id).connections.setdefault(header.source_id, {})
            connection = source.setdefault(header.epoch, _Connection(header.number))
            connection.first_number = min(connection.first_number, header.number)

    def _commit(self, entry: Committed) -> None:
        record = self._unsettled.pop(entry.offset, None)
        if record is None:
            return
        header = record.header
        session = self._run.session(header.session_id)
        if not self._run.begun(session, header.source_id):
            return
        session.chunks += 1
        session.is_uncertain |= self.is_behind_damage
        self._last[session.key] = entry.sequence
        if header.epoch:
            connection = session.connections[header.source_id][header.epoch]
            connection.last_count = max(connection.last_count, entry.source_count)
        if not record.intact:
            where = {"session_id": str(session.key), "file_name": self.name, **entry._asdict()}
            where.pop("source_count")
            self._run.add_problem("chunk_damaged", "A chunk fails its CRC-32.", **where)
        if not self._run.is_dry_run:
            place = _InFlight(self._journal_id(), entry.offset, header, after=0)
            self._rows.append(_chunk(session, place, entry.sequence))
            if len(self._rows) >= _ROWS_PER_STATEMENT:
                self._flush()

    def _journal_id(self) -> int:
        if not self._id:
            defaults = {"process_id": _process_id(self._path)}
            row, _ = JournalFile.objects.get_or_create(name=self.name, defaults=defaults)
            self._id = row.pk
        return self._id

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        _insert(rows)

    def end(self) -> None:
        """The file has ended: what is not settled was in flight. A torn one was not even synced."""
        self._flush()
        for offset, record in self._unsettled.items():
            session = self._run.session(record.header.session_id)
            if record.intact and self._run.begun(session, record.header.source_id):
                journal_id = 0 if self._run.is_dry_run else self._journal_id()
                after = self._last.get(session.key, 0)
                session.in_flight.append(_InFlight(journal_id, offset, record.header, after))


def _process_id(path: Path) -> uuid.UUID:
    """Of the process that wrote a journal: the name begins with it."""
    try:
        return uuid.UUID(path.name.partition("-")[0])
    except ValueError:
        return uuid.UUID(int=0)


def _row_of(key: uuid.UUID, description: dict[str, Any]) -> AudioSession:
    """Takes what a session record says; returns the row, not saved. Raises what a wrong one makes it raise."""
    row = AudioSession(
        pk=key,
        status=SessionStatus.COMPLETED,
        recovered=Recovery.PENDING,
        user_id=description["user_id"],
        start_time=datetime.fromisoformat(description["start_time"]),
        chunk_mode=description["chunks"],
        undecided=description.get("undecided", []),
        **{name: description[name] for name in ("sample_rate", "channels", "format", "encoding")},
    )
    row.clean_fields()
    return row


def _chunk(session: _Session, place: _InFlight, sequence: int) -> AudioChunk:
    return AudioChunk(
        session_id=session.key,
        sequence=sequence,
        source_id=session.source_ids[place.header.source_id],
        journal_id=place.journal_id,
        offset=place.offset,
        size_bytes=place.header.length_bytes,
        crc32=place.header.payload_crc32,
        received_at=_received_at(place.header),
    )


def _received_at(header: Header) -> datetime:
    return _EPOCH + timedelta(microseconds=header.received_at_us)


def _insert(rows: Sequence[AudioChunk]) -> None:
    """Inserts the rows that are not there yet."""
    AudioChunk.objects.bulk_create(rows, batch_size=_ROWS_PER_STATEMENT, ignore_conflicts=True)


def _taken(session: _Session) -> list[_InFlight]:
    """The chunks in flight that were taken, or may have been, in the order in which they arrived."""
    kept: dict[tuple[int, int], int] = {}
    taken = []
    for chunk in sorted(session.in_flight, key=lambda chunk: chunk.header.number):
        source_id, epoch = chunk.header.source_id, chunk.header.epoch
        count = kept[source_id, epoch] = kept.get((source_id, epoch), 0) + 1
        most = _most_taken(session.connections[source_id], epoch) if epoch else None
        if most is None or count <= most:
            taken.append(chunk)
    return _by_arrival(taken)


def _most_taken(connections: dict[int, _Connection], epoch: int) -> int | None:
    """How many chunks of a connection were taken that no commit names; None if nothing tells.

    The next connection of a named source counts on from what was taken: its first number tells how many that are.
    """
    later = [number for number in connections if number > epoch]
    if not later:
        return None
    connection = connections[epoch]
    known = max(connection.last_count, connection.first_number - 1)
    return connections[min(later)].first_number - 1 - known


def _without_those_there(session: _Session, taken: Sequence[_InFlight]) -> list[_InFlight]:
    """Leaves out chunks that a commit names in another file, into which they were moved."""
    mine = AudioChunk.objects.filter(session_id=session.key)
    times = [_received_at(chunk.header) for chunk in taken]
    there = set(mine.filter(received_at__in=times).values_list("source_id", "received_at", "size_bytes", "crc32"))
    return [
        chunk
        for chunk, at in zip(taken, times, strict=True)
        if (session.source_ids[chunk.header.source_id], at, chunk.header.length_bytes, chunk.header.payload_crc32)
        not in there
    ]


def _by_arrival(chunks: Sequence[_InFlight]) -> list[_InFlight]:
    """In the order of their times, but never against the order of a file: clocks are set back at times."""
    latest: dict[int, int] = {}
    keyed = []
    for chunk in sorted(chunks, key=lambda chunk: (chunk.journal_id, chunk.offset)):
        at = latest[chunk.journal_id] = max(chunk.header.received_at_us, latest.get(chunk.journal_id, 0))
        keyed.append(((at, chunk.journal_id, chunk.offset), chunk))
    return [chunk for _, chunk in sorted(keyed, key=lambda pair: pair[0])]


def _placed(session: _Session, taken: Sequence[_InFlight]) -> list[AudioChunk]:
    """Gives each chunk the first place that is free behind the last one that its file knows."""
    gaps, last = _gaps(session.key)
    rows = []
    least: dict[int, int] = {}
    for chunk in taken:
        sequence = _take_gap(gaps, behind=max(chunk.after, least.get(chunk.journal_id, 0)))
        if not sequence:
            sequence = last = last + 1
        least[chunk.journal_id] = sequence
        rows.append(_chunk(session, chunk, sequence))
    return rows


def _gaps(session_id: uuid.UUID) -> tuple[list[tuple[int, int]], int]:
    """Returns the runs of places that no row has, first and last of each, and the last place that one has."""
    gaps, last = [], 0
    rows = AudioChunk.objects.filter(session_id=session_id).order_by("sequence").values_list("sequence", flat=True)
    while page := list(rows.filter(sequence__gt=last)[:_ROWS_PER_STATEMENT]):
        for sequence in page:
            if sequence > last + 1:
                gaps.append((last + 1, sequence - 1))
            last = sequence
    return gaps, last


def _take_gap(gaps: list[tuple[int, int]], behind: int) -> int:
    """Takes the first free place behind another out of the runs; returns it, 0 if there is none."""
    for index, (first, last) in enumerate(gaps):
        place = max(first, behind + 1)
        if place <= last:
            gaps[index : index + 1] = [run for run in ((first, place - 1), (place + 1, last)) if run[0] <= run[1]]
            return place
    return 0
