"""Faults of the disk and of the clock for the parts of a cluster: `shim.c`, compiled, and its switches."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.stack import Cluster, Part


class Shim:
    """The compiled shim, loaded by parts. Each has a folder of its own, in which a file switches a fault on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "shim.so"

    def compile(self) -> str:
        """Compile it; return why it can't be, empty if it is there."""
        if shutil.which("cc") is None:
            return "no C compiler (cc)"
        self._folder.mkdir()
        source = Path(__file__).with_name("shim.c")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        return f"cc failed: {done.stderr.strip()}" if done.returncode else ""

    def load_into(self, cluster: Cluster) -> None:
        """Have the cluster's PostgreSQL and its parts of the product load it when they are launched."""
        for part in [cluster.database, *cluster.products()]:
            self._switches(part).mkdir()
            part.environment |= {
                "LD_PRELOAD": str(self._library),
                "FAULTS": str(self._switches(part)),
                "FAULTY_STORAGE": str(cluster.storage),
            }

    def _switches(self, part: Part) -> Path:
        return self._folder / part.name

    @contextlib.contextmanager
    def failing_writes(self, part: Part) -> Iterator[None]:
        """Have the part's writes fail, as on a disk without room."""
        with self._switched(part, "write", errno.ENOSPC):
            yield

    @contextlib.contextmanager
    def failing_syncs(self, part: Part) -> Iterator[None]:
        """Have the part's syncs fail."""
        with self._switched(part, "sync", errno.EIO):
            yield

    @contextlib.contextmanager
    def short_write(self, part: Part) -> Iterator[None]:
        """Have the next batch that the part writes be cut short."""
        with self._switched(part, "short", 1):
            yield

    @contextlib.contextmanager
    def stepped_clock(self, part: Part, seconds: int) -> Iterator[None]:
        """Have the part's clock stand so many seconds ahead, or behind."""
        with self._switched(part, "clock", seconds):
            yield

    @contextlib.contextmanager
    def _switched(self, part: Part, fault: str, number: int) -> Iterator[None]:
        switch = self._switches(part) / fault
        made = switch.with_suffix(".new")
        made.write_text(str(number))
        made.replace(switch)
        try:
            yield
        finally:
            switch.unlink(missing_ok=True)
