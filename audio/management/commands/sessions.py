"""`manage.py sessions`: list, show, close, delete and export sessions.

Exit code 0: done; 1: it failed for some sessions; 2: wrong arguments.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audio import ingest, upkeep
from audio.access import COMMAND
from audio.api.filters import SessionFilter
from audio.api.queries import find_session, sessions
from audio.api.serializers import SessionSerializer
from audio.errors import AudioError, InvalidParameterError
from audio.jobs.export import export
from audio.management.arguments import BAD_ARGUMENTS, Progress, counted, find_sessions, json_line
from audio.media.plan import TARGETS
from audio.models import AudioSession
from audio.wire.parameters import METADATA_PREFIX

_LISTED = 50
_LISTED_AT_MOST = 2**31 - 1
_TIME = "such as 2026-01-31 or 2026-01-31T14:30:00Z"
_FILTERS = {
    "status": "active, paused or completed",
    "user_id": "the label that the client chose, in full",
    "format": "the format of the audio",
    "started_after": f"a date or a time, {_TIME}",
    "started_before": f"a date or a time, {_TIME}",
    "project": "the name of the project",
    "name": "the beginning of the session's name",
}
_ACTIONS = {
    "list": "list sessions, newest first; the filters are those of REST",
    "show": "show all details of sessions",
    "close": "close sessions and finish their recordings",
    "delete": "delete sessions with all their data",
    "export": "write recordings and their details to a folder",
}
_ID = "123e4567-e89b-42d3-a456-426614174000"
_EXAMPLES = {
    "list": "list --status completed --started-after 2026-01-31 --limit 20",
    "show": f"show {_ID}",
    "close": f"close {_ID}",
    "delete": f"delete {_ID} --yes",
    "export": f"export {_ID} --to exports --format flac",
}
_NOTHING = "-"
_ROW = "{:36}  {:19}  {:9}  {:6}  {:9}  {:>12}  {:>9}  {}"
_HEADER = ("SESSION", "STARTED (UTC)", "STATUS", "FORMAT", "RECORDING", "DURATION", "CHUNKS", "USER")


def _examples(*names: str) -> str:
    shown = "".join(f"\n  python manage.py sessions {_EXAMPLES[name]}" for name in names)
    return f"example{'s' if len(names) > 1 else ''}:{shown}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:06.3f}"


def _metadata(texts: list[str]) -> dict[str, str]:
    """Return the filters by metadata, as they are in the query of a request.

    Raises:
        CommandError: One is no pair of a key and a value.
    """
    named = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise CommandError(f"--metadata: Enter KEY=VALUE, not {text!r}.", returncode=BAD_ARGUMENTS)
        named[f"{METADATA_PREFIX}{key}"] = value
    return named


class Command(BaseCommand):
    """List, show, close, delete or export sessions."""

    help = "Lists, shows, closes, deletes or exports sessions."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser of the arguments, with examples at the end of its help."""
        kwargs |= {"formatter_class": RawDescriptionHelpFormatter, "epilog": _examples("list", "show", "export")}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a subcommand for each action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for name, text in _ACTIONS.items():
            action = actions.add_parser(
                name, help=text, description=text, formatter_class=RawDescriptionHelpFormatter, epilog=_examples(name)
            )
            if name == "list":
                for filter_name in _FILTERS:
                    action.add_argument(f"--{filter_name.replace('_', '-')}", help=_FILTERS[filter_name])
                action.add_argument(
                    "--metadata",
                    action="append",
                    default=[],
                    metavar="KEY=VALUE",
                    help="a key of the metadata and its value; it may be repeated with other keys",
                )
                action.add_argument(
                    "--limit", type=int, default=_LISTED, help=f"the maximum number of sessions (default: {_LISTED})"
                )
            else:
                action.add_argument("sessions", metavar="SESSION", nargs="+", help="the id of a session (a UUID)")
            if name == "delete":
                action.add_argument("--yes", action="store_true", help="do not ask for confirmation")
            if name == "export":
                self._add_export_arguments(action)
            action.add_argument("--json", action="store_true", help="print one JSON object per line")

    def _add_export_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--to",
            type=Path,
            required=True,
            metavar="FOLDER",
            help="the folder to write to; it is created if necessary",
        )
        parser.add_argument("--format", choices=list(TARGETS), help="transcode the recording to this format")
        parser.add_argument(
            "--partial", action="store_true", help="export the part of a failed recording that could be made"
        )
        parser.add_argument("--overwrite", "--force", dest="force", action="store_true", help="replace existing files")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the action.

        Raises:
            CommandError: It failed for some sessions. The error has the exit code.
        """
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
        """Run the action for each session, and report at the end for how many it failed."""
        failed = 0
        for session in found:
            try:
                act(session)
            except AudioError as error:
                self._reject(session, error.detail)
                failed += 1
            except OSError as error:
                self._reject(session, f"{error.filename or _NOTHING}: {error.strerror or error}")
                failed += 1
        if failed:
            raise CommandError(f"{counted(failed, 'session')} of {len(found)} failed.")

    def _reject(self, session: AudioSession, sentence: str) -> None:
        self.stderr.write(f"{session.pk}: {sentence}")

    def _tell(self, sentence: str, **facts: Any) -> None:
        self.stdout.write(json_line(facts) if self._is_json else sentence)

    def _list(self, options: dict[str, Any]) -> None:
        named = {name: options[name] for name in _FILTERS if options[name] is not None}
        filtered = SessionFilter(named | _metadata(options["metadata"]), sessions())
        if not filtered.is_valid():
            name, sentences = next(iter(filtered.errors.items()))
            sentence = f"Enter {_FILTERS[name]}, not {options[name]!r}." if name.startswith("started") else sentences[0]
            raise CommandError(f"--{name.replace('_', '-')}: {sentence}", returncode=BAD_ARGUMENTS)
        if not 1 <= options["limit"] <= _LISTED_AT_MOST:
            raise CommandError(f"--limit must be from 1 to {_LISTED_AT_MOST}.", returncode=BAD_ARGUMENTS)
        try:
            found = list(filtered.qs.order_by("-start_time", "-pk")[: options["limit"]])
        except InvalidParameterError as error:
            raise CommandError(f"--metadata: {error.detail}", returncode=BAD_ARGUMENTS) from error
        if not self._is_json:
            self.stdout.write(_ROW.format(*_HEADER) if found else "No sessions.")
        for session in found:
            self._list_one(session)

    def _list_one(self, session: AudioSession) -> None:
        shown = SessionSerializer(session).data
        row = _ROW.format(
            str(session.pk),
            f"{session.start_time:%Y-%m-%d %H:%M:%S}",
            session.status,
            session.format,
            shown["recording"]["state"],
            _duration(shown["duration_seconds"]),
            f"{session.total_chunks:,}",
            session.user_id or "",
        )
        self._tell(row.rstrip(), **shown)

    def _show(self, session: AudioSession) -> None:
        shown = SessionSerializer(find_session(session.pk, COMMAND, "")).data
        recording = shown.pop("recording")
        lines = [*shown.items(), *((f"recording.{name}", value) for name, value in recording.items())]
        text = "\n".join(f"{name:28} {_NOTHING if value in (None, '') else value}" for name, value in lines)
        self._tell(text, **shown, recording=recording)

    def _close(self, session: AudioSession) -> None:
        closed = ingest.close_session(session.pk)
        sentence = f"{session.pk} is {closed.status}, with {counted(closed.total_chunks, 'chunk')}."
        self._tell(sentence, session_id=session.pk, status=closed.status, total_chunks=closed.total_chunks)

    def _confirm(self, found: list[AudioSession], is_confirmed: bool) -> None:
        if is_confirmed:
            return
        self.stderr.write(f"This deletes {counted(len(found), 'session')} with all data. It cannot be undone.")
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
        described = SessionSerializer(find_session(session.pk, COMMAND, "")).data
        done = export(
            session,
            described,
            options["to"],
            options["format"] or "",
            options["force"],
            options["partial"],
            lambda fraction: progress(str(session.pk), fraction),
        )
        progress.clear()
        facts = {"audio": str(done.audio), "metadata": str(done.metadata), "size_bytes": done.size_bytes}
        self._tell(f"{done.audio} ({done.size_bytes:,} bytes)", session_id=session.pk, **facts, sha256=done.sha256)
