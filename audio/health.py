"""What this server needs to do its work, and whether it is there: the database, Redis, the storage, FFmpeg."""

import tempfile
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, connection
from redis import Redis, RedisError

from audio.errors import FfmpegMissing
from audio.media import ffmpeg

ANSWER_SECONDS = 1.0


class Down(Exception):
    """What was asked does not answer as it should; the sentence names no address and no path."""


def check_database() -> None:
    """Raises Down unless the database answers a query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        raise Down("The database does not answer.") from error


def check_redis() -> None:
    """Raises Down unless Redis answers within ANSWER_SECONDS."""
    url = settings.CACHES["default"]["LOCATION"]
    try:
        with Redis.from_url(url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS) as client:
            client.ping()
    except RedisError as error:
        raise Down("Redis does not answer.") from error


def check_storage() -> None:
    """Raises Down unless a file can be written under AUDIO_STORAGE_PATH."""
    try:
        settings.AUDIO_STORAGE_PATH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.AUDIO_STORAGE_PATH) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise Down(f"The storage can't be written: {error.strerror}.") from error


def check_ffmpeg() -> None:
    """Raises Down unless there is a program to run."""
    try:
        ffmpeg.find()
    except FfmpegMissing as error:
        raise Down(error.detail) from error


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "redis": check_redis,
    "storage": check_storage,
    "ffmpeg": check_ffmpeg,
}


def failures() -> dict[str, str]:
    """Returns what is down, by name, each with a sentence; nothing if all is well."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Down as error:
            found[name] = str(error)
    return found
