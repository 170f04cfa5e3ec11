"""One pass over all journals, and the completion of the sessions that were found in them."""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Max, Sum

from audio import dispatch, ingest
from audio.assembly import superseded
from audio.assembly.rebuild import rebuild
from audio.errors import ChunksReleasedError, InvalidParameterError
from audio.integrity.reindex.outcomes import accepted
from audio.integrity.reindex.result import Reindexed
from audio.integrity.reindex.rows import (
    ROWS_PER_STATEMENT,
    chunk_row,
    complete_source,
    identities,
    identity,
    in_flight_rows,
    insert,
    insert_counted,
    session_row,
    without_moved,
)
from audio.integrity.reindex.state import (
    CommittedChunk,
    ConnectionCounts,
    InFlightChunk,
    JournaledSession,
    UnreadableChunk,
)
from audio.integrity.verify import Problem
from audio.journal.files import Damage, ScannedRecord, walk
from audio.journal.records import Committed, RecordType, parse_commit, parse_session, parse_void
from audio.models import (
    AudioChunk,
    AudioSession,
    AudioSource,
    DeletedSession,
    JournalFile,
    Marker,
    Project,
    Recording,
    RecordingState,
    Recovery,
)
from audio.storage import derived, paths, session_file

OnProgress = Callable[[float], None]


def reindex(is_dry_run: bool = False, on_progress: OnProgress = lambda _: None) -> Reindexed:
    """Restore every session and chunk that the journals know and the database does not, and return the counts.

    No server may take chunks meanwhile.

    Args:
        is_dry_run: Whether to write nothing.
        on_progress: Called with the progress, from 0 to 1.
    """
    run = _Run(is_dry_run)
    journals = paths.journal_paths()
    for number, path in enumerate(journals, start=1):
        run.read(path)
        on_progress(number / len(journals))
    run.finish()
    return run.done


