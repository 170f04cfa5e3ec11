"""`manage.py sweep`: on rows, and as a command beside a running server."""

import json
import os
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audio.models import AudioSession, Recording
from audio.storage import paths
from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import Server, eventually
from tests.services import REPOSITORY

with_rows = pytest.mark.django_db(transaction=True)
A_YEAR_PASSES = """
from datetime import timedelta; from django.db.models import F; from audio.models import AudioSession, Chore
year = timedelta(days=365)
AudioSession.objects.update(start_time=F("start_time") - year, end_time=F("end_time") - year)
Chore.objects.update(due_at=F("due_at") - timedelta(days=365))
"""


@pytest.fixture(autouse=True)
def root(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    settings.RETENTION_DAYS = 7


def make_session(days: float) -> uuid.UUID:
    ended_at = timezone.now() - timedelta(days=days)
    fields = {"sample_rate": 16000, "channels": 1, "format": "wav", "status": "completed"}
    session = AudioSession.objects.create(**fields, start_time=ended_at, end_time=ended_at)
    Recording.objects.create(session=session, state="ready")
    return session.pk


@pytest.mark.database
@with_rows
def test_a_dry_run_names_what_the_sweep_then_does(capsys):
    old = make_session(8)
    make_session(6)
    call_command("sweep", "--dry-run", "--json")
    would = json.loads(capsys.readouterr().out)
    assert (would["dry_run"], would["names"]["deleted_sessions"]) == (True, [str(old)])
    call_command("sweep", "--dry-run")
    assert f"deleted sessions: {old}" in capsys.readouterr().out
    assert AudioSession.objects.count() == 2
    call_command("sweep", "--json")
    done = json.loads(capsys.readouterr().out)
    assert (done["dry_run"], done["counts"]) == (False, would["counts"])
    assert AudioSession.objects.count() == 1
    call_command("sweep")
    assert "deleted sessions: 0" in capsys.readouterr().out


@with_rows
def test_what_it_cannot_explain_is_an_error(capsys):
    name = "sessions/00/notes.txt"
    path = paths.root() / name
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(CommandError, match="Left unexplained: 1"):
        call_command("sweep", "--json")
    (named,) = json.loads(capsys.readouterr().out)["names"]["unexplained"]
    assert named.startswith(name)


def manage(server: Server, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, env=server.environment, cwd=REPOSITORY, capture_output=True, text=True)


async def test_a_database_that_is_not_there(make_server):
    server = make_server(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    done = manage(server, "sweep")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


async def test_a_running_server_does_its_chores(run_server: RunServer):
    """The supervisor asks, the worker does; the command beside it does no harm."""
    server = run_server(RETENTION_DAYS="7", SWEEP_INTERVAL_SECONDS="0.2")
    async with recorder(server.ws_url) as client:
        await client.store(bytes(3200))
        assert manage(server, "sweep").returncode == 0
        await client.store(bytes(3200))
        await client.close_session()
    rest = Rest(server.url)
    assert len(rest.download(client.session_id)) > 6400
    manage(server, "shell", "-v", "0", "-c", A_YEAR_PASSES)
    eventually(lambda: rest.http.get(f"/api/audio/sessions/{client.session_id}").status_code == 404)
    assert not list((server.folder / "audio").glob(f"**/{client.session_id}"))


def test_without_a_database_it_says_so_and_creates_none(tmp_path):
    command = [sys.executable, str(REPOSITORY / "manage.py"), "sweep"]
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path / "wrong")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("CommandError: There is no database at")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "wrong").exists()
