"""`manage.py sessions`: list, show, close, delete, export."""

import hashlib
import io
import json
import os
import re
import shlex
import sys
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command

from audio.ingest import sessions
from audio.jobs import rows
from audio.jobs.upload import upload
from audio.management.commands.sessions import Command
from audio.models import AudioSession, BackgroundTask, TaskKind
from audio.storage.lock import file_lock
from audio.wire.parameters import Details
from tests.recorded import Recorded, corrupt
from tests.sound import decoded, encoded, speech

pytestmark = pytest.mark.database

PCM = [bytes([number]) * 320 for number in range(1, 6)]


@pytest.fixture
def call(capsys):
    """Calls the command and returns what it printed."""

    def run(*arguments: object) -> str:
        call_command("sessions", *map(str, arguments))
        return capsys.readouterr().out

    return run


def failure(*arguments: object) -> CommandError:
    with pytest.raises(CommandError) as caught:
        call_command("sessions", *map(str, arguments))
    return caught.value


@pytest.fixture
def three(transactional_db) -> list[AudioSession]:
    now = datetime.now(UTC)
    kinds: list[dict] = [
        {"format": "wav", "user_id": "ann"},
        {"format": "mp3", "status": "completed", "total_chunks": 7},
        {"format": "wav", "status": "paused", "user_id": "bob"},
    ]
    return [
        AudioSession.objects.create(sample_rate=16000, channels=1, start_time=now - timedelta(hours=number), **fields)
        for number, fields in enumerate(kinds)
    ]


# list and show


def test_a_list_is_filtered_by_metadata(call, transactional_db):
    rooms = [{"room": "4", "floor": "2"}, {"room": "4"}, {"room": "a=b"}]
    keys = [
        sessions.create_session(sessions.default_parameters(), details=Details(metadata=metadata)).pk
        for metadata in rooms
    ]

    def listed(*arguments: str) -> set[uuid.UUID]:
        found = call("list", "--json", *arguments)
        return {uuid.UUID(json.loads(line)["session_id"]) for line in found.splitlines()}

    assert listed("--metadata", "room=4") == set(keys[:2])
    assert listed("--metadata", "room=4", "--metadata", "floor=2") == {keys[0]}
    assert listed("--metadata", "room=a=b") == {keys[2]}
    assert listed("--metadata", "room=5") == set()


@pytest.mark.parametrize("text", ["room", "=4", "a\tb=4"])
def test_a_filter_by_metadata_that_is_none(transactional_db, text):
    error = failure("list", "--metadata", text)
    assert error.returncode == 2
    assert str(error).startswith("--metadata: ")


def test_the_newest_come_first(call, three):
    header, *lines = call("list").splitlines()
    assert header.split() == [
        *("SESSION", "STARTED", "(UTC)", "STATUS", "FORMAT", "RECORDING", "DURATION", "CHUNKS", "USER")
    ]
    assert [line.split()[0] for line in lines] == [str(session.pk) for session in three]
    assert lines[1].split()[3:] == ["completed", "mp3", "empty", "-", "7"]
    assert header.index("STATUS") == lines[1].index("completed")


def test_a_list_says_how_long_the_recordings_are(call, recorded):
    recorded.session(bytes(2 * 44100))
    assert call("list").splitlines()[1].split()[5:7] == ["ready", "0:00:01.000"]


def test_a_list_of_nothing_says_so(call, transactional_db):
    assert call("list") == "No sessions.\n"
    assert call("list", "--json") == ""


@pytest.mark.parametrize("name", ["--started-after", "--started-before"])
def test_a_time_that_is_none_is_told_how_to_be_written(three, name):
    error = failure("list", name, "yesterday")
    assert "2026-01-31T14:30:00Z, not 'yesterday'" in str(error)
    assert error.returncode == 2


@pytest.mark.parametrize("action", ["", "list", "show", "close", "delete", "export"])
def test_the_help_has_an_example_that_can_be_parsed(action, capsys):
    with pytest.raises(SystemExit):
        Command().create_parser("manage.py", "sessions").parse_args([*action.split(), "--help"])
    (examples,) = re.findall(r"examples?:\n(.*)", capsys.readouterr().out, re.DOTALL)
    for line in examples.splitlines():
        words = shlex.split(line.strip().removeprefix("python manage.py sessions "))
        assert Command().create_parser("manage.py", "sessions").parse_args(words)


