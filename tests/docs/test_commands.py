"""The operators' commands in docs/operations.md, run as they are written, on a session with another id."""

import shlex

import pytest
from django.core.management import call_command

from audio.assembly.concatenate import concatenate
from audio.models import AudioSession
from tests.docs.text import PAGES, fenced
from tests.recorded import Recorded

PAGE = next(page for page in PAGES if page.name == "operations.md")
PROGRAM = ".venv/bin/python manage.py "
EXAMPLE = "123e4567-e89b-42d3-a456-426614174000"
COMMANDS = {"sessions", "verify", "rebuild", "stats", "reindex"}


def lines() -> list[str]:
    """The commands' arguments, in the order in which the page has them."""
    written = [line for block in fenced(PAGE, "sh") for line in block.splitlines() if line.startswith(PROGRAM)]
    arguments = [line.removeprefix(PROGRAM) for line in written]
    return [line for line in arguments if line.split()[0] in COMMANDS]


@pytest.mark.parametrize("line", lines())
def test_a_command_runs_as_written(recorded: Recorded, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    key = recorded.session(b"\0" * 320, b"\1" * 320)
    # What a worker does meanwhile.
    monkeypatch.setattr("audio.management.commands.rebuild.time.sleep", lambda seconds: concatenate(key))
    recorded.stop()
    call_command(*shlex.split(line.replace(EXAMPLE, str(key))))
    assert capsys.readouterr().out or "--failed" in line
    assert AudioSession.objects.filter(pk=key).exists() == ("delete" not in line)


def test_every_command_is_there():
    assert {line.split()[0] for line in lines()} == COMMANDS
