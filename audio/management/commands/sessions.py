"""`manage.py sessions`: lists sessions, shows, closes, deletes and exports them.

Exit code 0: done; 1: some of it could not be done; 2: wrong arguments.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audio import ingest, upkeep
from audio.api.filters import SessionFilter
from audio.api.queries import find_session, sessions
from audio.api.serializers import SessionSerializer
from audio.build.export import export
from audio.errors import AudioError
from audio.management.arguments import BAD_ARGUMENTS, Progress, counted, find_sessions, json_line
from audio.media.plan import TARGETS
from audio.models import AudioSession

_LISTED = 50
_LISTED_AT_MOST = 2**31 - 1
_FILTERS = ("status", "user_id", "format", "started_after", "started_before")


class Command(BaseCommand):
    """One word says what to do with which sessions."""

    help = "Lists, shows, closes, deletes or exports sessions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do, and with which sessions."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listing = actions.add_parser("list", help="list sessions, newest first; the filters are those of REST")
        for name in _FILTERS:
            listing.add_argument(f"--{name.replace('_', '-')}")
        listing.add_argument("--limit", type=int, default=_LISTED, help=f"how many at most (default: {_LISTED})")
        show = actions.add_parser("show", help="show everything that is known of sessions")
        close = actions.add_parser("close", help="close sessions; their recordings are finished")
        delete = actions.add_parser("delete", help="remove sessions and every byte of them")
        delete.add_argument("--yes", action="store_true", help="do not ask")
        exporting = actions.add_parser("export", help="write recordings and what is known of them to a folder")
        exporting.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="made if it is not there")
        exporting.add_argument("--format", choices=list(TARGETS), help="another format than the recording's")
        exporting.add_argument("--force", action="store_true", help="replace files that are there")
        for action in (show, close, delete, exporting):
            action.add_argument("sessions", metavar="SESSION", nargs="+", help="the id of a session, a UUID")
        for action in (listing, show, close, delete, exporting):
            action.add_argument("--json", action="store_true", help="one object a line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Does it. Raises CommandError, with the exit code, for what could not be done."""
        self._is_json = options["json"]
        action = options["action"]
        if action == "list":
            self._list(options)
            return
        found = find_sessions(options["sessions"])
        match action:
            case "show":
                self._each(found, self._show)
            case "close":
                self._each(found, self._close)
            case "delete":
                self._confirm(found, options["yes"])
                self._each(found, self._delete)
            case _:
                self._each(found, partial(self._export, options=options))

    def _each(self, found: list[AudioSession], act: Callable[[AudioSession], None]) -> None:
        """Goes on with the next where one could not be done, and tells at the end."""
        failed = 0
        for session in found:
            try:
                act(session)
            except AudioError as error:
                self._refuse(session, error.detail)
                failed += 1
            except OSError as error:
                self._refuse(session, str(error))
                failed += 1
        if failed:
            raise CommandError(f"{counted(failed, 'session')} of {len(found)} failed.")

    def _refuse(self, session: AudioSession, sentence: str) -> None:
        self.stderr.write(f"{session.pk}: {sentence}")

    def _tell(self, sentence: str, **facts: Any) -> None:
        self.stdout.write(json_line(facts) if self._is_json else sentence)

    def _list(self, options: dict[str, Any]) -> None:
        asked = SessionFilter({name: options[name] for name in _FILTERS if options[name] is not None}, sessions())
        if not asked.is_valid():
            name, sentences = next(iter(asked.errors.items()))
            raise CommandError(f"--{name.replace('_', '-')}: {sentences[0]}", returncode=BAD_ARGUMENTS)
        if not 1 <= options["limit"] <= _LISTED_AT_MOST:
            raise CommandError(f"--limit must be from 1 to {_LISTED_AT_MOST}.", returncode=BAD_ARGUMENTS)
        for session in asked.qs.order_by("-start_time", "-pk")[: options["limit"]]:
            shown = SessionSerializer(session).data
            line = (
                f"{session.pk}  {session.start_time:%Y-%m-%d %H:%M:%S}  {session.status:9}  {session.format:4}"
                f"  {shown['recording']['state']:8}  {counted(session.total_chunks, 'chunk')}  {session.user_id or ''}"
            )
            self._tell(line.rstrip(), **shown)

    def _show(self, session: AudioSession) -> None:
        shown = SessionSerializer(find_session(session.pk)).data
        recording = shown.pop("recording")
        lines = [*shown.items(), *((f"recording.{name}", value) for name, value in recording.items())]
        self._tell("\n".join(f"{name:28} {value}" for name, value in lines), **shown, recording=recording)

    def _close(self, session: AudioSession) -> None:
        closed = ingest.close_session(session.pk)
        sentence = f"{session.pk} is {closed.status}, with {counted(closed.total_chunks, 'chunk')}."
        self._tell(sentence, session_id=session.pk, status=closed.status, total_chunks=closed.total_chunks)

    def _confirm(self, found: list[AudioSession], is_confirmed: bool) -> None:
        if is_confirmed:
            return
        self.stderr.write(f"{counted(len(found), 'session')} and every byte of them will be gone for good.")
        try:
            answer = input("Delete? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was deleted.")

    def _delete(self, session: AudioSession) -> None:
        upkeep.delete_session(session.pk)
        self._tell(f"{session.pk} is deleted.", session_id=session.pk, deleted=True)

    def _export(self, session: AudioSession, options: dict[str, Any]) -> None:
        progress = Progress()
        described = SessionSerializer(find_session(session.pk)).data
        done = export(
            session,
            described,
            options["to"],
            options["format"] or "",
            options["force"],
            lambda fraction: progress(str(session.pk), fraction),
        )
        progress.clear()
        facts = {"audio": str(done.audio), "metadata": str(done.metadata), "size_bytes": done.size_bytes}
        self._tell(f"{done.audio} ({done.size_bytes:,} bytes)", session_id=session.pk, **facts, sha256=done.sha256)