def test_nothing_is_shown_as_none(call, recorded):
    shown = call("show", recorded.session(*PCM)) + call("show", recorded.open().session_id)
    assert "None" not in shown
    assert re.search(r"^end_time +-$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--status", "paused"], [2]),
        (["--format", "wav"], [0, 2]),
        (["--user-id", "ann"], [0]),
        (["--limit", "2"], [0, 1]),
        (["--started-after", (datetime.now(UTC) - timedelta(minutes=90)).isoformat()], [0, 1]),
        (["--started-before", (datetime.now(UTC) - timedelta(minutes=30)).isoformat()], [1, 2]),
        (["--status", "completed"], [1]),
    ],
)
def test_the_filters_are_those_of_rest(call, three, arguments, found):
    listed = [json.loads(line) for line in call("list", "--json", *arguments).splitlines()]
    assert [each["session_id"] for each in listed] == [str(three[number].pk) for number in found]


@pytest.mark.parametrize(
    "arguments",
    [["list", "--status", "gone"], ["list", "--started-after", "x"], ["list", "--limit", "0"], ["show", "x"]],
)
def test_wrong_arguments(three, arguments):
    assert failure(*arguments).returncode == 2


def test_no_action_is_rejected_with_the_usage():
    with pytest.raises(CommandError, match="ACTION"):
        call_command("sessions")


def test_a_session_is_shown_as_rest_shows_it(call, client, recorded: Recorded):
    key = recorded.session(*PCM)
    AudioSession.objects.update(recovered="uncertain")
    shown = json.loads(call("show", key, "--json"))
    over_rest = client.get(f"/api/audio/sessions/{key}").json()
    assert over_rest["recovered"] == shown["recovered"] == "uncertain"
    over_rest["recording"]["url"] = over_rest["recording"]["url"].removeprefix("http://testserver")
    assert shown == over_rest
    lines = dict(line.split(maxsplit=1) for line in call("show", key).splitlines())
    assert (lines["total_chunks"], lines["recording.state"], lines["recovered"]) == ("5", "ready", "uncertain")


# close and delete


def test_sessions_are_closed_and_closing_again_is_no_error(call, recorded):
    key = recorded.open().session_id
    assert call("close", key) == f"{key} is completed, with 0 chunks.\n"
    again = json.loads(call("close", key, "--json"))
    assert again == {"session_id": str(key), "status": "completed", "total_chunks": 0}


