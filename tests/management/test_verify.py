"""`manage.py verify`: exit codes, sentences and JSON."""

import json
import uuid

import pytest
from django.core.management import CommandError, call_command

from audio.models import AudioChunk, AudioSession
from audio.storage.lock import session_lock
from tests.recorded import Recorded, corrupt

pytestmark = pytest.mark.database

PCM = [bytes([number]) * 320 for number in range(1, 6)]


def failure(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        call_command("verify", *arguments)
    return caught.value


def test_all_is_well(recorded: Recorded, capsys):
    sessions = [recorded.session(*PCM) for _ in range(3)]
    call_command("verify", "--all", "--journals", "--orphans")
    assert capsys.readouterr().out == "No problems found: 5 items verified.\n"
    call_command("verify", *map(str, sessions), "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["session_id"] for line in lines] == list(map(str, sessions))
    assert lines[0] == {
        "verified": "session",
        "session_id": str(sessions[0]),
        "chunks": 5,
        "bytes": 1600,
        "recording": "compared",
        "warnings": [],
        "problem_count": 0,
        "problems": [],
    }


def test_what_is_wrong_is_named_and_the_exit_code_is_1(recorded, capsys):
    sound, damaged = recorded.session(*PCM), recorded.session(*PCM)
    row = AudioChunk.objects.select_related("journal").get(session=damaged, sequence=2)
    corrupt(recorded.root / row.journal.name, row.offset + 64)
    error = failure("--all", "--journals", "--json")
    assert (error.returncode, str(error)) == (1, "2 problems found.")
    lines = {
        line["verified"]: line for line in map(json.loads, capsys.readouterr().out.splitlines()) if line["problems"]
    }
    assert lines["session"]["problems"] == [
        {
            "code": "chunk_damaged",
            "detail": f"The chunk at {row.journal.name}:{row.offset} is damaged.",
            "session_id": str(damaged),
            "sequence": 2,
            "file_name": row.journal.name,
            "offset": row.offset,
        }
    ]
    assert lines["journal"]["name"] == row.journal.name
    failure(str(damaged))
    assert capsys.readouterr().out.startswith(f"session {damaged}: chunk_damaged: The chunk at ")
    call_command("verify", str(sound))


def test_orphans(recorded, capsys):
    key = recorded.session(*PCM)
    recorded.path(key).with_name("stray").touch()
    assert failure("--orphans").returncode == 1
    assert f"orphan: No row refers to this file. (sessions/{key.hex[:2]}/{key}/stray)" in capsys.readouterr().out


def test_more_problems_than_are_named(recorded, capsys):
    key = recorded.session(*[b"ab"] * 110)
    AudioChunk.objects.update(source_id=0)
    assert str(failure(str(key))) == "220 problems found."
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 101
    assert out.endswith("220 problems in all\n")


def test_a_session_that_can_not_be_compared_now(recorded, capsys):
    key = recorded.session(*PCM)
    with session_lock(key):
        assert failure(str(key)).returncode == 1
    assert "session_busy: The comparison failed" in capsys.readouterr().out


def test_a_session_that_is_deleted_meanwhile_is_passed_over(recorded, monkeypatch, capsys):
    recorded.session(*PCM)
    AudioSession.objects.create(sample_rate=16000, channels=1, format="wav").delete()
    monkeypatch.setattr("audio.management.commands.verify._all_sessions", lambda: [uuid.uuid4()])
    call_command("verify", "--all")
    assert "0 items" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["not-an-id"], [str(uuid.uuid4())], ["--json"]])
def test_wrong_arguments(recorded, arguments):
    assert failure(*arguments).returncode == 2
