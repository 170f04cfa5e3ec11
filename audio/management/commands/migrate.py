"""`manage.py migrate`: Django's command, which first creates what a new installation needs."""

from typing import Any

from django.core.management.commands.migrate import Command as Migrate

from audio.management import installation


class Command(Migrate):
    """Migrate the database. A missing SQLite database is created."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Create the secret key and the database's file before the checks use the database, then migrate."""
        installation.prepare()
        return super().execute(*args, **options)
