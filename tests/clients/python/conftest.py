"""One server for all tests of the Python client, which asks who is there, and clients with its keys."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sercuescribe_client import AsyncClient
from sercuescribe_client.cli.app import app
from typer.testing import CliRunner, Result

from tests.server import Server
from tests.services import REPOSITORY

CLIENT = REPOSITORY / "clients" / "python"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with REQUIRE_AUTH, where webhooks may lead to this machine."""
    folder = tmp_path_factory.mktemp("python-client") / "data"
    with Server(folder, REQUIRE_AUTH="true", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8") as running:
        yield running
        sys.stdout.write(running.read_log())


@pytest.fixture(scope="session")
def key(server: Server) -> str:
    """A key with all scopes."""
    scopes = [text for scope in ("record", "read", "manage") for text in ("--scope", scope)]
    return server.manage("apikey", "create", "python-client", *scopes).strip()


@pytest.fixture
async def client(server: Server, key: str) -> AsyncIterator[AsyncClient]:
    """An asynchronous client."""
    async with AsyncClient(server.url, key) as made:
        yield made


class Scribe:
    """The command `scribe`, run in this process, or in one of its own."""

    def __init__(self, url: str, key: str | None, folder: Path) -> None:
        self._variables = {"SERCUESCRIBE_URL": url, "SERCUESCRIBE_API_KEY": key}
        self._folder = folder
        self.headers = {"Authorization": f"Bearer {key}"}

    def __call__(self, *arguments: str, code: int = 0, standard_input: str | None = None) -> Result:
        """Run the command in this process, and check its exit code."""
        done = CliRunner(env=self._variables).invoke(app, arguments, input=standard_input)
        assert done.exit_code == code, (done.output, done.exception)
        return done

    def start(self, *arguments: str, **options) -> subprocess.Popen:
        """Start the command in a process of its own."""
        given = {name: value for name, value in self._variables.items() if value}
        return subprocess.Popen(
            [sys.executable, "-m", "sercuescribe_client.cli", *arguments],
            cwd=self._folder,
            env=os.environ | given | {"PYTHONPATH": str(CLIENT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )


@pytest.fixture
def scribe(server: Server, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scribe:
    """The command with a key that may do everything, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Scribe(server.url, key, tmp_path)
