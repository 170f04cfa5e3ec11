"""Fixtures for every test. The servers behind them are started by `tests/services.py`."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import current_app

from sercuescribe.celery import app
from tests.server import Server

RunServer = Callable[..., Server]


@pytest.fixture(autouse=True)
def celery_stays_ours() -> Iterator[None]:
    """A test that leaves another Celery application as the current one would send what follows to its broker."""
    yield
    assert current_app.main == app.main, "the test has made another Celery application the current one"


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


@pytest.fixture
def server(run_server: RunServer) -> Server:
    """A running server with the default settings."""
    return run_server()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database_url(request: pytest.FixtureRequest) -> str:
    """Runs the test twice: with the server's own SQLite (an empty DATABASE_URL) and with a new PostgreSQL database."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
