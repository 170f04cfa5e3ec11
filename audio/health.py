"""Health checks of the services that this server needs.

Without the database or the storage nothing is recorded (`NEEDED`). Without Redis or FFmpeg everything is recorded, but
the recordings are late (`LATE`).
"""

import tempfile
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, connection
from redis import RedisError, ResponseError

from audio import database, events
from audio.errors import FfmpegMissingError
from audio.media import ffmpeg

ANSWER_SECONDS = 1.0


class DownError(Exception):
    """A service does not work as it should. The sentence contains no address and no path."""


def check_database() -> None:
    """Raise DownError unless the database answers a query and accepts writes."""
    is_read_only = "SELECT current_setting('transaction_read_only') = 'on'"
    try:
        with connection.cursor() as cursor:
            cursor.execute(is_read_only if connection.vendor == "postgresql" else "SELECT 0")
            (rejects,) = cursor.fetchone()
    except DatabaseError as error:
        raise DownError("The database does not answer.") from error
    if rejects:
        raise DownError("The database is read-only.")


def check_redis() -> None:
    """Raise DownError unless Redis accepts a write within ANSWER_SECONDS."""
    try:
        events.try_redis(ANSWER_SECONDS)
    except ResponseError as error:
        raise DownError(f"Redis rejects writes: {error}") from error
    except RedisError as error:
        raise DownError("Redis does not answer.") from error


def check_storage() -> None:
    """Raise DownError unless a file can be written under AUDIO_STORAGE_PATH and the database has its reserve."""
    try:
        database.hold_reserve()
        settings.AUDIO_STORAGE_PATH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.AUDIO_STORAGE_PATH) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise DownError(f"The storage can't be written: {error.strerror}.") from error


def check_ffmpeg() -> None:
    """Raise DownError unless there is an FFmpeg that runs."""
    try:
        ffmpeg.version(ffmpeg.find())
    except FfmpegMissingError as error:
        raise DownError(error.detail) from error


NEEDED = ("database", "storage")
LATE = ("redis", "ffmpeg")
CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "redis": check_redis,
    "storage": check_storage,
    "ffmpeg": check_ffmpeg,
}


def failures() -> dict[str, str]:
    """Return a sentence for each service that is down, by its name."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
        except DownError as error:
            found[name] = str(error)
    return found
