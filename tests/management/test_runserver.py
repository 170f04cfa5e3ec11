"""`manage.py runserver`: Daphne takes the contract's messages, up to our own limit on their size."""

import json
import subprocess
import sys

import httpx
import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from tests.server import DEADLINE_SECONDS, eventually, free_port, migrated
from tests.services import REPOSITORY

# More than Daphne would take by itself.
CHUNK = bytes(2 << 20)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def test_daphne_records_a_session(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "manage.py", "runserver", "--noreload", url.removeprefix("http://")]
    with subprocess.Popen(command, cwd=REPOSITORY, env=migrated(tmp_path / "data"), stdout=subprocess.PIPE) as process:
        try:
            eventually(lambda: answers(url))
            with connect(f"{url.replace('http', 'ws')}/api/ws/audio") as socket:
                assert json.loads(socket.recv())["message"] == "Audio session created"
                socket.send(CHUNK)
                assert json.loads(socket.recv())["chunk_count"] == 1
                socket.send(json.dumps({"type": "control", "action": "close_session"}))
                assert json.loads(socket.recv())["status"] == "completed"
                with pytest.raises(ConnectionClosedOK):
                    socket.recv()
        finally:
            process.terminate()
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert b"Daphne" in output
