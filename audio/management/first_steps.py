"""Advice about access for the operator of a server that starts."""

from django.conf import settings
from django.contrib.auth import get_user_model

from audio.checks import LOOPBACK
from audio.models import ApiKey

ASKS_NOBODY = (
    "This server runs without authentication: everybody who can connect may record, listen and delete. "
    "Set REQUIRE_AUTH=true to change that."
)
NOBODY_KNOWN = (
    "Nobody can use this server yet. Create an account with `python manage.py createsuperuser`, and an API key with "
    "`python manage.py apikey create NAME --scope record --scope read`."
)


def sentence(host: str) -> str | None:
    """Return advice for the operator.

    Args:
        host: The address that the server listens on.

    Returns:
        That there is no authentication, or how to create the first account and the first API key; None if there is an
        account or a key.
    """
    if not requires_auth(host):
        return ASKS_NOBODY
    is_known = get_user_model().objects.exists() or ApiKey.objects.exists()
    return None if is_known else NOBODY_KNOWN


def fault(host: str) -> str | None:
    """Return why a web server must not listen on this address with these settings; None if it may.

    The settings depend on HOST. A command that listens on another address would admit everybody.
    """
    if settings.REQUIRE_AUTH or not requires_auth(host):
        return None
    return f"Others can connect to {host}. Set HOST={host} as well, or set REQUIRE_AUTH."


def requires_auth(host: str) -> bool:
    """Whether a server on this address requires authentication. A command may have another address than HOST."""
    return settings.REQUIRE_AUTH or not (settings.IS_AUTH_CHOSEN or host in LOOPBACK)
