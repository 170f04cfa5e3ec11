"""The shell commands of all pages: each is one that a test runs or looks at, and names what exists."""

import re
import shlex

from django.core.management import get_commands, load_command_class

from tests.docs.text import PAGES, fenced
from tests.services import REPOSITORY

# tests/docs/test_backup.py runs these.
BACKUP = ("mkdir ", "cp -a ", "pg_dump ", "pg_restore ", ".venv/bin/python -c 'import sqlite3")
# tests/docs/test_operations.py looks at these.
PRODUCTION = (
    "docker buildx ",
    "docker compose ",
    ".venv/bin/celery ",
    ".venv/bin/python -m sercuescribe.server ",
    "cp .env.example .env",
    "sudo ",
)
# tests/bench/ tests what is behind this one.
BENCH = (".venv/bin/python -m tests.bench ",)
# test_readme.py, test_examples.py, test_phone.py, test_tutorials.py and test_python.py run these.
CLIENTS = (
    "npm pack ./clients/javascript",
    "npm install ./sercuescribe-",
    "scribe ",
    "cat talk.wav | scribe ",
    "export SERCUESCRIBE_",
    "pip install './clients/python[cli]'",
    "curl ",
    ".venv/bin/python client.py ",
    ".venv/bin/python fetch.py ",
    ".venv/bin/python examples/phone_bridge.py",
    ".venv/bin/python examples/record.py ",
    "node examples/pcm.mjs ",
    "SERCUESCRIBE_API_KEY=$KEY .venv/bin/python examples/backend.py",
)
MAKE_LINE = re.compile(r"^(?:[A-Z_0-9]+=\S+ )*make (\w+)(?: ([A-Z]+)=\S+)?$")
MANAGE_LINE = re.compile(r"manage\.py (\w+)((?: [\w./-]+)*)")


def shell_lines() -> list[str]:
    return [line for page in PAGES for block in fenced(page, "sh") for line in block.splitlines()]


def test_every_command_is_one_that_a_test_knows():
    for line in shell_lines():
        known = MAKE_LINE.match(line) or MANAGE_LINE.search(line)
        assert known or line.startswith(CLIENTS + PRODUCTION + BACKUP + BENCH), line


def test_every_make_command_is_a_target_with_its_variables():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [MAKE_LINE.match(line) for line in shell_lines() if "make " in line]
    assert len(targets) >= 5
    for target, variable in (match.groups() for match in targets if match):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert variable is None or f"$({variable})" in makefile


def test_every_manage_command_exists_with_its_options():
    found = [match.groups() for page in PAGES for match in MANAGE_LINE.finditer(page.read_text())]
    assert {"serve", "check", "createsuperuser"} <= {name for name, _ in found}
    for name, options in found:
        application = get_commands()[name]
        command = load_command_class(application, name) if isinstance(application, str) else application
        command.create_parser("manage.py", name).parse_args(shlex.split(options))
