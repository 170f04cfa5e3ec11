"""The commands of production in docs/operations.md: those that the tests of docker/ run, word by word, and the web
server's. No container engine runs where the tests do, so of Compose's own commands only what they name is looked at.
"""

import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.docker.files import example, services
from tests.docs.text import fenced, table, unquoted
from tests.server import DEADLINE_SECONDS, eventually, free_port, migrated
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "operations.md"
PROXIES = [unquoted(name) for name, _ in table(PAGE, "### Proxies")]
BIN = ".venv/bin/"
SERVER = f"{BIN}python -m sercuescribe.server "
COMPOSE = "docker compose "


def lines(beginning: str) -> list[str]:
    """The commands of the page that begin so."""
    return [line for block in fenced(PAGE, "sh") for line in block.splitlines() if line.startswith(beginning)]


def test_the_processes_are_those_that_compose_runs():
    """What `tests/docker/test_stack.py` starts, records with and stops."""
    (block,) = [block for block in fenced(PAGE, "sh") if SERVER in block]
    _, migrate, server, *others = [shlex.split(line.removeprefix(BIN)) for line in block.splitlines()]
    run = {name: service.command for name, service in services(example()).items()}
    assert (migrate, server[:3]) == (run["migrate"], run["web"])
    *workers, flower = others
    assert workers == [run[name] for name in ("worker", "jobs", "beat")]
    # In a container its port is published on the loopback address.
    assert flower == [*run["flower"], "--address=127.0.0.1"]


def test_the_web_server_serves_as_written(tmp_path):
    (line,) = lines(SERVER)
    port = str(free_port())
    command = [sys.executable, *shlex.split(line.replace("8000", port))[1:]]
    with subprocess.Popen(command, cwd=REPOSITORY, env=migrated(tmp_path / "data")) as process:
        try:
            eventually(lambda: answers(port))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


def answers(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("line", lines(COMPOSE))
def test_what_is_said_to_compose_names_what_is_there(line):
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    parser.add_argument("--profile", default="")
    up = verbs.add_parser("up")
    up.add_argument("--detach", action="store_true")
    up.add_argument("--scale", action="append", default=[])
    verbs.add_parser("build").add_argument("--pull", action="store_true")
    inside = verbs.add_parser("exec")
    inside.add_argument("service")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    said = vars(parser.parse_args(shlex.split(line.removeprefix(COMPOSE))))
    named = [*(each.split("=")[0] for each in said.get("scale", [])), said.get("service", "web")]
    assert set(named) <= set(services(example(), said["profile"]))


def test_every_service_is_told_of():
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in services(example(), "monitoring"))


def test_the_files_are_where_the_page_says():
    for name in ("docker-compose.yml", ".env.example", "docker/Dockerfile", *PROXIES):
        assert (REPOSITORY / Path(name)).is_file()
