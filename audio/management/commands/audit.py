"""`manage.py audit`: export the audit as JSON lines.

Exit code 0: done; 2: wrong arguments.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.dateparse import parse_date, parse_datetime

from audio.models import AuditEntry

_EXAMPLES = "example:\n  python manage.py audit export --since 2026-01-31 > audit.jsonl"


class Command(BaseCommand):
    """Export the audit."""

    help = "Exports who did what, as one JSON object per line, oldest first."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser of the arguments, with an example at the end of its help."""
        kwargs |= {"formatter_class": RawDescriptionHelpFormatter, "epilog": _EXAMPLES}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the action and its filters."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        export = actions.add_parser(
            "export",
            help="print the entries",
            description=self.help,
            formatter_class=RawDescriptionHelpFormatter,
            epilog=_EXAMPLES,
        )
        export.add_argument("--since", metavar="TIME", help="a date or a time (UTC), such as 2026-01-31")
        export.add_argument("--until", metavar="TIME", help="a date or a time (UTC); entries before it are printed")
        export.add_argument("--project", help="the name of a project")
        export.add_argument("--session", help="the id of a session (a UUID)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the entries.

        Raises:
            CommandError: An argument is wrong.
        """
        entries = AuditEntry.objects.order_by("at", "pk")
        if options["since"] is not None:
            entries = entries.filter(at__gte=_time("--since", options["since"]))
        if options["until"] is not None:
            entries = entries.filter(at__lt=_time("--until", options["until"]))
        if options["project"] is not None:
            entries = entries.filter(project=options["project"])
        if options["session"] is not None:
            entries = entries.filter(session_id=_session(options["session"]))
        for entry in entries.iterator():
            self.stdout.write(json.dumps(_shown(entry), ensure_ascii=False))


def _time(option: str, text: str) -> datetime:
    try:
        day = parse_date(text)
        moment = datetime.combine(day, time.min) if day else parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"{option} must be a date or a time, such as 2026-01-31, not {text!r}.", returncode=2)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _session(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CommandError(f"--session must be a UUID, not {text!r}.", returncode=2) from None


def _shown(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.at.isoformat(),
        "project": entry.project or None,
        "actor": entry.actor,
        "action": entry.action,
        "session_id": str(entry.session_id) if entry.session_id else None,
        "address": entry.address,
        "details": entry.details,
    }