class _Run:
    """One pass over all journals."""

    def __init__(self, is_dry_run: bool) -> None:
        self.is_dry_run = is_dry_run
        self.done = Reindexed()
        self._sessions: dict[uuid.UUID, JournaledSession] = {}

    def read(self, path: Path) -> None:
        """Read the next journal."""
        self.done.journals += 1
        journal = _Journal(self, path)
        for found in walk(path):
            match found:
                case ScannedRecord():
                    journal.take(found)
                case Damage(offset):
                    where = {"file_name": journal.name, "offset": offset}
                    self.add_problem("record_damaged", "No record begins here.", **where)
                    journal.is_behind_damage = True
        journal.end()

    def add_problem(self, code: str, detail: str, **where: Any) -> None:
        """Add a problem of the journals."""
        self.done.problems.add(Problem(code, detail, **where))

    def session(self, key: uuid.UUID) -> JournaledSession:
        """Return what is known of the session."""
        return self._sessions.setdefault(key, JournaledSession(key))

    def begun(self, session: JournaledSession, source_id: int) -> bool:
        """Return whether chunks of this source are restored. New rows of the session and the source are inserted."""
        if not session.has_begun:
            session.has_begun = True
            session.is_restored = self._begin(session)
        if session.is_restored:
            self.source(session, source_id)
        return session.is_restored or session.is_known

    def _begin(self, session: JournaledSession) -> bool:
        session.is_deleted |= DeletedSession.objects.filter(pk=session.key).exists()
        row = AudioSession.objects.filter(pk=session.key).first()
        if row is not None:
            session.is_known = row.recovered != Recovery.PENDING and not session.is_deleted
            return row.recovered == Recovery.PENDING
        if session.is_deleted:
            return False
        description = next(iter(session.descriptions.values()), {})
        try:
            row = session_row(session.key, description | self._changed(session.key))
        except (KeyError, ValueError, TypeError, AttributeError, ValidationError, InvalidParameterError):
            sentence = "The journals do not describe this session. Its chunks are left where they are."
            self.add_problem("session_unknown", sentence, session_id=str(session.key))
            return False
        if not self.is_dry_run:
            with transaction.atomic():
                row.project = Project.objects.get_or_create(name=row.project.name)[0]
                row.save(force_insert=True)
                ingest.index_metadata(row)
                Marker.objects.bulk_create(self._markers(session.key))
        return True

    def _markers(self, key: uuid.UUID) -> list[Marker]:
        """Return the markers of a session that comes back, not saved. Assembly gives them their positions again."""
        try:
            return ingest.described_markers(key, session_file.read(key, session_file.MARKERS_NAME))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, InvalidParameterError):
            name = f"{paths.folder_name(key)}/{session_file.MARKERS_NAME}"
            sentence = "The file does not describe markers. They are left out."
            self.add_problem("record_damaged", sentence, session_id=str(key), file_name=name)
            return []

    def _changed(self, key: uuid.UUID) -> dict[str, Any]:
        """Return how the session was described when its details were last changed; nothing if they never were."""
        try:
            return session_file.read(key)
        except ValueError:
            name = f"{paths.folder_name(key)}/{session_file.NAME}"
            self.add_problem("record_damaged", "The file is not JSON.", session_id=str(key), file_name=name)
            return {}

    def source(self, session: JournaledSession, source_id: int) -> int:
        """Return the key of a source, whose row is inserted if it is new."""
        if source_id not in session.source_ids:
            session.source_ids[source_id] = self._begin_source(session, source_id)
        return session.source_ids[source_id]

    def _begin_source(self, session: JournaledSession, source_id: int) -> int:
        name = session.descriptions.get(source_id, {}).get("source", f"source {source_id}")
        if self.is_dry_run:
            return 0
        return AudioSource.objects.get_or_create(session_id=session.key, name=name)[0].pk

    def finish(self) -> None:
        """Give the chunks in flight their sequences, and complete the sessions, after all journals have been read."""
        # A database that lacks committed chunks does not know the outcome of those in flight either.
        is_older = any(session.chunks for session in self._sessions.values())
        for session in self._sessions.values():
            self._report_unreadable(session)
            if session.is_deleted:
                self._forget(session)
            elif session.is_restored:
                self._finish(session)
            elif session.is_known and is_older:
                self._extend(session)
            else:
                self.done.known_sessions += session.is_known
        if not self.is_dry_run:
            self._replace_missing_recordings()

    def _report_unreadable(self, session: JournaledSession) -> None:
        """Report damaged chunks of which nothing tells whether they were acknowledged."""
        if session.is_deleted:
            return
        for chunk in session.unreadable:
            if chunk.is_new or not session.is_known:
                session.is_uncertain = True
                where = {"session_id": str(session.key), "file_name": chunk.file_name, "offset": chunk.offset}
                sentence = "A chunk that may have been acknowledged fails its CRC-32. It is not restored."
                self.add_problem("chunk_damaged", sentence, **where)

    def _replace_missing_recordings(self) -> None:
        """Enqueue recordings whose file is gone.

        An older backup names such a file if the recording was rebuilt since.
        """
        keys = [session.key for session in self._sessions.values() if session.is_known]
        for start in range(0, len(keys), ROWS_PER_STATEMENT):
            batch = Recording.objects.here().filter(pk__in=keys[start : start + ROWS_PER_STATEMENT])
            for key, name in batch.filter(rebuild_requested_at=None).values_list("pk", "file_name"):
                if not (paths.root() / name).exists():
                    with contextlib.suppress(ChunksReleasedError):  # it can't be rebuilt; `verify` reports it
                        rebuild(key)
                        dispatch.concatenate(key)

    def _forget(self, session: JournaledSession) -> None:
        """Remove what was restored of a deleted session before the reading noticed the deletion."""
        self.done.deleted_sessions += 1
        if session.is_restored and not self.is_dry_run:
            AudioChunk.objects.filter(session_id=session.key).delete()
            AudioSession.objects.filter(pk=session.key, recovered=Recovery.PENDING).delete()
            DeletedSession.objects.get_or_create(pk=session.key)

    def _extend(self, session: JournaledSession) -> None:
        """Add chunks that were in flight to a session that the database knows, behind its other chunks."""
        taken = accepted(session)
        self.done.rejected_chunks += len(session.in_flight) - len(taken)
        if not (session.chunks or taken):
            self.done.known_sessions += 1
            return
        session.is_uncertain |= bool(taken)
        if not self.is_dry_run:
            for chunk in taken:
                self.source(session, chunk.header.source_id)
            taken = without_moved(session, taken)
            insert_counted(session, in_flight_rows(session, taken))
            self._conclude(session)
        self.done.in_flight_chunks += len(taken)
        self.done.chunks += session.chunks + len(taken)
        self.done.extended_sessions += 1
        self.done.uncertain_sessions += session.is_uncertain

    def _conclude(self, session: JournaledSession) -> None:
        totals = AudioChunk.objects.filter(session_id=session.key).aggregate(count=Count("pk"), last=Max("sequence"))
        self._report_lost(session, totals["last"] - totals["count"], totals["last"])
        if session.is_uncertain:
            AudioSession.objects.filter(pk=session.key).update(recovered=Recovery.UNCERTAIN)
        if Recording.objects.filter(pk=session.key, state__in=[RecordingState.READY, RecordingState.FAILED]).exists():
            with contextlib.suppress(ChunksReleasedError):  # the recording stays, and a problem reports what it lacks
                rebuild(session.key)
        dispatch.concatenate(session.key)

    def _report_lost(self, session: JournaledSession, lost: int, total: int) -> None:
        if lost:
            session.is_uncertain = True
            sentence = f"{lost} of {total} chunks are in no journal."
            self.add_problem("chunks_lost", sentence, session_id=str(session.key))

    def _finish(self, session: JournaledSession) -> None:
        taken = accepted(session)
        self.done.rejected_chunks += len(session.in_flight) - len(taken)
        session.is_uncertain |= bool(taken)
        new = without_moved(session, taken)
        self.done.in_flight_chunks += len(new)
        if not self.is_dry_run:
            insert(in_flight_rows(session, new))
            self._complete(session)
        self.done.sessions += 1
        self.done.chunks += session.chunks + len(new)
        self.done.uncertain_sessions += session.is_uncertain

    def _complete(self, session: JournaledSession) -> None:
        totals = AudioChunk.objects.filter(session_id=session.key).aggregate(
            count=Count("pk"), size_bytes=Sum("size_bytes"), last=Max("sequence"), at=Max("received_at")
        )
        self._report_lost(session, totals["last"] - totals["count"], totals["last"])
        if totals["last"] != totals["count"]:
            # The lost chunks may be in the earlier recording, which can't be made again.
            superseded.set_aside(session.key)
        derived.forget(session.key)
        derived.delete(session.key)
        with transaction.atomic():
            for source_id, key in session.source_ids.items():
                complete_source(key, session.connections.get(source_id, {}))
            Recording.objects.get_or_create(session_id=session.key)
            AudioSession.objects.filter(pk=session.key, recovered=Recovery.PENDING).update(
                total_chunks=totals["last"],
                byte_count=totals["size_bytes"],
                last_chunk_at=totals["at"],
                end_time=totals["at"],
                recovered=Recovery.UNCERTAIN if session.is_uncertain else Recovery.EXACT,
            )
            dispatch.concatenate(session.key)


