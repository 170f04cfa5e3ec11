"""The database's clock, the meaning of its errors, and the reserve that lets SQLite delete rows on a full disk.

Django's error classes follow those of the drivers, and one cause appears as several classes: a PostgreSQL that became
read-only raises InternalError, a stopped one raises OperationalError or InterfaceError. `AWAY` lists the errors that
may pass. `rejection` chooses the answer for clients.

SQLite needs space to delete a row, so on a completely full disk nothing could be deleted. Therefore a file of
RESERVE_BYTES lies beside the database. A deletion that finds the disk full removes this file and uses its space
(`release_reserve`). Code that stores chunks or makes recordings calls `hold_reserve` first, which raises an error until
there is space for the reserve again.
"""

import errno
import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, connection
from django.utils import timezone

from audio.errors import DatabaseUnavailableError, ServiceError, StorageFullError

AWAY = (OperationalError, InterfaceError, InternalError)
RESERVE_BYTES = 8 * 1024 * 1024
# The reserve is created again only if this many times its size is free, because the deletion itself needs space first.
_ROOM_FACTOR = 2
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_POSTGRESQL_FULL = "53100"  # disk_full


def database_time() -> datetime:
    """Return the time of now on PostgreSQL's clock; with SQLite all are on one host, and its clock is as good."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        # Inside of a transaction now() would be when that began.
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)


def is_full(error: BaseException) -> bool:
    """Tell whether a database error, or its cause, says that a disk is full.

    Args:
        error: An error of Django or of the driver.
    """
    causes = (error, error.__cause__)
    return any(
        getattr(cause, "sqlite_errorcode", None) in _SQLITE_FULL
        or getattr(cause, "sqlstate", None) == _POSTGRESQL_FULL
        or (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        for cause in causes
    )


def rejection(error: BaseException) -> ServiceError:
    """Return the error that clients get for a request that failed with this database error."""
    return StorageFullError() if is_full(error) else DatabaseUnavailableError()


def hold_reserve() -> None:
    """Create the reserve if it does not exist.

    Raises:
        OSError: The disk is too full for it (ENOSPC).
    """
    path = _reserve_path()
    if path is None or path.exists():
        return
    if shutil.disk_usage(path.parent).free < _ROOM_FACTOR * RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    making = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        making.write_bytes(bytes(RESERVE_BYTES))
        making.replace(path)
    except OSError:
        making.unlink(missing_ok=True)
        raise


def release_reserve() -> bool:
    """Remove the reserve.

    Returns:
        Whether the reserve existed. If so, an operation that failed on the full disk can be retried.
    """
    path = _reserve_path()
    if path is None:
        return False
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _reserve_path() -> Path | None:
    """Return the path of the reserve; None if the database is not an SQLite file."""
    path: Path | None = settings.SQLITE_FILE
    return path.with_name("reserve") if path is not None else None
