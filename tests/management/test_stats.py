"""`manage.py stats`: the numbers, and that they cost no look at a chunk."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audio.models import AudioChunk, AudioConnection, AudioSession, Recording
from tests.api.rows import connect, make_chunks, make_session
from tests.recorded import Recorded

pytestmark = pytest.mark.database


def numbers(capsys) -> dict:
    call_command("stats", "--json")
    told: dict = json.loads(capsys.readouterr().out)
    return told


def test_nothing_at_all(transactional_db, settings, tmp_path, capsys):
    settings.AUDIO_STORAGE_PATH = tmp_path / "none"
    assert numbers(capsys) == {
        "sessions": {"active": 0, "paused": 0, "completed": 0},
        "recordings": {"empty": 0, "live": 0, "building": 0, "ready": 0, "failed": 0},
        "chunks": 0,
        "chunk_bytes": 0,
        "recording_bytes": 0,
        "journal_files": 0,
        "journal_bytes": 0,
        "open_connections": 0,
        "oldest_unfinished_at": None,
    }


def test_the_numbers_are_those_of_the_rows_and_files(recorded: Recorded, capsys):
    key = recorded.session(b"12", b"3456")
    open_session = make_session({"state": "live"})
    make_chunks(open_session, 3, size_bytes=10)
    AudioConnection.objects.all().delete()
    connect(open_session)
    ended = datetime.now(UTC) - timedelta(hours=1)
    make_session({"state": "building"}, status="completed", total_chunks=1, end_time=ended)
    make_session({"state": "empty"}, status="completed", end_time=ended - timedelta(hours=1))
    make_session({"state": "failed"}, status="completed", total_chunks=1, end_time=ended - timedelta(hours=1))
    told = numbers(capsys)
    assert told["sessions"] == {"active": 1, "paused": 0, "completed": 4}
    assert told["recordings"] == {"empty": 1, "live": 1, "building": 1, "ready": 1, "failed": 1}
    assert (told["chunks"], told["chunk_bytes"]) == (7, 36)
    assert told["recording_bytes"] == recorded.path(key).stat().st_size
    journals = [path.stat().st_size for path in recorded.root.glob("journals/*/*")]
    assert (told["journal_files"], told["journal_bytes"]) == (1, sum(journals))
    assert told["open_connections"] == 1
    assert datetime.fromisoformat(told["oldest_unfinished_at"]) == ended
    call_command("stats")
    lines = capsys.readouterr().out.splitlines()
    assert "1 active, 0 paused, 4 completed" in lines[0]
    assert lines[2].split() == ["chunks", "7"]


def test_no_chunk_is_looked_at(recorded, capsys):
    with CaptureQueriesContext(connection) as queries:
        call_command("stats")
    tables = " ".join(query["sql"] for query in queries.captured_queries)
    assert AudioSession._meta.db_table in tables
    assert Recording._meta.db_table in tables
    assert AudioChunk._meta.db_table not in tables
    assert len(queries) <= 5
