"""The help of each command ends with examples that the command understands."""

import shlex

import pytest
from django.core.management import CommandError, load_command_class

COMMANDS = ["demo", "rebuild", "reindex", "serve", "sessions", "stats", "sweep", "verify"]


def parser(name):
    return load_command_class("audio", name).create_parser("manage.py", name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_ends_with_examples_that_work(name):
    title, _, examples = parser(name).format_help().rpartition("example")[-1].partition("\n")
    assert title in (":", "s:")
    lines = examples.strip().splitlines()
    assert lines
    for line in lines:
        arguments = shlex.split(line)
        assert arguments[:3] == ["python", "manage.py", name]
        parser(name).parse_args(arguments[3:])


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "x"])
def test_a_port_that_there_is_not(port):
    with pytest.raises(CommandError, match="must be a whole number from 0 to 65535"):
        parser("serve").parse_args([f"--port={port}"])
