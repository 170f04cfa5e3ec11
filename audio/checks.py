"""System checks of the installation. Each has a stable id and a hint.

`manage.py serve`, `manage.py migrate` and the web server run them before they start anything.
`manage.py check --database default` runs them alone. A start runs only the checks of the installation (START): Django's
own checks look at the code, load all of it, and have the same result on every machine.
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

from audio.errors import FfmpegMissingError, StorageUnavailableError
from audio.media import ffmpeg

if TYPE_CHECKING:
    from audio.storage.s3 import RecordingsStorage

# The tag of the checks that a start runs, in addition to Django's `database`.
START = "start"
SQLITE_MINIMUM = (3, 35)  # UPDATE ... RETURNING
SECRET_KEY_MINIMUM_LENGTH = 32
# All secrets in .env.example contain this.
EXAMPLE = "change-me"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@register(START)
def check_ffmpeg(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.E001: compressed audio can't be joined without FFmpeg."""
    try:
        ffmpeg.find()
    except FfmpegMissingError:
        binary = settings.FFMPEG_BINARY
        found = f"FFMPEG_BINARY is not a program: {binary!r}." if binary else "FFmpeg was not found."
        hint = "Set FFMPEG_BINARY to an FFmpeg program, or unset it to use the one that requirements/base.txt installs."
        return [Error(found, hint=hint, id="sercuescribe.E001")]
    return []


@register(START)
def check_storage(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.E002: journals and recordings need a folder that can be written, or created later."""
    folder = settings.AUDIO_STORAGE_PATH
    try:
        tempfile.TemporaryFile(dir=_nearest(folder)).close()
    except OSError as error:
        message = f"The folder {folder} can't be written: {error.strerror}."
        return [Error(message, hint="Set DATA_DIR or AUDIO_STORAGE_PATH, or change its owner.", id="sercuescribe.E002")]
    return []


@register(START)
def check_temporary_folder(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.E006: FFmpeg's messages and some libraries need temporary files."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        hint = "Mount one at /tmp (Compose: `tmpfs: [/tmp]`), or set TMPDIR to a writable folder."
        return [Error("There is no writable temporary folder.", hint=hint, id="sercuescribe.E006")]
    return []


def _nearest(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


@register(START)
def check_secret_key(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.E004: the key signs tickets and sessions of the admin, so it must not be guessable."""
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
    """Check sercuescribe.E005: the secrets in .env.example are public, and allowed only under DEBUG."""
    secrets = {
        "SECRET_KEY": settings.SECRET_KEY,
        "The password in DATABASE_URL": str(settings.DATABASES["default"].get("PASSWORD") or ""),
        "The password in REDIS_URL": settings.REDIS_URL,
        "FLOWER_BASIC_AUTH": settings.FLOWER_BASIC_AUTH,
        "METRICS_TOKEN": settings.METRICS_TOKEN,
    }
    return [
        Error(
            f"{name} is the example secret of .env.example.",
            hint="Replace it with a secret of your own.",
            id="sercuescribe.E005",
        )
        for name, value in secrets.items()
        if EXAMPLE in value and not settings.DEBUG
    ]


@register(START)
def check_debug(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.W001: the error pages of DEBUG show settings and source code to everybody who can connect."""
    if not settings.DEBUG or settings.HOST in LOOPBACK:
        return []
    message = f"DEBUG is on while the server listens on {settings.HOST}."
    return [Warning(message, hint="Unset DEBUG if others can connect.", id="sercuescribe.W001")]


@register(START)
def check_authentication(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.W004: without authentication, everybody who can connect may record, listen and delete."""
    if settings.REQUIRE_AUTH or settings.IS_LOCAL_ONLY:
        return []
    message = "REQUIRE_AUTH is off, and other machines may connect: everybody who does may record, listen and delete."
    hint = "Set REQUIRE_AUTH=true, unless a proxy in front of the server authenticates everybody."
    return [Warning(message, hint=hint, id="sercuescribe.W004")]


@register(Tags.database)
def check_recordings_storage(**_: Any) -> list[CheckMessage]:
    """Check sercuescribe.W003: finished recordings stay on the local disk while their storage does not accept them.

    This does not prevent a start, because recordings can be uploaded later. The check connects to another machine, and
    so runs with the checks of the database.
    """
    if not settings.RECORDINGS_STORAGE:
        return []
    try:
        # The check uses a storage of its own: a worker's children must not share the connections of their parent.
        cast("RecordingsStorage", storages.create_storage(settings.STORAGES["recordings"])).reach()
    except StorageUnavailableError as error:
        message = f"{settings.RECORDINGS_STORAGE} can't be used: {error.__cause__}"
        hint = "Recordings stay on the local disk until it can. Check RECORDINGS_STORAGE and the AWS_ variables."
        return [Warning(message, hint=hint, id="sercuescribe.W003")]
    return []


@register(Tags.database)
def check_sqlite(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check sercuescribe.E003: the commit of chunks needs `UPDATE ... RETURNING`."""
    uses_sqlite = any(connections[alias].vendor == "sqlite" for alias in databases or ())
    if not uses_sqlite or sqlite3.sqlite_version_info >= SQLITE_MINIMUM:
        return []
    message = f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or later is needed."
    hint = "Use a newer Python, or set DATABASE_URL to a PostgreSQL."
    return [Error(message, hint=hint, id="sercuescribe.E003")]


@register(Tags.database)
def check_postgresql_durability(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Check sercuescribe.W002: without these settings a row may be lost after the acknowledgement."""
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
