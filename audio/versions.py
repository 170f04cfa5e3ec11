"""The versions of the software that the server uses, for operators of many servers."""

import platform
import sqlite3

import django
from django.conf import settings
from django.db import connection

from audio.errors import FfmpegMissingError
from audio.media import ffmpeg

UNKNOWN = "unknown"


def known() -> dict[str, str]:
    """Return versions by name. A version that can't be found out is `unknown`."""
    return {
        "sercuescribe": str(settings.SPECTACULAR_SETTINGS["VERSION"]),
        "python": platform.python_version(),
        "django": django.__version__,
        "ffmpeg": _ffmpeg(),
        "database": _database(),
    }


def _ffmpeg() -> str:
    try:
        return ffmpeg.version(ffmpeg.find())
    except FfmpegMissingError:
        return UNKNOWN


def _database() -> str:
    """Return the database's name and version. The version of PostgreSQL is known only if there is a connection."""
    if connection.vendor == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    if connection.connection is None:
        return f"PostgreSQL {UNKNOWN}"
    major, minor = divmod(connection.connection.info.server_version, 10_000)
    return f"PostgreSQL {major}.{minor}"
