"""`manage.py rebuild`: on rows with the real queue, and as a command beside a running server."""

import json
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audio import dispatch
from audio.assembly.concatenate import concatenate
from audio.models import AudioChunk, AudioSession, Recording
from tests.broker import requests_for
from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.recorded import corrupt
from tests.server import Server
from tests.services import REPOSITORY

with_rows = pytest.mark.django_db(transaction=True)


def make_session(**fields) -> uuid.UUID:
    parameters = {"sample_rate": 16000, "channels": 1, "format": "wav", "status": "completed", "total_chunks": 3}
    session = AudioSession.objects.create(**parameters | fields)
    Recording.objects.create(session=session, state="failed", error_code="chunk_damaged", chunks_done=2)
    return session.pk


def rejection(*texts: object, returncode: int = 1) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("rebuild", *map(str, texts))
    assert caught.value.returncode == returncode
    return str(caught.value)


@pytest.mark.database
@with_rows
def test_the_recording_is_forgotten_and_asked_for(capsys):
    key = make_session(status="completed")
    call_command("rebuild", str(key))
    recording = Recording.objects.get(pk=key)
    assert (recording.state, recording.error_code, recording.chunks_done) == ("empty", "", 0)
    assert requests_for(key) == [dispatch.CONCATENATE]
    assert "from 3 chunks" in capsys.readouterr().out


@with_rows
@pytest.mark.parametrize("status", ["active", "paused"])
def test_an_open_session_is_left_alone(status):
    key = make_session(status=status)
    assert rejection(key) == f"Session {key} is {status}. Close it first."
    assert Recording.objects.get(pk=key).state == "failed"
    assert requests_for(key) == []


@with_rows
def test_a_session_without_chunks():
    assert "has no chunks" in rejection(make_session(total_chunks=0))


@with_rows
def test_a_session_that_is_not_there():
    unknown = uuid.uuid4()
    assert rejection(unknown, returncode=2) == f"There is no session {unknown}."


def test_what_is_no_id():
    assert rejection("../../etc", returncode=2).startswith("'../../etc' is not a session id.")
    assert rejection(returncode=2) == "Name sessions by their ids, or use --failed."


@with_rows
def test_none_of_several_is_touched_if_one_can_not_be():
    sound, still_open = make_session(), make_session(status="active")
    rejection(sound, still_open)
    assert Recording.objects.get(pk=sound).state == "failed"


@pytest.mark.database
@with_rows
def test_all_that_failed(capsys):
    failed = [make_session(start_time=timezone.now() - timedelta(hours=hours)) for hours in (2, 1)]
    ready = make_session()
    Recording.objects.filter(pk=ready).update(state="ready")
    call_command("rebuild", "--failed", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"session_id": str(key), "state": "empty", "total_chunks": 3} for key in failed]
    assert Recording.objects.get(pk=ready).state == "ready"


@pytest.mark.database
def test_it_waits_for_the_recordings(recorded, monkeypatch, capsys):
    sound, damaged = recorded.session(b"\0" * 320), recorded.session(b"\0" * 320)
    before = recorded.path(sound).read_bytes()
    row = AudioChunk.objects.select_related("journal").get(session=damaged)
    corrupt(recorded.root / row.journal.name, row.offset + 64)

    def work(seconds: float) -> None:
        """What a worker does meanwhile."""
        if seconds:
            concatenate(sound if Recording.objects.get(pk=sound).rebuild_requested_at else damaged)

    monkeypatch.setattr("audio.management.commands.rebuild.time.sleep", work)
    assert rejection(sound, damaged, "--wait", "--json") == "1 recording of 2 failed."
    told = {line["session_id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (told[str(sound)]["state"], told[str(damaged)]["state"]) == ("ready", "ready")
    assert (told[str(sound)]["error"], told[str(damaged)]["error"]) == (None, "chunk_damaged")
    assert recorded.path(sound).read_bytes() == recorded.path(damaged).read_bytes() == before
    with pytest.raises(CommandError):
        call_command("rebuild", str(damaged), "--wait")
    assert f"The rebuild of {damaged} failed, and its recording is unchanged: The chunk at " in capsys.readouterr().out
    call_command("rebuild", str(sound), "--wait")
    assert f"The recording of {sound} is ready.\n" in capsys.readouterr().out


def run(server: Server, session_id: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(REPOSITORY / "manage.py"), "rebuild", session_id]
    return subprocess.run(command, env=server.environment, cwd=REPOSITORY, capture_output=True, text=True)


async def test_a_damaged_recording_is_made_again_by_a_running_server(run_server: RunServer):
    server = run_server()
    rest = Rest(server.url)
    async with recorder(server.ws_url) as client:
        await client.store(*[bytes([number]) * 3200 for number in range(1, 21)])
        still_open = run(server, client.session_id)
        assert (still_open.returncode, still_open.stderr.count("\n")) == (1, 1)
        assert "is active" in still_open.stderr
        await client.close_session()
    before = rest.download(client.session_id)
    path = server.folder / "audio" / rest.session(client.session_id)["file_path"]
    path.write_bytes(bytes(100))
    done = run(server, client.session_id)
    assert done.returncode == 0, done.stderr
    assert rest.download(client.session_id) == before
