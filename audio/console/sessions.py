"""The logins of people (Django's sessions), in the database. Their keys come from a cookie, which anybody can send."""

import re
from typing import Any

from django.contrib.sessions.backends import db

_KEY = re.compile(r"[a-z0-9]{8,40}", re.ASCII)


class SessionStore(db.SessionStore):
    """A store that queries the database only for valid keys.

    A cookie can contain any character, and PostgreSQL rejects a query with a NUL.
    """

    def _validate_session_key(self, key: Any) -> bool:
        """Return whether a text has the form of a key."""
        return isinstance(key, str) and _KEY.fullmatch(key) is not None
