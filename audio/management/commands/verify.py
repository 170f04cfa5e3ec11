"""`manage.py verify`: compare rows, journals and recordings with each other, and change nothing.

Exit code 0: no problems; 1: there are problems, which are listed; 2: wrong arguments.
"""

import uuid
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any, Protocol

from django.core.management.base import CommandError

from audio.errors import AudioError, SessionNotFoundError
from audio.integrity import survey, verify
from audio.integrity.verify import Problem, Problems
from audio.management.arguments import BAD_ARGUMENTS, Progress, counted, find_sessions, json_line
from audio.management.examples import ExampleCommand
from audio.models import AudioSession
from audio.pages import in_pages


class Found(Protocol):
    """The result for a session, a journal or the storage."""

    problems: Problems

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        ...


class Command(ExampleCommand):
    """Verify sessions, journals and the storage, and list the problems."""

    help = "Compares rows, journals and recordings with each other. The exit code is 1 if there are problems."
    examples = ("123e4567-e89b-42d3-a456-426614174000", "--all --journals --orphans")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the sessions and the options."""
        parser.add_argument("sessions", metavar="SESSION", nargs="*", help="the id of a session (a UUID)")
        parser.add_argument("--all", action="store_true", help="verify every session")
        parser.add_argument("--journals", action="store_true", help="compare every journal with its rows")
        parser.add_argument(
            "--orphans", action="store_true", help="find files without a row, and rows without their file"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify what was requested, and print the results.

        Raises:
            CommandError: There are problems. The error has the exit code.
        """
        if not (options["sessions"] or options["all"] or options["journals"] or options["orphans"]):
            sentence = "Name sessions by their ids, or use --all, --journals or --orphans."
            raise CommandError(sentence, returncode=BAD_ARGUMENTS)
        self._is_json = options["json"]
        self._progress = Progress()
        self._looked_at = self._problems = 0
        named = [session.pk for session in find_sessions(options["sessions"])]
        for session_id in _all_sessions() if options["all"] else named:
            self._look_at_session(session_id)
        for name in survey.journal_names() if options["journals"] else []:
            self._tell("journal", name, survey.journal(name))
        if options["orphans"]:
            found = survey.orphans(lambda fraction: self._progress("storage", fraction))
            self._tell("storage", found.name, found)
        self._conclude()

    def _look_at_session(self, session_id: uuid.UUID) -> None:
        label = str(session_id)
        try:
            found = verify.session(session_id, lambda fraction: self._progress(label, fraction))
        except SessionNotFoundError:
            # The session was deleted after it was listed.
            return
        except AudioError as error:
            found = verify.Verified(session_id)
            found.problems.add(Problem(error.code, f"The comparison failed: {error.detail}", label))
        self._tell("session", label, found)
        if not self._is_json:
            for warning in found.warnings:
                self.stdout.write(f"session {label}: warning: {warning.get('code')}: {warning.get('detail')}")

    def _tell(self, kind: str, name: str, found: Found) -> None:
        self._progress.clear()
        self._looked_at += 1
        self._problems += found.problems.count
        if self._is_json:
            self.stdout.write(json_line({"verified": kind, **found.as_dict()}))
            return
        for problem in found.problems.first:
            self.stdout.write(f"{kind} {name}: {problem.code}: {problem.detail}{_place(problem)}")
        if found.problems.count > len(found.problems.first):
            self.stdout.write(f"{kind} {name}: {found.problems.count} problems in all")

    def _conclude(self) -> None:
        if self._problems:
            raise CommandError(f"{counted(self._problems, 'problem')} found.")
        if not self._is_json:
            self.stdout.write(f"No problems found: {counted(self._looked_at, 'item')} verified.")


def _place(problem: Problem) -> str:
    """Return the file and the offset of a problem, as far as they are known."""
    if problem.file_name is None:
        return ""
    return f" ({problem.file_name}{'' if problem.offset is None else f':{problem.offset}'})"


def _all_sessions() -> Iterator[uuid.UUID]:
    """Yield the ids of all sessions."""
    return (session_id for page in in_pages(AudioSession.objects.all(), "pk") for (session_id,) in page)
