"""The completion of the sessions, after all journals have been read."""

import contextlib

from django.db import transaction
from django.db.models import Count, Max, Sum

from audio import dispatch
from audio.assembly import superseded
from audio.assembly.rebuild import rebuild
from audio.errors import ChunksReleasedError
from audio.integrity.reindex.outcomes import accepted
from audio.integrity.reindex.rows import (
    ROWS_PER_STATEMENT,
    complete_source,
    in_flight_rows,
    insert,
    insert_counted,
    without_moved,
)
from audio.integrity.reindex.sessions import Sessions
from audio.integrity.reindex.state import JournaledSession
from audio.models import AudioChunk, AudioSession, DeletedSession, Recording, RecordingState, Recovery
from audio.storage import derived, paths


class Completion:
    """The last step of a run: the chunks in flight, the counters of the sessions, and their recordings."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._result = sessions.result
        self._is_dry_run = sessions.is_dry_run

    def complete_all(self) -> None:
        """Give the chunks in flight their sequences, and complete the sessions."""
        # A database that lacks committed chunks does not know the outcome of those in flight either.
        is_older = any(session.chunks for session in self._sessions)
        for session in self._sessions:
            self._report_unreadable(session)
            if session.is_deleted:
                self._forget(session)
            elif session.is_restored:
                self._complete(session)
            elif session.is_known and is_older:
                self._extend(session)
            else:
                self._result.known_sessions += session.is_known
        if not self._is_dry_run:
            self._replace_missing_recordings()

    def _report_unreadable(self, session: JournaledSession) -> None:
        """Report damaged chunks that may have been acknowledged."""
        if session.is_deleted:
            return
        for chunk in session.unreadable:
            if chunk.is_new or not session.is_known:
                session.is_uncertain = True
                where = {"session_id": str(session.key), "file_name": chunk.file_name, "offset": chunk.offset}
                sentence = "A chunk that may have been acknowledged fails its CRC-32. It is not restored."
                self._sessions.add_problem("chunk_damaged", sentence, **where)

    def _forget(self, session: JournaledSession) -> None:
        """Remove rows of a deleted session that were inserted before a journal told the deletion."""
        self._result.deleted_sessions += 1
        if session.is_restored and not self._is_dry_run:
            AudioChunk.objects.filter(session_id=session.key).delete()
            AudioSession.objects.filter(pk=session.key, recovered=Recovery.PENDING).delete()
            DeletedSession.objects.get_or_create(pk=session.key)

    def _complete(self, session: JournaledSession) -> None:
        """Add the chunks that were in flight to a restored session, and complete it."""
        taken = accepted(session)
        self._result.rejected_chunks += len(session.in_flight) - len(taken)
        session.is_uncertain |= bool(taken)
        new = without_moved(session, taken)
        self._result.in_flight_chunks += len(new)
        if not self._is_dry_run:
            insert(in_flight_rows(session, new))
            self._complete_rows(session)
        self._result.sessions += 1
        self._result.chunks += session.chunks + len(new)
        self._result.uncertain_sessions += session.is_uncertain

    def _complete_rows(self, session: JournaledSession) -> None:
        """Set the counters of a restored session and of its sources, and enqueue its recording."""
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

    def _extend(self, session: JournaledSession) -> None:
        """Add chunks that were in flight to a session that the database knows, after its other chunks."""
        taken = accepted(session)
        self._result.rejected_chunks += len(session.in_flight) - len(taken)
        if not (session.chunks or taken):
            self._result.known_sessions += 1
            return
        session.is_uncertain |= bool(taken)
        if not self._is_dry_run:
            for chunk in taken:
                self._sessions.source_key(session, chunk.header.source_id)
            taken = without_moved(session, taken)
            insert_counted(session, in_flight_rows(session, taken))
            self._rebuild(session)
        self._result.in_flight_chunks += len(taken)
        self._result.chunks += session.chunks + len(taken)
        self._result.extended_sessions += 1
        self._result.uncertain_sessions += session.is_uncertain

    def _rebuild(self, session: JournaledSession) -> None:
        """Enqueue the recording of a session that has got more chunks."""
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
            self._sessions.add_problem("chunks_lost", sentence, session_id=str(session.key))

    def _replace_missing_recordings(self) -> None:
        """Enqueue recordings whose file is gone.

        An older backup names such a file if the recording was rebuilt after it.
        """
        keys = [session.key for session in self._sessions if session.is_known]
        for start in range(0, len(keys), ROWS_PER_STATEMENT):
            batch = Recording.objects.here().filter(pk__in=keys[start : start + ROWS_PER_STATEMENT])
            for key, name in batch.filter(rebuild_requested_at=None).values_list("pk", "file_name"):
                if not (paths.root() / name).exists():
                    with contextlib.suppress(ChunksReleasedError):  # it can't be rebuilt; `verify` reports it
                        rebuild(key)
                        dispatch.concatenate(key)
