"""The Django apps: their names, the system checks, the setup of database connections, and the site of the admin."""

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin.apps import SimpleAdminConfig
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created


class AudioConfig(AppConfig):
    """The configuration of the app. It registers `audio.checks` and sets up database connections."""

    name = "audio"
    default = True
    verbose_name = "Recordings"

    def ready(self) -> None:
        """Import the checks, whose decorators register them."""
        from audio import checks  # noqa: F401

        connection_created.connect(set_session)


class AdminConfig(SimpleAdminConfig):
    """The configuration of Django's admin, with a site that managers of projects may enter."""

    default_site = "audio.console.site.ProjectAdminSite"


def set_session(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Apply POSTGRESQL_SESSION to a new connection, except for the settings that the operator's `options` contain.

    The settings are not part of the connection's startup parameters, because a pooler such as PgBouncer rejects those.
    """
    if connection.vendor != "postgresql":
        return
    chosen = str(connection.settings_dict["OPTIONS"].get("options", ""))
    wanted = {name: value for name, value in settings.POSTGRESQL_SESSION.items() if name not in chosen}
    if not wanted:
        return
    with connection.cursor() as cursor:
        calls = ", ".join(["set_config(%s, %s, false)"] * len(wanted))
        cursor.execute(f"SELECT {calls}", [part for pair in wanted.items() for part in pair])
