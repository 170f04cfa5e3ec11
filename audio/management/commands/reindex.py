"""`manage.py reindex`: restore the rows of sessions from the journals, after the database was lost."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from audio import ingest, upkeep
from audio.integrity.reindex import Reindexed, reindex
from audio.management.arguments import Progress, counted, json_line
from audio.management.examples import ExampleCommand
from audio.models import IngestProcess


class Command(ExampleCommand):
    """Read every journal, insert missing rows into the database, and enqueue the recordings."""

    help = "Restores sessions and chunks from the journals after the loss of the database, or after an older backup."
    examples = ("--dry-run", "")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--dry-run", action="store_true", help="change nothing and print what would be restored")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Restore the rows and print the result.

        Raises:
            CommandError: A server runs, or journals are damaged.
        """
        is_dry_run = options["dry_run"]
        if not is_dry_run:
            _require_no_server()
        progress = Progress()
        done = reindex(is_dry_run, lambda fraction: progress("journals", fraction))
        progress.clear()
        if options["json"]:
            self.stdout.write(json_line({"dry_run": is_dry_run, **done.as_dict()}))
        else:
            self._tell(done, "would be brought back" if is_dry_run else "brought back")
        if done.problems.count:
            raise CommandError(f"{counted(done.problems.count, 'problem')} in the journals.")

    def _tell(self, done: Reindexed, what: str) -> None:
        for problem in done.problems.first:
            place = problem.file_name or f"session {problem.session_id}"
            self.stdout.write(f"{place}: {problem.code}: {problem.detail}")
        brought = f"{counted(done.sessions, 'session')} and {counted(done.chunks, 'chunk')} {what}"
        self.stdout.write(f"{brought} from {counted(done.journals, 'journal')}.")
        if done.uncertain_sessions:
            sessions, chunks = counted(done.uncertain_sessions, "session"), counted(done.in_flight_chunks, "chunk")
            self.stdout.write(f"{sessions} of them uncertain, by {chunks} that no commit record names.")
        if done.extended_sessions:
            self.stdout.write(f"{counted(done.extended_sessions, 'session')} of the database got chunks.")
        if done.deleted_sessions:
            self.stdout.write(f"{counted(done.deleted_sessions, 'session')} were deleted, and stay so.")
        if done.known_sessions:
            self.stdout.write(f"{counted(done.known_sessions, 'session')} left as they are.")


def _require_no_server() -> None:
    """Check that no web process has sent a heartbeat lately. Its chunks in flight would look lost.

    Raises:
        CommandError: There is such a process.
    """
    since = ingest.database_time() - timedelta(seconds=upkeep.DEAD_AFTER_HEARTBEATS * settings.HEARTBEAT_SECONDS)
    if IngestProcess.objects.filter(heartbeat_at__gte=since).exists():
        raise CommandError("A server is running, or was until a moment ago. Stop it and try again, or use --dry-run.")
