"""Files that survive a power failure: write, sync, rename, sync the folders; and the digests of files."""

import hashlib
import os
import tempfile
from pathlib import Path

from audio.journal.files import sync_folder


def place(output: Path, final: Path) -> int:
    """Rename a finished file durably to `final` on the same file system.

    Args:
        output: The file. No process writes to it any more.
        final: Its new path. A file with this name is replaced. The folder may be new, but not its parent.

    Returns:
        The size in bytes.
    """
    with output.open("rb") as file:
        os.fsync(file.fileno())
        size_bytes = os.fstat(file.fileno()).st_size
    output.replace(final)
    for folder in (final.parent, final.parent.parent):
        sync_folder(folder)
    return size_bytes


def replace(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it has either its old content or the new one.

    Args:
        path: The file. Its folder and the parent of the folder may be new.
        data: The content.

    Raises:
        OSError: The file could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        place(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent.parent.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
