"""README.md: its length, and its client and commands, run as they are written; only the server's address is another."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.client import Rest, recorder
from tests.docs.text import PAGES, README, fenced, file
from tests.server import DEADLINE_SECONDS, Server
from tests.services import REPOSITORY
from tests.sound import encoded, samples_of, speech, wav_bytes

ADDRESS = "127.0.0.1:8000"
MOST_LINES = 200
TARGET = re.compile(r"^make (\w+)", re.MULTILINE)


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


def client(folder: Path, server: Server, *, sound: str = "sound.wav") -> str:
    """Save the client as the page says, run it as the page says, and return what it prints."""
    (folder / ".venv").symlink_to(sys.prefix)
    code = file(README, "client.py")
    assert ADDRESS in code
    (folder / "client.py").write_text(code.replace(ADDRESS, server.url.removeprefix("http://")))
    (line,) = [line for block in fenced(README, "sh") for line in block.splitlines() if "client.py" in line]
    command = shlex.split(line.replace("sound.wav", sound))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


def test_the_client_records_a_wav_file(server, rest, tmp_path):
    sound = speech(2, 22050, 2)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, 22050))
    session_id = client(tmp_path, server)
    rest.finished(session_id)
    assert samples_of(rest.download(session_id)) == sound.tobytes()


def test_the_client_records_another_format(server, rest, tmp_path):
    content = encoded(speech(2), 16000, tmp_path / "sound.flac")
    session_id = client(tmp_path, server, sound="sound.flac")
    assert rest.finished(session_id)["format"] == "flac"
    assert rest.download(session_id) == content


def test_every_make_command_is_run_by_a_test():
    """`make run` and `make demo` by tests/test_makefile.py and tests/test_demo.py, `make test` by whoever runs this.

    `make check` is a part of `make test`.
    """
    named = {target for block in fenced(README, "sh") for target in TARGET.findall(block)}
    assert named == {"run", "demo", "check", "test"}
    makefile = (REPOSITORY / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


async def test_every_curl_command_succeeds(server, tmp_path):
    sound = speech(1)
    async with recorder(server.ws_url) as connection:
        await connection.store(sound.tobytes())
        await connection.close_session()
    Rest(server.url).finished(connection.session_id)
    key = server.manage(
        "apikey", "create", "shell", "--scope", "read", "--scope", "record", "--scope", "manage"
    ).strip()
    lines = [line for page in PAGES for block in fenced(page, "sh") for line in block.splitlines()]
    for line in [line for line in lines if line.startswith("curl ")]:
        address = server.url.removeprefix("http://")
        known = line.replace(ADDRESS, address).replace("$SESSION", connection.session_id).replace("$KEY", key)
        replay(known, tmp_path)
    whole = (tmp_path / "recording.wav").read_bytes()
    assert samples_of(whole) == sound.tobytes()
    assert (tmp_path / "beginning.wav").read_bytes() == whole[:65536]


def replay(line: str, folder: Path) -> None:
    """Do what curl would: a machine that runs the tests need not have it."""
    parser = argparse.ArgumentParser()
    for name in ("-o", "-H", "-X", "-d", "--json"):
        parser.add_argument(name)
    parser.add_argument("url")
    asked = parser.parse_args(shlex.split(line)[1:])
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if asked.d else {}
    headers |= {"Content-Type": "application/json"} if asked.json else {}
    headers |= dict([asked.H.split(": ", 1)]) if asked.H else {}
    body = asked.d or asked.json
    method = asked.X or ("POST" if body else "GET")
    answer = httpx.request(method, asked.url, headers=headers, content=body, trust_env=False)
    assert answer.is_success, f"{line}: {answer.status_code} {answer.text}"
    if asked.o:
        (folder / asked.o).write_bytes(answer.content)
