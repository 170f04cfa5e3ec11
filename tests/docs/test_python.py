"""docs/python.md and the README of the package: their programs and commands, run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import sercuescribe_client
from sercuescribe_client import AsyncClient, Client, PlainRecorder, RecordOptions, ScribeError, ServerError
from sercuescribe_client.cli import execution

from tests.clients.python.test_command import commands
from tests.docs.text import fenced, file, table, unquoted
from tests.server import DEADLINE_SECONDS
from tests.services import REPOSITORY
from tests.sound import samples_of, speech, wav_bytes

PAGE = REPOSITORY / "docs" / "python.md"
PACKAGE = REPOSITORY / "clients" / "python"
SOUND = speech(2)
ADDRESS = "http://127.0.0.1:8000"
# It is tried by tests/clients/python/test_wheel.py, with a wheel.
INSTALL = "pip install "
NAMES = re.compile(r"`(\w+)`")


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture
def run(server, tmp_path):
    """Runs a program in a folder that has a sound and the command `scribe`."""
    (tmp_path / "talk.wav").write_bytes(wav_bytes(SOUND, 16000))
    programs = tmp_path / "bin"
    programs.mkdir()
    scribe = programs / "scribe"
    scribe.write_text(f'#!/bin/sh\nexec {sys.executable} -m sercuescribe_client.cli "$@"\n')
    scribe.chmod(0o755)

    def run(*command: str, **variables: str) -> str:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        given = {"PYTHONPATH": str(PACKAGE), "SERCUESCRIBE_URL": server.url, "PATH": path, **variables}
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | given,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    return run


def python(run, folder: Path, page: Path, name: str, server) -> str:
    (folder / name).write_text(file(page, name).replace(ADDRESS, server.url))
    return run(sys.executable, name)


def test_the_programs_do_what_the_page_says(run, server, tmp_path):
    seconds, sha256, is_verified = python(run, tmp_path, PAGE, "record.py", server).split()
    assert (float(seconds), is_verified) == (2.0, "True")
    assert samples_of((tmp_path / "recording.wav").read_bytes()) == SOUND.tobytes()
    assert python(run, tmp_path, PACKAGE / "README.md", "quick.py", server).strip() == sha256
    live = python(run, tmp_path, PAGE, "live.py", server)
    assert live.startswith("2.0 ") and "'Half'" in live and "1.0" in live
    url, token = python(run, tmp_path, PAGE, "interview.py", server).split()
    assert url.startswith("ws://") and token.startswith("scribe_token_")
    assert "recording.ready" in python(run, tmp_path, PAGE, "events.py", server).splitlines()[-1]
    code, wrong = python(run, tmp_path, PAGE, "errors.py", server).splitlines()
    assert code == "session_not_found" and wrong.startswith("invalid_parameter [8000,")


def test_the_commands_do_what_the_page_says(run, server, tmp_path):
    """Each line runs by itself, on the session of the first one."""
    lines = [line for block in fenced(PAGE, "sh") for line in block.splitlines()]
    commands = [line for line in lines if "scribe " in line]
    assert [line for line in lines if line not in commands and not line.startswith(("export ", INSTALL))] == []
    session_id = run("sh", "-c", commands[0]).strip()
    for line in commands[1:]:
        run("sh", "-c", line, SESSION=session_id)
    for name in ("recording.wav", "copy.wav"):
        assert samples_of((tmp_path / name).read_bytes()) == SOUND.tobytes()
    assert (tmp_path / "recording.mp3").stat().st_size
    with Client(server.url) as client:
        assert session_id not in [session["session_id"] for session in client.sessions.iterate()]
        (piped,) = client.sessions.list(name="From a pipe").items
        assert samples_of(b"".join(client.sessions.read(piped["session_id"]))) == SOUND.tobytes()


def test_the_table_of_commands_is_complete():
    listed = [unquoted(command) for command, _ in table(PAGE, "## The command line")]
    assert sorted(listed) == sorted(f"scribe {' '.join(command)}" for command in commands())


def test_the_exit_codes_are_those_of_the_command():
    rows = [line.strip("| ").split(" | ") for line in (execution.__doc__ or "").splitlines() if line.startswith("| ")]
    assert table(PAGE, "### Scripts") == [row for row in rows if row[0].isdigit()]


def test_the_groups_and_their_methods_are_all_there():
    listed = {unquoted(group): set(NAMES.findall(methods)) for group, methods in table(PAGE, "### Everything else")}
    asynchronous, plain = AsyncClient(api_key=""), Client(api_key="")
    plain.close()
    groups = {f"client.{name}": group for name, group in vars(asynchronous).items() if not name.startswith("_")}
    groups["client"] = asynchronous
    lifecycle = {"aclose", "url"}
    for name, group in groups.items():
        methods = {method for method in dir(type(group)) if not method.startswith("_")} - lifecycle
        assert methods == listed.pop(name), name
        other = plain if name == "client" else getattr(plain, name.removeprefix("client."))
        assert methods == {each for each in dir(type(other)) if not each.startswith("_")} - {"close", "url"} | (
            {"close"} & methods
        )
    assert not listed


def test_the_recorder_and_its_options_are_all_there():
    names = {name for row in table(PAGE, "### The recorder") for name in NAMES.findall(row[0])}
    assert names == {name for name in dir(PlainRecorder) if not name.startswith("_")}
    _, _, behind = PAGE.read_text().partition("| option of `record` | meaning |")
    options = {
        name for line in behind.split("\n\n")[0].strip().splitlines() for name in NAMES.findall(line.split("|")[1])
    }
    assert options == set(get_type_hints(RecordOptions))


def test_the_errors_are_all_there():
    listed = {unquoted(name) for name, _ in table(PAGE, "### Errors")}
    kinds = [value for value in vars(sercuescribe_client).values() if isinstance(value, type)]
    errors = {kind.__name__ for kind in kinds if issubclass(kind, ScribeError)} - {"ScribeError", "ServerError"}
    assert listed == errors and issubclass(ServerError, ScribeError)
