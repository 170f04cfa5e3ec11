"""The sessions of a run: their state, and the rows of those that are restored."""

import uuid
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from audio import ingest
from audio.errors import InvalidParameterError
from audio.integrity.reindex.result import Reindexed
from audio.integrity.reindex.rows import session_row
from audio.integrity.reindex.state import JournaledSession
from audio.integrity.verify import Problem
from audio.models import AudioSession, AudioSource, DeletedSession, Marker, Project, Recovery
from audio.storage import paths, session_file


class Sessions:
    """All sessions that the journals have named so far, and the result of the run.

    Attributes:
        is_dry_run: Whether nothing is written.
        result: The counts and the problems so far.
    """

    def __init__(self, is_dry_run: bool) -> None:
        self.is_dry_run = is_dry_run
        self.result = Reindexed()
        self._by_key: dict[uuid.UUID, JournaledSession] = {}

    def __iter__(self) -> Iterator[JournaledSession]:
        return iter(self._by_key.values())

    def add_problem(self, code: str, detail: str, **where: Any) -> None:
        """Add a problem to the result."""
        self.result.problems.add(Problem(code, detail, **where))

    def get(self, key: uuid.UUID) -> JournaledSession:
        """Return the state of the session."""
        return self._by_key.setdefault(key, JournaledSession(key))

    def begin(self, session: JournaledSession, source_id: int) -> bool:
        """Insert the rows of a session and a source if they are restored and not inserted yet.

        Returns:
            Whether chunks of the session are restored.
        """
        if not session.has_begun:
            session.has_begun = True
            session.is_restored = self._begin(session)
        if session.is_restored:
            self.source_key(session, source_id)
        return session.is_restored or session.is_known

    def _begin(self, session: JournaledSession) -> bool:
        """Find out what the database knows of a session; return whether it is restored."""
        session.is_deleted |= DeletedSession.objects.filter(pk=session.key).exists()
        row = AudioSession.objects.filter(pk=session.key).first()
        if row is not None:
            session.is_known = row.recovered != Recovery.PENDING and not session.is_deleted
            return row.recovered == Recovery.PENDING
        if session.is_deleted:
            return False
        description = next(iter(session.descriptions.values()), {})
        try:
            row = session_row(session.key, description | self._changed_description(session.key))
        except (KeyError, ValueError, TypeError, AttributeError, ValidationError, InvalidParameterError):
            sentence = "The journals do not describe this session. Its chunks are left where they are."
            self.add_problem("session_unknown", sentence, session_id=str(session.key))
            return False
        if not self.is_dry_run:
            with transaction.atomic():
                # A lost project comes back without its members and keys.
                row.project = Project.objects.get_or_create(name=row.project.name)[0]
                row.save(force_insert=True)
                ingest.index_metadata(row)
                Marker.objects.bulk_create(self._markers(session.key))
        return True

    def _markers(self, key: uuid.UUID) -> list[Marker]:
        """Return the markers of a restored session, not saved. Assembly computes their positions again."""
        try:
            return ingest.described_markers(key, session_file.read(key, session_file.MARKERS_NAME))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, InvalidParameterError):
            name = f"{paths.folder_name(key)}/{session_file.MARKERS_NAME}"
            sentence = "The file does not describe markers. They are left out."
            self.add_problem("record_damaged", sentence, session_id=str(key), file_name=name)
            return []

    def _changed_description(self, key: uuid.UUID) -> dict[str, Any]:
        """Return the description of the last change of the session's details; empty if there was no change."""
        try:
            return session_file.read(key)
        except ValueError:
            name = f"{paths.folder_name(key)}/{session_file.NAME}"
            self.add_problem("record_damaged", "The file is not JSON.", session_id=str(key), file_name=name)
            return {}

    def source_key(self, session: JournaledSession, source_id: int) -> int:
        """Return the key of a source, whose row is inserted if it is new."""
        if source_id not in session.source_ids:
            session.source_ids[source_id] = self._new_source_key(session, source_id)
        return session.source_ids[source_id]

    def _new_source_key(self, session: JournaledSession, source_id: int) -> int:
        name = session.descriptions.get(source_id, {}).get("source", f"source {source_id}")
        if self.is_dry_run:
            return 0
        return AudioSource.objects.get_or_create(session_id=session.key, name=name)[0].pk
