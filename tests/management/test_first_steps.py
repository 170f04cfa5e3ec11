"""A first start tells its operator who may use the server, and how to begin."""

import os
import subprocess
import sys

import httpx
import pytest

from audio.management.first_steps import ASKS_NOBODY, NOBODY_KNOWN
from tests.server import DEADLINE_SECONDS, READY, eventually, migrated
from tests.services import REPOSITORY

SESSIONS = "/api/audio/sessions"


def advice(server) -> list[str]:
    """The sentences of the log."""
    log = server.read_log()
    return [sentence for sentence in (ASKS_NOBODY, NOBODY_KNOWN) if sentence in log]


def test_a_server_of_this_machine_says_that_it_asks_nobody(run_server):
    server = run_server(REQUIRE_AUTH="")
    eventually(lambda: advice(server) == [ASKS_NOBODY])
    assert server.read_log().count(ASKS_NOBODY) == 1
    assert httpx.get(server.url + SESSIONS).status_code == 200


def test_a_server_that_asks_says_how_to_begin_until_somebody_is_known(run_server):
    server = run_server(REQUIRE_AUTH="true")
    eventually(lambda: advice(server) == [NOBODY_KNOWN])
    assert httpx.get(server.url + SESSIONS).status_code == 401
    key = server.manage("apikey", "create", "first", "--scope", "read").strip()
    server.stop()
    server.log.write_text("")
    server.restart()
    assert httpx.get(server.url + SESSIONS, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    server.stop()
    assert advice(server) == []


def test_a_server_that_others_can_reach_asks(make_server):
    """The argument counts like the variable. The header Host does not tell where a request comes from."""
    server = make_server(REQUIRE_AUTH="")
    server.launch("--host", "0.0.0.0")
    url = server._first_line().removeprefix(READY).strip().replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(url + SESSIONS, headers={"Host": "localhost"}).status_code == 401
    eventually(lambda: advice(server) == [NOBODY_KNOWN])


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "sercuescribe.server", "--host", "0.0.0.0", "--port", "0"],
        ["manage.py", "runserver", "--noreload", "0.0.0.0:0"],
    ],
)
def test_others_are_not_served_with_the_settings_of_this_machine(tmp_path, arguments):
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=migrated(tmp_path / "data", REQUIRE_AUTH=""),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert ended.returncode == 1
    assert "Others can connect to 0.0.0.0. Set HOST=0.0.0.0 as well, or set REQUIRE_AUTH." in ended.stderr


@pytest.mark.parametrize(("variables", "said"), [({"REQUIRE_AUTH": "true"}, True), ({}, False)])
def test_migrations_say_how_to_begin(tmp_path, variables, said):
    environment = os.environ | {"DATA_DIR": str(tmp_path / "data")} | variables
    command = [sys.executable, "manage.py", "migrate", "--no-input"]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert (NOBODY_KNOWN in ended.stdout) is said
