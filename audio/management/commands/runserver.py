"""`manage.py runserver`: Daphne, for development.

Daphne's own app would replace the command in the same way. But it loads Twisted into every process that loads Django,
which takes a quarter of the start of a worker or web server.
"""

from typing import Any

from daphne.management.commands.runserver import Command as Daphne
from django.core.management.base import CommandError

from audio.management import first_steps


class Command(Daphne):  # type: ignore[misc]  # Daphne is not typed
    """Run Daphne, for development."""

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Serve until Ctrl-C.

        Raises:
            CommandError: Others could connect, and the settings are those of a server for this machine alone.
        """
        if fault := first_steps.fault(self.addr):
            raise CommandError(fault)
        super().inner_run(*args, **options)
