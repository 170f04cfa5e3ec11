"""One worker at a time on a session's files: an flock that the kernel lets go when its holder dies."""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from audio.storage.paths import folder

LOCK_NAME = "lock"


@contextlib.contextmanager
def session_lock(session_id: uuid.UUID) -> Iterator[bool]:
    """Gives whether the session's lock is ours until the end of the block; it never waits."""
    with file_lock(folder(session_id) / LOCK_NAME) as is_ours:
        yield is_ours


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Gives whether the lock on the file, made if it is not there, is ours until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        yield _acquire(handle, path)
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The folder may have been deleted and made anew between opening and locking: that is another lock.
        return os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
