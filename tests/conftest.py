"""Fixtures for every test. The servers behind them are started by `tests/services.py`."""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from celery import current_app
from django.conf import settings
from django.core.files.storage import storages

from audio.models import DEFAULT_PROJECT_ID, Project
from audio.models.access import DEFAULT_PROJECT_NAME
from sercuescribe.celery import app
from tests.recorded import Recorded
from tests.s3 import Bucket, s3_client, s3_server
from tests.server import Server
from tests.stored import Stored

RunServer = Callable[..., Server]
SERVICES = frozenset(("make_server", "server", "cluster", "postgres_url", "s3", "db", "transactional_db"))
# A module that has one of these by name starts processes.
STARTERS = (subprocess, subprocess.run, subprocess.Popen, Server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use services, and let the files with the most of them come first.

    A file's tests stay in their order, and a run with several workers (`--dist loadfile`) ends without one worker that
    has the longest file still to do.
    """
    for item in items:
        if uses_services(item):
            item.add_marker("services")
    files = [list(group) for _, group in itertools.groupby(items, lambda item: item.path)]
    files.sort(key=weight, reverse=True)
    items[:] = itertools.chain.from_iterable(files)


def uses_services(item: pytest.Item) -> bool:
    """Whether a test needs a database, or starts a process of the product."""
    if SERVICES.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("django_db"):
        return True
    return any(value is starter for value in vars(getattr(item, "module", None)).values() for starter in STARTERS)


def weight(items: list[pytest.Item]) -> tuple[int, int]:
    """How many tests of a file start a server of their own, and how many use services."""
    starts = sum("make_server" in getattr(item, "fixturenames", ()) for item in items)
    return starts, sum(item.get_closest_marker("services") is not None for item in items)


@pytest.fixture(scope="session", autouse=True)
def settings_of_tests() -> Iterator[None]:
    """Hash passwords with a cheap digest, and let PostgreSQL wait while a slow machine prepares the rows of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "PASSWORD_HASHERS", ["django.contrib.auth.hashers.MD5PasswordHasher"])
        patch.setitem(settings.POSTGRESQL_SESSION, "idle_in_transaction_session_timeout", "0")
        yield


@pytest.fixture(autouse=True)
def celery_stays_ours() -> Iterator[None]:
    """A test that leaves another Celery application as the current one would send what follows to its broker."""
    yield
    assert current_app.main == app.main, "the test has made another Celery application the current one"


@pytest.fixture(autouse=True)
def default_project(request: pytest.FixtureRequest) -> None:
    """The project that a migration makes; a test with transactions of its own empties every table at its end."""
    marker = request.node.get_closest_marker("django_db")
    if "transactional_db" in request.fixturenames or (marker and marker.kwargs.get("transaction")):
        request.getfixturevalue("transactional_db")
    elif marker or "db" in request.fixturenames:
        request.getfixturevalue("db")
    else:
        return
    Project.objects.get_or_create(pk=DEFAULT_PROJECT_ID, defaults={"name": DEFAULT_PROJECT_NAME})


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[RunServer]:
    """Makes a `Server` that does not run yet: `make_server(folder_name="data", **environment)`.

    At the end of the test whatever runs is killed; the log is shown when the test failed.
    """
    servers: list[Server] = []

    def make(folder_name: str = "data", **environment: str) -> Server:
        server = Server(tmp_path / folder_name, **environment)
        servers.append(server)
        return server

    yield make
    with contextlib.ExitStack() as stack:
        for server in servers:
            if hasattr(server, "process"):
                stack.callback(server.kill_all)
                sys.stdout.write(f"--- {server.log}\n{server.read_log()}")


@pytest.fixture
def run_server(make_server: RunServer) -> RunServer:
    """Makes a server and waits until it is ready: `run_server(DISCONNECT_GRACE_SECONDS="1")`."""

    def run(folder_name: str = "data", **environment: str) -> Server:
        server = make_server(folder_name, **environment)
        server.start()
        return server

    return run


@pytest.fixture(scope="module")
def run_module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunServer]:
    """Starts a server that the tests of a file share: `run_module_server(LOG_FORMAT="json")`."""
    with contextlib.ExitStack() as servers:

        def run(folder_name: str = "data", **environment: str) -> Server:
            folder = tmp_path_factory.mktemp("shared")
            server = servers.enter_context(Server(folder / folder_name, **environment))
            servers.callback(lambda: sys.stdout.write(server.read_log()))
            return server

        yield run


@pytest.fixture
def server(run_server: RunServer) -> Server:
    """A running server with the default settings."""
    return run_server()


@pytest.fixture(scope="session")
def s3() -> Iterator[tuple[int, Any]]:
    """A server that speaks S3: its port, and a client."""
    with s3_server() as port, s3_client(port) as client:
        yield port, client


@pytest.fixture
def empty_bucket(s3: tuple[int, Any]) -> Iterator[Bucket]:
    """A bucket of the test's own, behind a proxy of its own."""
    bucket = Bucket(*s3)
    yield bucket
    bucket.proxy.close()


@pytest.fixture
def bucket(empty_bucket: Bucket, settings: Any) -> Iterator[Bucket]:
    """An empty bucket, which the product's settings name as the storage of recordings."""
    settings.RECORDINGS_STORAGE = empty_bucket.url
    settings.STORAGES = {**settings.STORAGES, "recordings": empty_bucket.storage}
    yield empty_bucket
    cast(Any, storages["recordings"]).client.close()


@pytest.fixture
def recorded(transactional_db: None, settings, tmp_path: Path) -> Iterator[Recorded]:
    """A storage of its own, and a process that takes chunks into it."""
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    made = Recorded(settings.AUDIO_STORAGE_PATH)
    yield made
    made.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database_url(request: pytest.FixtureRequest) -> str:
    """Runs the test twice: with the server's own SQLite (an empty DATABASE_URL) and with a new PostgreSQL database."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def stored(db, settings, tmp_path):
    """Makes a session with these parameters."""
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    made = []

    def make(**parameters) -> Stored:
        made.append(Stored(settings.AUDIO_STORAGE_PATH, **parameters))
        return made[-1]

    yield make
    for session in made:
        session.release()
