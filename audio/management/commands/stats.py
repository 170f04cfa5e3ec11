"""`manage.py stats`: print statistics of the server."""

from argparse import ArgumentParser
from typing import Any

from audio import statistics
from audio.management.arguments import json_line
from audio.management.examples import ExampleCommand


class Command(ExampleCommand):
    """Print statistics of the server."""

    help = "Prints the numbers of sessions, recordings, chunks and bytes. It reads counters, so it is fast at any size."
    examples = ("--json",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the statistics."""
        numbers = statistics.collect().as_dict()
        if options["json"]:
            self.stdout.write(json_line(numbers))
            return
        for name, value in numbers.items():
            shown = ", ".join(f"{count:,} {key}" for key, count in value.items()) if isinstance(value, dict) else value
            shown = f"{shown:,}" if isinstance(shown, int) else shown or "-"
            self.stdout.write(f"{name.replace('_', ' '):20} {shown}")
