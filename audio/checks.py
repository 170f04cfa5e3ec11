"""System checks: what would make a start pointless or a promise void. Each has a stable id and a hint.

`manage.py serve`, `manage.py migrate` and the web server run them before they start anything;
`manage.py check --database default` runs them alone. A start runs only those that look at the installation (START):
Django's own look at the code, load all of it, and find the same on each machine.
"""

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.files.storage import storages
from django.db import connections

from audio.errors import FfmpegMissing, StorageUnavailable
from audio.media import ffmpeg

if TYPE_CHECKING:
    from audio.storage.s3 import RecordingsStorage

# The tag of the checks that a start makes, beside Django's `database`.
START = "start"
SQLITE_MINIMUM = (3, 35)  # UPDATE ... RETURNING
SECRET_KEY_MINIMUM_LENGTH = 32
# What the secrets of .env.example are made of.
EXAMPLE = "change-me"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@register(START)
def check_ffmpeg(**_: Any) -> list[CheckMessage]:
    """sercuescribe.E001: compressed audio can't be joined without FFmpeg."""
    try:
        ffmpeg.find()
    except FfmpegMissing:
        asked = settings.FFMPEG_BINARY
        found = f"FFMPEG_BINARY is not a program: {asked!r}." if asked else "FFmpeg was not found."
        hint = "Set FFMPEG_BINARY to an FFmpeg program, or unset it to use the one that requirements/base.txt installs."
        return [Error(found, hint=hint, id="sercuescribe.E001")]
    return []


@register(START)
def check_storage(**_: Any) -> list[CheckMessage]:
    """sercuescribe.E002: journals and recordings need a folder that can be written, or made. It is not made here."""
    folder = settings.AUDIO_STORAGE_PATH
    try:
        tempfile.TemporaryFile(dir=_nearest(folder)).close()
    except OSError as error:
        message = f"The folder {folder} can't be written: {error.strerror}."
        return [
            Error(message, hint="Set AUDIO_STORAGE_PATH, or change the owner of the folder.", id="sercuescribe.E002")
        ]
    return []


@register(START)
def check_temporary_folder(**_: Any) -> list[CheckMessage]:
    """sercuescribe.E006: FFmpeg's messages and the work of libraries pass through files that nobody keeps."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        hint = "Mount one at /tmp (Compose: `tmpfs: [/tmp]`), or set TMPDIR to a writable folder."
        return [Error("There is no writable temporary folder.", hint=hint, id="sercuescribe.E006")]
    return []


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it in which it would be made."""
    while not folder.exists():
        folder = folder.parent
    return folder


@register(START)
def check_secret_key(**_: Any) -> list[CheckMessage]:
    """sercuescribe.E004: sessions of the admin and tickets are signed with the key."""
    if len(settings.SECRET_KEY) >= SECRET_KEY_MINIMUM_LENGTH:
        return []
    message = f"SECRET_KEY has fewer than {SECRET_KEY_MINIMUM_LENGTH} characters and could be guessed."
    return [
        Error(
            message,
            hint="Unset it. The server then generates a good key and keeps it in DATA_DIR.",
            id="sercuescribe.E004",
        )
    ]


@register(START)
def check_example_secrets(**_: Any) -> list[CheckMessage]:
    """sercuescribe.E005: what everybody can read in .env.example is no secret; under DEBUG it need not be one."""
    secrets = {
        "SECRET_KEY": settings.SECRET_KEY,
        "The password in DATABASE_URL": str(settings.DATABASES["default"].get("PASSWORD") or ""),
        "The password in REDIS_URL": settings.REDIS_URL,
        "FLOWER_BASIC_AUTH": settings.FLOWER_BASIC_AUTH,
    }
    return [
        Error(
            f"{name} is the example of .env.example.",
            hint="Replace it with a secret of your own.",
            id="sercuescribe.E005",
        )
        for name, value in secrets.items()
        if EXAMPLE in value and not settings.DEBUG
    ]


@register(START)
def check_debug(**_: Any) -> list[CheckMessage]:
    """sercuescribe.W001: pages of DEBUG show settings and source code to whoever can cause an error."""
    if not settings.DEBUG or settings.HOST in LOOPBACK:
        return []
    message = f"DEBUG is on while the server listens on {settings.HOST}."
    return [Warning(message, hint="Unset DEBUG if others can connect.", id="sercuescribe.W001")]


@register(Tags.database)
def check_recordings_storage(**_: Any) -> list[CheckMessage]:
    """sercuescribe.W003: finished recordings stay here for as long as their storage does not take them.

    No reason not to start: what is recorded meanwhile is uploaded later. It asks another machine, and so is done when
    those of the database are.
    """
    if not settings.RECORDINGS_STORAGE:
        return []
    try:
        # One of its own: a worker's children must not share the connections of their parent.
        cast("RecordingsStorage", storages.create_storage(settings.STORAGES["recordings"])).reach()
    except StorageUnavailable as error:
        message = f"{settings.RECORDINGS_STORAGE} can't be used: {error.__cause__}"
        hint = "Recordings stay on the local disk until it can. Check RECORDINGS_STORAGE and the AWS_ variables."
        return [Warning(message, hint=hint, id="sercuescribe.W003")]
    return []


@register(Tags.database)
def check_sqlite(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """sercuescribe.E003: the commit of chunks reads what it has updated in the same statement."""
    uses_sqlite = any(connections[alias].vendor == "sqlite" for alias in databases or ())
    if not uses_sqlite or sqlite3.sqlite_version_info >= SQLITE_MINIMUM:
        return []
    message = f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed."
    hint = "Use a newer Python, or set DATABASE_URL to a PostgreSQL."
    return [Error(message, hint=hint, id="sercuescribe.E003")]


@register(Tags.database)
def check_postgresql_durability(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """sercuescribe.W002: an acknowledgement says that the row is on the disk, and these settings make that untrue."""
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if connections[alias].vendor == "postgresql":
            messages += [
                Warning(
                    f"PostgreSQL runs with {name} = off. An acknowledged chunk can be lost when the machine fails.",
                    hint=f"Set {name} = on in postgresql.conf, for the role, or for the database.",
                    id="sercuescribe.W002",
                )
                for name in ("fsync", "synchronous_commit")
                if _postgresql_setting(alias, name) == "off"
            ]
    return messages


def _postgresql_setting(alias: str, name: str) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        (value,) = cursor.fetchone()
        return str(value)
