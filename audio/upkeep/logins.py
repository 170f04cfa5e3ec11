"""The removal of expired logins, which Django stores as rows."""

from importlib import import_module

from django.conf import settings

from audio.upkeep.sweeps import Sweep

NAME = "logins"


def clear_expired(sweep: Sweep) -> None:
    """Delete the sessions of people whose logins have expired, as `manage.py clearsessions` does."""
    if not sweep.dry_run:
        import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
