"""Examples at the end of a command's help."""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter


class _HelpFormatter(DjangoHelpFormatter):
    """Django's formatter, which keeps the lines of the epilog."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example") else super()._fill_text(text, width, indent)


class ExampleCommand(BaseCommand):
    """A command whose help ends with examples.

    Attributes:
        examples: The arguments of each example.
    """

    examples: ClassVar[Sequence[str]]

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser of the arguments, with the examples at the end of its help."""
        lines = [f"  python manage.py {subcommand} {arguments}".rstrip() for arguments in self.examples]
        epilog = "\n".join(["example:" if len(lines) == 1 else "examples:", *lines])
        return super().create_parser(prog_name, subcommand, formatter_class=_HelpFormatter, epilog=epilog, **kwargs)
