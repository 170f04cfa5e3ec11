"""The processes that a benchmark measures: reference applications, and what the operating system accounts to each."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.server import eventually
from tests.services import REPOSITORY

# As the product's own server is configured (sercuescribe/server.py).
UVICORN = "--ws websockets-sansio --loop uvloop --http httptools --lifespan off --no-access-log --log-level error"
NO_DEFLATE = ("--ws-per-message-deflate", "false")
SOCKET_PATH = "/api/ws/audio?format=wav&sample_rate=16000&channels=1"


@dataclass(frozen=True)
class Target:
    """A server that is measured: its port, and its process."""

    port: int
    process: psutil.Process


@contextlib.contextmanager
def application(name: str, **environment: str) -> Iterator[Target]:
    """Run an ASGI application of this package on uvicorn."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    module = f"tests.bench.{name}:application"
    command = [sys.executable, "-m", "uvicorn", module, "--port", str(port), *UVICORN.split(), *NO_DEFLATE]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, **environment}) as process:
        try:
            eventually(lambda: _accepts(port))
            yield Target(port, psutil.Process(process.pid))
        finally:
            process.terminate()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process so far, in user and kernel mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def family_cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process, of its children, and of children that have ended."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def pss_mib(processes: Iterable[psutil.Process]) -> float:
    """Return the memory of processes, with shared pages divided among them."""
    return sum(_pss_bytes(process.pid) for process in processes) / (1 << 20)


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
