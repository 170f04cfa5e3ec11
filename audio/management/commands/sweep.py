"""`manage.py sweep`: run a complete sweep with all chores, or show what it would do."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import Error as DatabaseError

from audio import upkeep
from audio.management import installation
from audio.management.examples import ExampleCommand
from audio.upkeep.sweeps import Action, Sweep


class Command(ExampleCommand):
    """Run all the maintenance at once that a running server does in small steps.

    The command is for cron, and for operators who want to see the actions.
    """

    help = (
        "Closes overdue sessions, enqueues lost tasks and collects garbage, as a running server does. The exit code is"
        " 1 if it leaves something that needs a decision."
    )
    examples = ("--dry-run",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--dry-run", action="store_true", help="change nothing and list what would be done")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the sweep and print its actions.

        Raises:
            CommandError: The database or the storage failed, or something was left unexplained.
        """
        try:
            done = upkeep.sweep_all(dry_run=options["dry_run"])
        except DatabaseError as error:
            raise CommandError(installation.sentence(error)) from None
        except OSError as error:
            raise CommandError(f"The sweep failed: {error}.") from None
        self.stdout.write(_as_json(done) if options["json"] else _as_text(done))
        if unexplained := done.names[Action.UNEXPLAINED]:
            raise CommandError(f"Left unexplained: {len(unexplained)}. See docs/operations.md.")


def _as_json(done: Sweep) -> str:
    names = {action.value: done.names[action] for action in Action}
    return json.dumps({"dry_run": done.dry_run, "counts": done.swept().as_dict(), "names": names})


def _as_text(done: Sweep) -> str:
    lines = [f"{name.replace('_', ' ')}: {count}" for name, count in done.swept().as_dict().items()]
    for action in Action:
        if done.dry_run or action is Action.UNEXPLAINED:
            lines += [f"{action.replace('_', ' ')}: {name}" for name in done.names[action]]
    return "\n".join(lines)
