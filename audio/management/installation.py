"""The database of an installation: its creation at the first start, and sentences for operators about its errors."""

import os

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error

_NO_TABLES = ("UndefinedTable", "UndefinedColumn")  # names, because psycopg is not loaded with SQLite
_NO_SQLITE_TABLES = ("no such table", "no such column")


def prepare() -> None:
    """Create the secret key and the file of an SQLite database, if they are missing.

    Only commands that start a server or migrate call this. Other commands create nothing in a wrong folder.

    Raises:
        ImproperlyConfigured: The folder can't be written.
    """
    keep_secret_key()
    path = settings.SQLITE_FILE
    if path is None or path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise ImproperlyConfigured(
            f"The folder {path.parent} can't be written: {error.strerror}. Set {_variable()}."
        ) from None


def keep_secret_key() -> None:
    """Store the generated secret key in its file, readable only by its owner.

    Raises:
        ImproperlyConfigured: The folder can't be written.
    """
    path = settings.SECRET_KEY_FILE
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise ImproperlyConfigured(
            f"The folder {path.parent} can't be written: {error.strerror}. Set DATA_DIR."
        ) from None
    with os.fdopen(handle, "w") as file:
        file.write(settings.SECRET_KEY)


def sentence(error: Error) -> str:
    """Return a sentence for the operator: what is wrong with the database, and what to do about it."""
    path = settings.SQLITE_FILE
    if path is not None and not path.exists():
        return f"There is no database at {path}. Set {_variable()}, or create a database with `manage.py migrate`."
    reason = _reason(error)
    if type(error.__cause__).__name__ in _NO_TABLES or reason.startswith(_NO_SQLITE_TABLES):
        return f"The tables of the database are missing or old ({reason}). Run `manage.py migrate`."
    if "permission denied for schema" in reason:
        return f"The database can't be used: {reason}. GRANT CREATE, USAGE ON that SCHEMA to the role."
    return f"The database can't be used: {reason}. Check {_variable()}."


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _variable() -> str:
    """Return the name of the variable that locates the database."""
    is_default = settings.SQLITE_FILE == settings.DATA_DIR / "db.sqlite3"
    return "DATA_DIR" if is_default else "DATABASE_URL"
