"""docs/tutorials: what is quoted from the examples is there, and the programs run as they are written."""

import asyncio
import re
import shlex
import subprocess
import sys

import pytest

from tests.client import Rest, recorder
from tests.docs.text import fenced, file
from tests.server import DEADLINE_SECONDS
from tests.services import REPOSITORY
from tests.sound import speech

TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))
PYTHON = REPOSITORY / "docs" / "tutorials" / "python.md"
QUOTED = re.compile(r"<!-- from: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:8000"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_what_is_quoted_is_in_the_file(page):
    quoted = QUOTED.findall(page.read_text())
    assert len(quoted) >= 2
    for name, code in quoted:
        assert code in (REPOSITORY / name).read_text(), f"{page.name}: {name} has no\n{code}"


def test_all_code_is_quoted_or_run():
    for page in TUTORIALS:
        code = [block for language in ("python", "js") for block in fenced(page, language)]
        known = [code for _, code in QUOTED.findall(page.read_text())]
        known += [file(PYTHON, "fetch.py")] if page == PYTHON else []
        assert sorted(code) == sorted(known), page.name


async def test_the_program_fetches_another_format(run_server, tmp_path):
    server = run_server()
    rest = Rest(server.url)
    async with recorder(server.ws_url) as connection:
        await connection.store(speech(1).tobytes())
        await connection.close_session()
    rest.finished(connection.session_id)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    code = file(PYTHON, "fetch.py")
    assert ADDRESS in code
    (tmp_path / "fetch.py").write_text(code.replace(ADDRESS, server.url.removeprefix("http://")))
    (line,) = [line for block in fenced(PYTHON, "sh") for line in block.splitlines() if "fetch.py" in line]
    command = shlex.split(line.replace("$SESSION", connection.session_id))
    await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, timeout=DEADLINE_SECONDS)
    transcoded = rest.http.get(f"/api/audio/sessions/{connection.session_id}/audio?format=mp3")
    assert (tmp_path / "recording.mp3").read_bytes() == transcoded.content != b""
