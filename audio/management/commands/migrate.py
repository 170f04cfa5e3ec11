"""`manage.py migrate`: Django's, which first makes what a new installation needs."""

from typing import Any

from django.core.management.commands.migrate import Command as Migrate

from audio.management import installation


class Command(Migrate):
    """Brings the database up to date; an SQLite database is made if it is not there."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Make the secret key and the database's file before the checks look at the database, then migrate."""
        installation.prepare()
        return super().execute(*args, **options)
