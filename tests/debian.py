"""Programs of Debian and Ubuntu that tests run against: nginx, HAProxy, PgBouncer, promtool, systemd-analyze.

`program("nginx")` is the one on PATH, else one that is unpacked from its package below the virtual environment. That
needs apt-get and dpkg, but no root. Where there is neither, the test is skipped and says so.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "debian"
# The packages of a program, with those of its libraries that a small system lacks.
PACKAGES = {
    "nginx": ["nginx"],
    "haproxy": ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
    "pgbouncer": ["pgbouncer", "libevent-2.1-7", "libc-ares2"],
    "promtool": ["prometheus"],
    "systemd-analyze": ["systemd", "libsystemd-shared"],
}
# Names of the same libraries in later releases.
RENAMED = {"libevent-2.1-7": "libevent-2.1-7t64", "libopentracing1": "libopentracing-c-wrapper0t64"}


@dataclass(frozen=True)
class Program:
    """A program and the environment that it needs."""

    path: Path
    environment: dict[str, str]


def program(name: str) -> Program:
    """Return a program by its name; the test is skipped where it is not to be had."""
    if found := shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])):
        return Program(Path(found), dict(os.environ))
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = FOLDER / name
        if not root.exists():
            _unpack(PACKAGES[name], root)
    (path,) = [path for folder in ("usr/sbin", "usr/bin") if (path := root / folder / name).exists()]
    libraries = os.pathsep.join(sorted({str(each.parent) for each in root.glob("usr/lib/**/*.so*")}))
    return Program(path, {**os.environ, "LD_LIBRARY_PATH": libraries})


def _unpack(packages: list[str], root: Path) -> None:
    for needed in ("apt-get", "dpkg"):
        if shutil.which(needed) is None:
            pytest.skip(f"{packages[0]} is not on PATH, and there is no {needed} to fetch it with")
    scratch = root.with_name(f"{root.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "packages").mkdir(parents=True)
    for package in packages:
        if not (_download(package, scratch) or _download(RENAMED.get(package, package), scratch)):
            pytest.skip(f"{package} is not on PATH, and apt-get can't fetch it")
    for archive in (scratch / "packages").glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(archive), str(scratch)], check=True)
    scratch.rename(root)


def _download(package: str, scratch: Path) -> bool:
    """Download a package; if the lists of the system don't know it, with lists of our own."""
    lists, cache = FOLDER / "lists", FOLDER / "cache"
    own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}", "-o", "APT::Sandbox::User="]
    if _succeeds(["apt-get", "download", package], scratch / "packages"):
        return True
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    return _succeeds(["apt-get", *own, "update"], scratch) and _succeeds(
        ["apt-get", *own, "download", package], scratch / "packages"
    )


def _succeeds(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
