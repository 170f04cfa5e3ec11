"""What the database's errors mean, and the reserve that lets SQLite delete on a full disk.

Django's classes follow the drivers', which sort one cause into several: a PostgreSQL that became read-only raises
InternalError, one that was stopped OperationalError or InterfaceError. `AWAY` is the one list of those that pass by
themselves; `refusal` says what a client is told.

SQLite needs space to delete a row. On a disk that is full to the last byte nobody could make room, so a file of
RESERVE_BYTES lies beside the database. A deletion that finds the disk full removes the file and goes on in its place
(`release_reserve`). Who takes chunks or makes recordings asks for the reserve first (`hold_reserve`), and is refused
until there is room for it again.
"""

import errno
import os
import shutil
import sqlite3
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError

from audio.errors import DatabaseUnavailable, ServiceError, StorageFull

AWAY = (OperationalError, InterfaceError, InternalError)
RESERVE_BYTES = 8 * 1024 * 1024
# The reserve is made again when that many times its size is free: what a deletion frees at first is for the deletion.
_ROOM_FACTOR = 2
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_POSTGRESQL_FULL = "53100"  # disk_full


def is_full(error: BaseException) -> bool:
    """Tell whether a database error, or what caused it, says that a disk has no room.

    Args:
        error: An error of Django's or of the driver's.
    """
    causes = (error, error.__cause__)
    return any(
        getattr(cause, "sqlite_errorcode", None) in _SQLITE_FULL
        or getattr(cause, "sqlstate", None) == _POSTGRESQL_FULL
        or (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        for cause in causes
    )


def refusal(error: BaseException) -> ServiceError:
    """Return what is answered to a request that failed with this database error."""
    return StorageFull() if is_full(error) else DatabaseUnavailable()


def hold_reserve() -> None:
    """Make the reserve if it is not there.

    Raises:
        OSError: With ENOSPC, if the disk has no room for it.
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
        Whether it was there, so that what failed on a full disk deserves another try.
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
    """Return where the reserve is; None if the database is not a file of ours."""
    path: Path | None = settings.SQLITE_FILE
    return path.with_name("reserve") if path is not None else None