def test_a_deletion_asks_first(call, recorded, monkeypatch):
    key = recorded.session(*PCM)
    for answer in ("", "n\n", "no\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert failure("delete", key).returncode == 1
    assert AudioSession.objects.filter(pk=key).exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert f"{key} is deleted.\n" in call("delete", key)
    assert not AudioSession.objects.filter(pk=key).exists()


def test_a_deletion_with_yes_leaves_nothing(call, recorded):
    keys = [recorded.session(*PCM) for _ in range(2)]
    lines = call("delete", *keys, "--yes", "--json").splitlines()
    assert [json.loads(line) for line in lines] == [{"session_id": str(key), "deleted": True} for key in keys]
    assert not list(recorded.root.glob("sessions/*/*"))


def test_nothing_is_done_if_one_of_them_is_not_there(recorded):
    key = recorded.session(*PCM)
    assert failure("delete", key, uuid.uuid4(), "--yes").returncode == 2
    assert AudioSession.objects.filter(pk=key).exists()


# export


def test_a_recording_is_exported_with_what_is_known_of_it(call, recorded, tmp_path):
    key = recorded.session(*PCM, source="one")
    out = tmp_path / "new" / "folder"
    told = json.loads(call("export", key, "--to", out, "--json"))
    audio = (out / f"{key}.wav").read_bytes()
    assert audio == recorded.path(key).read_bytes()
    digest = hashlib.sha256(audio).hexdigest()
    assert told == {
        "session_id": str(key),
        "audio": str(out / f"{key}.wav"),
        "metadata": str(out / f"{key}.json"),
        "size_bytes": len(audio),
        "sha256": digest,
    }
    known = json.loads((out / f"{key}.json").read_text())
    assert known["audio"] == {"file": f"{key}.wav", "size_bytes": len(audio), "sha256": digest, "complete": True}
    assert (known["session"]["session_id"], known["session"]["recording"]["sha256"]) == (str(key), digest)
    assert [chunk["sequence"] for chunk in known["chunks"]] == [1, 2, 3, 4, 5]
    assert {(chunk["size_bytes"], chunk["source"]) for chunk in known["chunks"]} == {(320, "one")}
    assert sorted(os.listdir(out)) == [f"{key}.json", f"{key}.wav"]


def test_files_that_are_there_are_not_replaced_unless_forced(call, recorded, tmp_path):
    key = recorded.session(*PCM)
    (tmp_path / f"{key}.json").write_text("mine")
    error = failure("export", key, "--to", tmp_path)
    assert (error.returncode, str(error)) == (1, "1 session of 1 failed.")
    assert not (tmp_path / f"{key}.wav").exists()
    assert (tmp_path / f"{key}.json").read_text() == "mine"
    call("export", key, "--to", tmp_path, "--force")
    assert json.loads((tmp_path / f"{key}.json").read_text())["session"]["session_id"] == str(key)


def test_another_format_is_made_or_taken_from_where_it_is(call, recorded, tmp_path):
    key = recorded.session(*PCM)
    call("export", key, "--to", tmp_path, "--format", "flac")
    flac = (tmp_path / f"{key}.flac").read_bytes()
    assert flac[:4] == b"fLaC"
    assert BackgroundTask.objects.get(session=key).state == "completed"
    call("export", key, "--to", tmp_path / "2", "--format", "flac")
    assert (tmp_path / "2" / f"{key}.flac").read_bytes() == flac
    assert BackgroundTask.objects.count() == 1
    call("export", key, "--to", tmp_path / "2", "--format", "wav", "--force")
    assert (tmp_path / "2" / f"{key}.wav").exists()


def test_a_format_that_a_worker_makes_is_waited_for(call, recorded, tmp_path, monkeypatch):
    key = recorded.session(*PCM)
    task = rows.enqueue(AudioSession.objects.get(pk=key), TaskKind.TRANSCODE, "mp3")
    held = file_lock(recorded.path(key).parent / "derived" / str(task.pk) / "lock")
    assert held.__enter__()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        held.__exit__(None, None, None)

    monkeypatch.setattr("audio.jobs.export.time.sleep", wait)
    call("export", key, "--to", tmp_path, "--format", "mp3")
    assert len(waits) == 1
    assert (tmp_path / f"{key}.mp3").exists()


def test_a_recording_is_exported_from_s3(bucket, call, recorded, tmp_path):
    key = recorded.session(*PCM)
    content = recorded.path(key).read_bytes()
    upload(key)
    assert not recorded.path(key).exists()
    call("export", key, "--to", tmp_path / "out")
    assert (tmp_path / "out" / f"{key}.wav").read_bytes() == content


def test_what_is_there_is_rejected_before_anything_is_made(call, recorded, tmp_path, capsys):
    key = recorded.session(*PCM)
    call("export", key, "--to", tmp_path)
    capsys.readouterr()
    assert failure("export", key, "--to", tmp_path, "--format", "mp3").returncode == 1
    assert f"{tmp_path}/{key}.json: exists already; --overwrite replaces it" in capsys.readouterr().err
    assert not BackgroundTask.objects.exists()
    call("export", key, "--to", tmp_path, "--format", "mp3", "--overwrite")
    assert (tmp_path / f"{key}.mp3").exists()


def test_what_could_be_made_of_a_failed_recording_is_exported_and_marked(call, recorded, tmp_path):
    good, bad = encoded(speech(1, 16000), 16000, tmp_path / "good.flac"), b"fLaC" + bytes(400)
    key = recorded.session(good, bad, format="flac", chunks="files")
    assert recorded.recording(key).state == "failed"
    out = tmp_path / "out"
    assert failure("export", key, "--to", out).returncode == 1
    assert not out.exists()
    told = json.loads(call("export", key, "--to", out, "--partial", "--json"))
    assert told["audio"] == str(out / f"{key}-incomplete.flac")
    assert decoded(out / f"{key}-incomplete.flac") == speech(1, 16000).tobytes()
    assert json.loads((out / f"{key}.json").read_text())["audio"]["complete"] is False


def test_a_damaged_recording_is_not_exported(recorded, tmp_path, capsys):
    key, other = recorded.session(*PCM), recorded.session(*PCM)
    corrupt(recorded.path(key), 500)
    assert str(failure("export", key, other, "--to", tmp_path)) == "1 session of 2 failed."
    assert "SHA-256" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == sorted(["audio", f"{other}.json", f"{other}.wav"])


def test_an_open_session_can_not_be_exported(recorded, tmp_path, capsys):
    key = recorded.open().session_id
    assert failure("export", key, "--to", tmp_path).returncode == 1
    assert str(key) in capsys.readouterr().err
