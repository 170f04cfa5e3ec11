"""`manage.py migrate`: Django's command, which first creates the secret key and the database of a new installation."""

from typing import Any

from django.conf import settings
from django.core.management.commands.migrate import Command as Migrate

from audio.management import first_steps, installation


class Command(Migrate):
    """Migrate the database. A missing SQLite database is created."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Create the secret key and the database's file before the checks use the database, then migrate."""
        installation.prepare()
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, then say how to create the first account and the first API key if there are none."""
        super().handle(*args, **options)
        is_complete = not (options["plan"] or options["check_unapplied"] or options["app_label"])
        if options["verbosity"] and is_complete and first_steps.sentence(settings.HOST) == first_steps.NOBODY_KNOWN:
            self.stdout.write(first_steps.NOBODY_KNOWN)
