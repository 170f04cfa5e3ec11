"""A small disk that can be filled to its last byte: a file system in memory, mounted for one test.

Root mounts it. Everybody else is given a name space of their own, in which they may (`unshare --user --map-root-user`);
a process in that name space holds it, and is asked to run what has to see the disk.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """The file system at `path`. `enter` is the command that runs another one where it can be seen."""

    def __init__(self, path: Path, enter: list[str]) -> None:
        self.path = path
        self.enter = enter

    def run(self, *command: str) -> str:
        """Run a command where the disk is mounted; return what it wrote."""
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True).stdout

    def fill(self) -> None:
        """Fill it to the last byte with a file of nothing."""
        script = f"cat /dev/zero >> {self.path}/filler 2>/dev/null || true"
        self.run("sh", "-c", script)
        assert self.free_bytes() == 0

    def make_room(self) -> None:
        """Remove that file."""
        self.run("rm", "-f", str(self.path / "filler"))

    def free_bytes(self) -> int:
        """Return how much can be written."""
        return int(self.run("stat", "--file-system", "--format=%a", str(self.path))) and 1


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Disk]:
    """Mount a disk of that size, such as "40m", at the new folder `path`."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    if os.geteuid() == 0:
        subprocess.run(mount, check=True)
        try:
            yield Disk(path, [])
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        return
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{' '.join(mount)} && echo mounted && cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.fail("No file system can be mounted here: neither as root nor in a name space of a user's own.")
        yield Disk(path, ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", str(holder.pid)])
    finally:
        holder.kill()
        holder.wait()
