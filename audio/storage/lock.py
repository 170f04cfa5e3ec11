"""The lock on the files of a session: one worker at a time writes them. It is an flock, which ends with its process."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from audio.journal.files import try_lock
from audio.storage.paths import deleted_with, folder

LOCK_NAME = "lock"


@contextlib.contextmanager
def session_lock(session_id: uuid.UUID) -> Iterator[bool]:
    """Try to acquire the session's lock until the end of the block, without waiting; yield whether it was acquired.

    If the session was deleted meanwhile, its files are deleted again, the lock among them.
    """
    with deleted_with(session_id), file_lock(folder(session_id) / LOCK_NAME) as is_ours:
        yield is_ours


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Try to acquire the lock on a file until the end of the block, without waiting; yield whether it was acquired.

    The file is created if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        yield _acquire(handle, path)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path) -> bool:
    try:
        # If the folder was deleted and created again between opening and locking, this is not the lock any more.
        return try_lock(handle) and os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
