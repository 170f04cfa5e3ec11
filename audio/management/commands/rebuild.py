"""`manage.py rebuild SESSION`: makes the recording of a closed session anew from its chunks."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audio import dispatch, ingest
from audio.build import concatenate
from audio.errors import ChunksReleased, InvalidSessionId
from audio.models import AudioSession


class Command(BaseCommand):
    """Forgets the recording of a session and asks the worker for another."""

    help = "Makes the recording of a closed session anew from its chunks, which are not touched."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which session."""
        parser.add_argument("session", metavar="SESSION", help="the session's id, a UUID")

    def handle(self, *args: Any, **options: Any) -> None:
        """Resets the recording and asks for it. Raises CommandError for an unknown, open or empty session, and for one
        whose chunks were released."""
        session = _closed_session(options["session"])
        try:
            concatenate.rebuild(session.pk)
        except ChunksReleased as error:
            raise CommandError(f"Session {session.pk}: {error.detail}") from None
        dispatch.concatenate(session.pk)
        self.stdout.write(f"The recording of {session.pk} is asked for; a worker makes it from {_counted(session)}.")


def _closed_session(text: str) -> AudioSession:
    try:
        session_id = ingest.parse_session_id(text)
    except InvalidSessionId as error:
        raise CommandError(f"{text!r} is no id. {error.detail}") from None
    session = AudioSession.objects.filter(pk=session_id).first()
    if session is None:
        raise CommandError(f"There is no session {session_id}.")
    if session.is_open:
        raise CommandError(f"Session {session_id} is still {session.status}. Close it first.")
    if not session.total_chunks:
        raise CommandError(f"Session {session_id} has no chunks: there is nothing to make a recording from.")
    return session


def _counted(session: AudioSession) -> str:
    return "1 chunk" if session.total_chunks == 1 else f"{session.total_chunks} chunks"
