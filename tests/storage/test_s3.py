"""Recordings in S3 through the door: servers in processes of their own, from the WebSocket to the download."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.s3 import Bucket
from tests.server import Server, eventually
from tests.services import REPOSITORY
from tests.sound import speech

HEADER_BYTES = 80


async def record(server: Server, samples: bytes) -> str:
    """Records the samples as one session; returns its id."""
    async with recorder(server.ws_url) as connection:
        await connection.store(samples[:20_000], samples[20_000:])
        await connection.close_session()
    return connection.session_id


def test_from_the_socket_to_a_download_out_of_the_bucket(run_server: RunServer, empty_bucket: Bucket) -> None:
    """The bucket is away while it is recorded: nobody notices, and the upload comes later."""
    samples = speech(2).tobytes()
    empty_bucket.proxy.is_away = True
    server = run_server(**empty_bucket.environment)
    assert "sercuescribe.W003" in server.read_log()
    rest = Rest(server.url)
    session_id = asyncio.run(record(server, samples))
    local = rest.download(session_id)
    assert local[HEADER_BYTES:] == samples
    detail = rest.session(session_id)
    path = server.folder / "audio" / detail["file_path"]
    assert path.read_bytes() == local
    empty_bucket.proxy.is_away = False
    eventually(lambda: not path.exists())
    assert empty_bucket.objects() == {detail["file_path"]: local}
    assert rest.download(session_id) == local
    assert rest.session(session_id) == detail
    url = f"/api/audio/sessions/{session_id}"
    part = rest.http.get(f"{url}/audio", headers={"Range": "bytes=100-4099"})
    assert (part.status_code, part.content) == (206, local[100:4100])
    eventually(lambda: rest.http.get(f"{url}/audio?format=flac").status_code == 200)
    empty_bucket.proxy.is_away = True
    answer = rest.http.get(f"{url}/audio")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    empty_bucket.proxy.is_away = False
    assert rest.http.delete(url).status_code == 204
    assert empty_bucket.objects() == {}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"RECORDINGS_STORAGE": "ftp://bucket"}, "RECORDINGS_STORAGE must be s3://bucket or s3://bucket/folder"),
        ({"RECORDINGS_STORAGE": "s3://B"}, "RECORDINGS_STORAGE must be s3://bucket or s3://bucket/folder"),
        (
            {"RECORDINGS_STORAGE": "s3://bucket/../other"},
            "RECORDINGS_STORAGE must be s3://bucket or s3://bucket/folder",
        ),
        ({"AWS_ACCESS_KEY_ID": "somebody"}, "Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither"),
        ({"AWS_ENDPOINT_URL_S3": "minio:9000"}, "AWS_ENDPOINT_URL_S3 must begin with http:// or https://"),
    ],
)
def test_what_can_not_be_a_storage_stops_the_start(tmp_path, environment, sentence):
    environment = {"RECORDINGS_STORAGE": "s3://bucket", "DATA_DIR": str(tmp_path), **environment}
    command = [sys.executable, "manage.py", "check"]
    run = subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert sentence in run.stderr
