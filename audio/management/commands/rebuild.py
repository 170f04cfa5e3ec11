"""`manage.py rebuild SESSION`: rebuild the recordings of closed sessions from their chunks.

Exit code 0: they are enqueued or, with --wait, ready; 1: some of them failed; 2: wrong arguments.
"""

import time
import uuid
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from audio import dispatch
from audio.assembly import chunks
from audio.assembly.rebuild import rebuild
from audio.errors import ChunksReleasedError
from audio.management.arguments import BAD_ARGUMENTS, Progress, counted, find_sessions, json_line
from audio.management.examples import ExampleCommand
from audio.models import AudioSession, Recording, RecordingState

_POLL_SECONDS = 0.5
_FINAL = (RecordingState.READY, RecordingState.FAILED)


class Command(ExampleCommand):
    """Enqueue the rebuild of recordings. A ready recording is served until the new one is complete."""

    help = "Rebuilds the recordings of closed sessions from their chunks. The chunks are not changed."
    examples = ("--wait 123e4567-e89b-42d3-a456-426614174000", "--failed")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the sessions and the options."""
        parser.add_argument("sessions", metavar="SESSION", nargs="*", help="the id of a session (a UUID)")
        parser.add_argument("--failed", action="store_true", help="rebuild every failed recording")
        parser.add_argument("--wait", action="store_true", help="wait until the recordings are made")
        parser.add_argument("--json", action="store_true", help="print one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Enqueue the rebuilds, and wait for them if that is requested.

        Raises:
            CommandError: Before anything is done: a session is unknown, open or empty, or its chunks were deleted. With
                --wait: a rebuild failed.
        """
        found = find_sessions(options["sessions"])
        if options["failed"]:
            found = list(AudioSession.objects.filter(recording__state=RecordingState.FAILED).order_by("start_time"))
        elif not found:
            raise CommandError("Name sessions by their ids, or use --failed.", returncode=BAD_ARGUMENTS)
        for session in found:
            _require_chunks(session)
        for session in found:
            rebuild(session.pk)
            dispatch.concatenate(session.pk)
            if not options["wait"]:
                self._tell_enqueued(session, options["json"])
        if options["wait"]:
            self._wait(found, options["json"])

    def _tell_enqueued(self, session: AudioSession, is_json: bool) -> None:
        those = counted(session.total_chunks, "chunk")
        sentence = f"The rebuild of {session.pk} from {those} was enqueued."
        state = Recording.objects.get(pk=session.pk).state
        facts = {"session_id": session.pk, "state": state, "total_chunks": session.total_chunks}
        self.stdout.write(json_line(facts) if is_json else sentence)

    def _wait(self, found: Sequence[AudioSession], is_json: bool) -> None:
        progress = Progress()
        waiting: set[uuid.UUID] = {session.pk for session in found}
        failed = 0
        while waiting:
            rows = list(Recording.objects.filter(pk__in=waiting))
            for recording in rows:
                if recording.state in _FINAL and recording.rebuild_requested_at is None:
                    progress.clear()
                    waiting.discard(recording.pk)
                    failed += bool(recording.error_code or recording.rebuild_error_code)
                    self._tell_made(recording, is_json)
            waiting &= {recording.pk for recording in rows}
            begun = sum(recording.progress for recording in rows if recording.pk in waiting)
            progress("recordings", (len(found) - len(waiting) + begun) / len(found))
            time.sleep(_POLL_SECONDS if waiting else 0)
        progress.clear()
        if failed:
            raise CommandError(f"{counted(failed, 'recording')} of {len(found)} failed.")

    def _tell_made(self, recording: Recording, is_json: bool) -> None:
        facts = {
            "session_id": recording.pk,
            "state": recording.state,
            "size_bytes": recording.size_bytes,
            "error": recording.error_code or recording.rebuild_error_code or None,
        }
        self.stdout.write(json_line(facts) if is_json else _sentence(recording))


def _sentence(recording: Recording) -> str:
    if recording.rebuild_error_detail:
        return f"The rebuild of {recording.pk} failed, and its recording is unchanged: {recording.rebuild_error_detail}"
    reason = f": {recording.error_detail}" if recording.error_detail else "."
    return f"The recording of {recording.pk} is {recording.state}{reason}"


def _require_chunks(session: AudioSession) -> None:
    if session.is_open:
        raise CommandError(f"Session {session.pk} is {session.status}. Close it first.")
    if not session.total_chunks:
        raise CommandError(f"Session {session.pk} has no chunks.")
    if chunks.are_released(session.pk):
        raise CommandError(f"Session {session.pk}: {ChunksReleasedError().detail}")
