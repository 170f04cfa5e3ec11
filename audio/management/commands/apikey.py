"""`manage.py apikey`: create, list and revoke API keys.

Exit code 0: done; 1: it failed; 2: wrong arguments.
"""

import json
import uuid
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audio.access import COMMAND, issue
from audio.errors import AudioError
from audio.models import DEFAULT_PROJECT_ID, ApiKey, Project, Scope

_EXAMPLES = {
    "create": "create phone-bridge --scope record --scope read",
    "list": "list --project default",
    "revoke": "revoke k3v9x0a1b2c4",
}
_TEXTS = {
    "create": "create an API key and print it; it cannot be shown again",
    "list": "list API keys, newest first",
    "revoke": "revoke API keys; their connections end at once",
}
_ROW = "{:12}  {:20}  {:20}  {:19}  {:16}  {:16}  {}"
_HEADER = ("PREFIX", "PROJECT", "NAME", "SCOPES", "CREATED (UTC)", "LAST USE (UTC)", "STATE")


def _examples(*names: str) -> str:
    shown = "".join(f"\n  python manage.py apikey {_EXAMPLES[name]}" for name in names)
    return f"example{'s' if len(names) > 1 else ''}:{shown}"


class Command(BaseCommand):
    """Create, list or revoke API keys."""

    help = "Creates, lists or revokes the API keys of programs."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser of the arguments, with examples at the end of its help."""
        kwargs |= {"formatter_class": RawDescriptionHelpFormatter, "epilog": _examples(*_EXAMPLES)}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a subcommand for each action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        made = {
            name: actions.add_parser(
                name, help=text, description=text, formatter_class=RawDescriptionHelpFormatter, epilog=_examples(name)
            )
            for name, text in _TEXTS.items()
        }
        made["create"].add_argument("name", help="which program gets the key")
        made["create"].add_argument(
            "--scope", action="append", required=True, choices=Scope.values, help="what it may do; repeat the option"
        )
        made["create"].add_argument("--expires-in-days", type=int, metavar="DAYS", help="(default: it does not expire)")
        made["create"].add_argument("--create-project", action="store_true", help="create the project if it is missing")
        for name in ("create", "list"):
            made[name].add_argument("--project", help="the name of the project")
        made["revoke"].add_argument("keys", nargs="+", metavar="KEY", help="the prefix or the id of a key")
        for action in made.values():
            action.add_argument("--json", action="store_true", help="print one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the action.

        Raises:
            CommandError: It failed.
        """
        try:
            getattr(self, f"_{options['action']}")(options)
        except AudioError as error:
            raise CommandError(error.detail) from error

    def _create(self, options: dict[str, Any]) -> None:
        project = _project(options["project"], options["create_project"])
        days = options["expires_in_days"]
        if days is not None and days < 1:
            raise CommandError("--expires-in-days must be at least 1.", returncode=2)
        expires_at = None if days is None else timezone.now() + timedelta(days=days)
        made, secret = issue.key(project, options["name"], options["scope"], COMMAND, expires_at)
        if options["json"]:
            self.stdout.write(json.dumps({**_shown(made), "key": secret}))
            return
        self.stderr.write(f"The key of {made.name}, which cannot be shown again:")
        self.stdout.write(secret)

    def _list(self, options: dict[str, Any]) -> None:
        keys = ApiKey.objects.select_related("project")
        if options["project"] is not None:
            keys = keys.filter(project=_project(options["project"], False))
        if options["json"]:
            for key in keys.iterator():
                self.stdout.write(json.dumps(_shown(key)))
            return
        self.stdout.write(_ROW.format(*_HEADER))
        for key in keys.iterator():
            shown = _shown(key)
            times = [(shown[name] or "-")[:16].replace("T", " ") for name in ("created_at", "last_used_at")]
            scopes = ",".join(key.scopes)
            self.stdout.write(
                _ROW.format(key.prefix, key.project.name, key.name, scopes, *times, shown["state"]).rstrip()
            )

    def _revoke(self, options: dict[str, Any]) -> None:
        for text in options["keys"]:
            found = ApiKey.objects.filter(prefix=text).first() or _by_id(text)
            if found is None:
                raise CommandError(f"There is no API key {text}. `manage.py apikey list` shows their prefixes.")
            issue.revoke_key(found.pk, COMMAND)
            if options["json"]:
                found.refresh_from_db()
                self.stdout.write(json.dumps(_shown(found)))
            else:
                self.stdout.write(f"Revoked {found.prefix} ({found.name}).")


def _project(name: str | None, is_created: bool) -> Project:
    if name is None:
        return Project.objects.get(pk=DEFAULT_PROJECT_ID)
    found = Project.objects.filter(name=name).first()
    if found is None and is_created:
        found = Project(name=name)
        try:
            found.full_clean()
        except ValidationError as error:
            raise CommandError(f"{name!r} can't be the name of a project. {error.messages[0]}", returncode=2) from None
        found.save()
    if found is None:
        raise CommandError(f"There is no project {name}. `--create-project` creates it.")
    return found


def _by_id(text: str) -> ApiKey | None:
    try:
        return ApiKey.objects.filter(pk=uuid.UUID(text)).first()
    except ValueError:
        return None


def _shown(key: ApiKey) -> dict[str, Any]:
    """Return the values of a key that are shown: all except its digest."""
    is_expired = key.expires_at is not None and key.expires_at <= timezone.now()
    times = {name: getattr(key, name) for name in ("created_at", "last_used_at", "expires_at", "revoked_at")}
    return {
        "id": str(key.pk),
        "prefix": key.prefix,
        "project": key.project.name,
        "name": key.name,
        "scopes": key.scopes,
        "state": "revoked" if key.revoked_at else "expired" if is_expired else "valid",
        **{name: value.isoformat() if value else None for name, value in times.items()},
    }