class _Journal:
    """One journal, as far as it has been read."""

    def __init__(self, run: _Run, path: Path) -> None:
        self.name = str(path.relative_to(paths.root()))
        self.is_behind_damage = False
        self._run = run
        self._path = path
        self._id = 0
        self._open_records: dict[int, ScannedRecord] = {}
        self._last: dict[uuid.UUID, int] = {}
        rows = AudioChunk.objects.filter(journal__name=self.name)
        # The offset of the last chunk that the database knew before.
        self._last_known: int = rows.aggregate(last=Max("offset", default=-1))["last"]
        self._places: list[CommittedChunk] = []

    def take(self, record: ScannedRecord) -> None:
        """Process the next record. An erased chunk is not restored."""
        if record.header.type is RecordType.CHUNK:
            self._take_chunk(record)
        elif not record.intact:
            self._run.add_problem(
                "record_damaged", "A record fails its CRC-32.", file_name=self.name, offset=record.offset
            )
        elif record.header.type is RecordType.SESSION:
            session = self._run.session(record.header.session_id)
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
            source = self._run.session(header.session_id).connections.setdefault(header.source_id, {})
            connection = source.setdefault(header.epoch, ConnectionCounts(header.number))
            connection.first_number = min(connection.first_number, header.number)

    def _commit(self, entry: Committed) -> None:
        record = self._open_records.pop(entry.offset, None)
        if record is None:
            return
        header = record.header
        session = self._run.session(header.session_id)
        if header.erased:
            # A committed chunk was erased: its session was deleted, unless the chunk was moved to another file.
            session.is_deleted |= not header.moved
            return
        if not self._run.begun(session, header.source_id):
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
            self._run.add_problem("chunk_damaged", "A chunk fails its CRC-32.", **where)
        self._places.append(CommittedChunk(session, entry.offset, entry.sequence, header))
        if len(self._places) >= ROWS_PER_STATEMENT:
            self._flush()

    def _journal_id(self) -> int:
        if not self._id:
            defaults = {"process_id": _process_id(self._path)}
            row, _ = JournalFile.objects.get_or_create(name=self.name, defaults=defaults)
            self._id = row.pk
        return self._id

    def _flush(self) -> None:
        """Insert the missing rows, and report chunks whose sequence another chunk has."""
        places, self._places = self._without_rows(self._places), []
        if not self._run.is_dry_run and (restored := [place for place in places if place.session.is_restored]):
            insert([self._row(place) for place in restored])
            self._report_duplicates(self._without_rows(restored))
        others = sorted((place for place in places if place.session.is_known), key=_session_key)
        for _, group in itertools.groupby(others, key=_session_key):
            self._extend(list(group))

    def _without_rows(self, places: Sequence["CommittedChunk"]) -> list["CommittedChunk"]:
        rows = AudioChunk.objects.filter(journal__name=self.name, offset__in=[place.offset for place in places])
        there = set(rows.values_list("offset", flat=True))
        return [place for place in places if place.offset not in there]

    def _row(self, place: "CommittedChunk") -> AudioChunk:
        self._run.source(place.session, place.header.source_id)
        return chunk_row(place.session, place.header, self._journal_id(), place.offset, place.sequence)

    def _extend(self, places: Sequence["CommittedChunk"]) -> None:
        """Add chunks to a session that the database knows."""
        session = places[0].session
        there = identities(session, [place.sequence for place in places])
        new = {place.sequence: place for place in reversed(places) if place.sequence not in there}
        self._report_duplicates([place for place in places if new.get(place.sequence) is not place])
        session.chunks += len(new)
        session.is_uncertain |= bool(new) and self.is_behind_damage
        if new and not self._run.is_dry_run:
            insert_counted(session, [self._row(place) for place in new.values()])

    def _report_duplicates(self, places: Sequence["CommittedChunk"]) -> None:
        """Report those of these chunks whose sequence another chunk has. A moved chunk is not another one."""
        for place in places:
            other = identities(place.session, [place.sequence]).get(place.sequence)
            if other is not None and other != identity(place.header):
                place.session.is_uncertain = True
                sentence = f"Another chunk of the session has the sequence {place.sequence}."
                where = {"session_id": str(place.session.key), "sequence": place.sequence, "offset": place.offset}
                self._run.add_problem("place_taken", sentence, file_name=self.name, **where)

    def end(self) -> None:
        """Collect the chunks in flight at the end of the file. An incomplete one was never synced, and is no record."""
        self._flush()
        for offset, record in self._open_records.items():
            session = self._run.session(record.header.session_id)
            if not record.intact:
                session.unreadable.append(UnreadableChunk(self.name, offset, offset > self._last_known))
            elif (
                not record.header.erased
                and self._run.begun(session, record.header.source_id)
                and not self._is_outcome_known(session, offset)
            ):
                journal_id = 0 if self._run.is_dry_run else self._journal_id()
                after = self._last.get(session.key, 0)
                session.in_flight.append(InFlightChunk(journal_id, offset, record.header, after))

    def _is_outcome_known(self, session: JournaledSession, offset: int) -> bool:
        """Whether the database knows the outcome of a chunk that no commit names.

        The rows of a file are inserted in its order. So the database knows it if it had the row of that chunk, or of a
        later one.
        """
        return session.is_known and offset <= self._last_known


def _session_key(place: CommittedChunk) -> uuid.UUID:
    return place.session.key


def _process_id(path: Path) -> uuid.UUID:
    """Return the id of the process that wrote a journal, with which the file's name begins."""
    try:
        return uuid.UUID(path.name.partition("-")[0])
    except ValueError:
        return uuid.UUID(int=0)
