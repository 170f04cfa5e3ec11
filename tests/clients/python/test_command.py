"""The command `scribe`: what it records, writes and shows, and the exit codes by which a script knows how it ended."""

import json
import signal
import subprocess
import sys
from datetime import datetime
from typing import Any

import httpx
import pytest
from sercuescribe_client import Client, ConflictError, __version__
from sercuescribe_client.cli import execution
from sercuescribe_client.cli.app import app
from sercuescribe_client.cli.sound import CHUNK_BYTES
from typer.main import get_command
from typer.testing import CliRunner

import sercuescribe
from tests.clients.python.conftest import Scribe
from tests.server import DEADLINE_SECONDS, eventually, free_port
from tests.sound import FFMPEG, encoded, samples_of, speech, wav_bytes

UNKNOWN = "123e4567-e89b-42d3-a456-426614174000"
SOUND = speech(3)


@pytest.fixture
def wav(tmp_path):
    """A WAV file of a few chunks."""
    path = tmp_path / "talk.wav"
    path.write_bytes(wav_bytes(SOUND, 16000))
    return path


@pytest.fixture
def rest(server, key):
    """A client that looks at what the command has done."""
    with Client(server.url, key) as client:
        yield client


def recording_of(rest: Client, session_id: str) -> bytes:
    """Wait for a recording, and return its samples."""
    rest.sessions.wait_until_ready(session_id)
    return samples_of(b"".join(rest.sessions.read(session_id)))


def test_a_file_is_recorded_shown_listed_downloaded_closed_and_deleted(scribe, rest, wav):
    details = ("--name", "A [red]talk", "--metadata", "room=4", "--metadata", "day=1=2", "--user-id", "Ana")
    done = scribe("record", "talk.wav", *details, "--marker", "1.5=Questions", "--source", "desk", "--chunks", "stream")
    session_id = done.stdout.strip()
    assert recording_of(rest, session_id) == SOUND.tobytes()
    session = json.loads(scribe("show", session_id, "--json").stdout)
    assert (session["name"], session["metadata"]) == ("A [red]talk", {"room": "4", "day": "1=2"})
    shown = scribe("show", session_id).stdout
    assert "A [red]talk" in shown and "16000 Hz" in shown and session["recording"]["sha256"] in shown
    (marker,) = json.loads(scribe("markers", session_id, "--json").stdout)
    assert (marker["label"], marker["position_seconds"]) == ("Questions", 1.5)
    listed = scribe("markers", session_id, "--add", "2.25=End", "--remove", marker["marker_id"]).stdout
    assert "0:00:02.2" in listed and "Questions" not in listed
    assert session_id in scribe("sessions", "--metadata", "room=4", "--status", "completed").stdout
    (found,) = json.loads(scribe("sessions", "--name", "A [red]", "--limit", "1", "--json").stdout)
    assert found["session_id"] == session_id
    assert json.loads(scribe("sessions", "--metadata", "room=none", "--json").stdout) == []

    assert scribe("download", session_id).stdout.strip() == f"{session_id}.wav"
    assert samples_of((wav.parent / f"{session_id}.wav").read_bytes()) == SOUND.tobytes()
    told = json.loads(scribe("download", session_id, "-o", "a.mp3", "--format", "mp3", "--json").stdout)
    assert (told["path"], told["is_verified"]) == ("a.mp3", False)
    whole = scribe("download", session_id, "-o", "-").stdout_bytes
    assert whole == scribe("listen", session_id, "--stdout").stdout_bytes
    assert samples_of(whole) == SOUND.tobytes()

    assert session_id in scribe("close", session_id).stdout
    assert "Delete the session" in scribe("delete", session_id, code=1, standard_input="n\n").stderr
    assert json.loads(scribe("delete", session_id, "--yes", "--json").stdout) == {"deleted": [session_id]}
    assert "session_not_found" in scribe("show", session_id, code=5).stderr


def test_a_format_of_its_own_is_recorded_as_it_is(scribe, rest, tmp_path):
    content = encoded(SOUND, 16000, tmp_path / "talk.flac")
    session = json.loads(scribe("record", "talk.flac", "--json").stdout)
    assert session["format"] == "flac"
    rest.sessions.wait_until_ready(session["session_id"])
    assert b"".join(rest.sessions.read(session["session_id"])) == content


def test_raw_pcm_is_recorded_at_its_pace(scribe, rest, tmp_path):
    (tmp_path / "talk.pcm").write_bytes(SOUND.tobytes())
    raw = ("--format", "wav", "--encoding", "s16le", "--sample-rate", "16000", "--channels", "1")
    done = scribe("record", "talk.pcm", "--realtime", *raw)
    assert recording_of(rest, done.stdout.strip()) == SOUND.tobytes()
    session = rest.sessions.get(done.stdout.strip())
    # Its last chunk was sent after three seconds, when the sound would have ended.
    assert seconds_of(session) >= 3
    assert "needs --sample-rate" in scribe("record", "talk.pcm", "--realtime", "--encoding", "s16le", code=2).stderr


def seconds_of(session) -> float:
    times = [datetime.fromisoformat(session[name]) for name in ("start_time", "end_time")]
    return (times[1] - times[0]).total_seconds()


def test_the_pace_of_a_compressed_file_is_that_of_its_sound(scribe, rest, tmp_path):
    encoded(SOUND, 16000, tmp_path / "talk.mp3")
    done = scribe("record", "talk.mp3", "--realtime", "--ffmpeg", FFMPEG)
    assert seconds_of(rest.sessions.get(done.stdout.strip())) >= 2.9
    (tmp_path / "noise").write_bytes(b"no sound at all")
    assert "does not know how long" in scribe("record", "noise", "--realtime", "--ffmpeg", FFMPEG, code=2).stderr


def test_a_second_run_continues_a_file(scribe, rest, wav):
    with pytest.raises(ConflictError, match="superseded"), rest.record(source="desk", chunks="stream") as recorder:
        session_id = recorder.session_id
        recorder.send(wav.read_bytes()[:CHUNK_BYTES])
        recorder.flush()
        again = scribe("record", "talk.wav", "--session", session_id, "--source", "desk", "--json")
    assert json.loads(again.stdout)["session_id"] == session_id
    assert recording_of(rest, session_id) == SOUND.tobytes()


@pytest.mark.parametrize(("audio_format", "name"), [("wav", "wav"), ("flac", "flac"), ("ogg", "ogg")])
def test_a_microphone_is_recorded_by_ffmpeg(scribe, rest, tmp_path, audio_format, name):
    """FFmpeg's generator of sound is an input device like a microphone."""
    device = ("--driver", "lavfi", "--device", "sine=frequency=440:sample_rate=16000", "--duration", "1.5")
    shape = ("--sample-rate", "16000", "--channels", "1", "--format", audio_format)
    session_id = scribe("record", "--microphone", *device, *shape, "--ffmpeg", FFMPEG).stdout.strip()
    session = rest.sessions.wait_until_ready(session_id)
    assert session["format"] == name
    assert session["recording"]["duration_seconds"] == pytest.approx(1.5, abs=0.05)
    assert session["recording"]["warnings"] == []


def test_a_microphone_that_is_not_there_opens_no_session(scribe, rest):
    before = rest.sessions.list(page_size=1).items
    device = ("--driver", "lavfi", "--device", "no_such_filter")
    failed = scribe("record", "-m", *device, "--ffmpeg", FFMPEG, code=1)
    assert "FFmpeg cannot record from 'no_such_filter'" in failed.stderr
    assert rest.sessions.list(page_size=1).items == before
    assert "was not found" in scribe("record", "-m", "--ffmpeg", "no-ffmpeg", code=2).stderr


def test_a_player_gets_the_recording(scribe, rest, wav, tmp_path):
    session_id = scribe("record", "talk.wav").stdout.strip()
    rest.sessions.wait_until_ready(session_id)
    player = tmp_path / "player"
    player.write_text(f"#!{sys.executable}\nimport sys\nopen('played', 'wb').write(sys.stdin.buffer.read())\n")
    player.chmod(0o755)
    scribe("listen", session_id, "--player", str(player))
    assert samples_of((tmp_path / "played").read_bytes()) == SOUND.tobytes()
    player.write_text("#!/bin/sh\nexit 3\n")
    assert "ended with exit code 3" in scribe("listen", session_id, "--player", str(player), code=1).stderr
    assert "was not found" in scribe("listen", session_id, "--player", "no-player", code=2).stderr


def test_keys_are_created_listed_and_revoked(scribe, server, tmp_path):
    secret = scribe("keys", "create", "bridge", "--scope", "record", "--scope", "read").stdout.strip()
    limited = Scribe(server.url, secret, tmp_path)
    assert json.loads(limited("sessions", "--limit", "1", "--json").stdout) is not None
    assert "not_allowed" in limited("keys", "list", code=4).stderr
    (made,) = [key for key in json.loads(scribe("keys", "list", "--json").stdout) if key["name"] == "bridge"]
    assert made["prefix"] in secret and "read record" in scribe("keys", "list", "--project", "default").stdout
    assert "revoked" in scribe("keys", "revoke", made["prefix"]).stdout
    assert "not_authenticated" in limited("sessions", code=4).stderr
    assert "key_not_found" in scribe("keys", "revoke", UNKNOWN, code=5).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("record",), 2, "Name a file, - for the standard input, or --microphone."),
        (("record", "none.wav"), 1, "none.wav: No such file or directory."),
        (("record", "-", "--realtime"), 2, "--realtime is for files."),
        (("record", "talk.wav", "--metadata", "room"), 2, "Write metadata as KEY=VALUE, not 'room'."),
        (("record", "talk.wav", "--marker", "soon=x"), 2, "Write a marker as SECONDS=LABEL, not 'soon=x'."),
        (("record", "talk.wav", "--format", "mp3"), 1, "format_mismatch"),
        (("record", "talk.wav", "--format", "aiff"), 2, "aiff"),
        (("record", "talk.wav", "--project", "none"), 5, "project_not_found"),
        (("record", "talk.wav", "--session", UNKNOWN), 5, "session_not_found"),
        (("record", "-m", "--format", "mp4"), 2, "A microphone is recorded as one of"),
        (("sessions", "--started-after", "soon"), 1, "invalid_parameter"),
        (("show", "nothing"), 1, "invalid_session_id"),
        (("sessions", "--url", "nothing"), 2, "must look like http://127.0.0.1:8000"),
        (("sessions", "--api-key", "wrong"), 4, "not_authenticated"),
        (("nothing",), 2, "No such command"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(scribe, wav, arguments, code, sentence):
    failed = scribe(*arguments, code=code)
    assert sentence in failed.stderr and failed.stdout == ""
    assert "Traceback" not in failed.stderr


def test_an_error_as_json_has_its_code(scribe):
    assert json.loads(scribe("show", UNKNOWN, "--json", code=5).stderr)["code"] == "session_not_found"


def test_a_server_that_is_not_there_has_an_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr("sercuescribe_client.transport.MAX_ATTEMPTS", 1)
    away = Scribe(f"http://127.0.0.1:{free_port()}", None, tmp_path)
    assert "does not answer" in away("sessions", code=3).stderr


def test_a_damaged_download_has_an_exit_code(scribe, rest, wav, tmp_path):
    session_id = scribe("record", "talk.wav").stdout.strip()
    scribe("download", session_id, "-o", "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[200] ^= 1
    (tmp_path / "b.wav.part").write_bytes(content[:1000])
    etag = httpx.head(f"{rest.url}/api/audio/sessions/{session_id}/audio", headers=scribe.headers).headers["ETag"]
    (tmp_path / "b.wav.part.json").write_text(json.dumps({"etag": etag}))
    assert "its SHA-256 is" in scribe("download", session_id, "-o", "b.wav", code=6).stderr
    assert [path.name for path in tmp_path.glob("*.wav*") if path.name.startswith("b")] == []


def interrupted(process: subprocess.Popen, *numbers: signal.Signals) -> tuple[int, str, str]:
    for number in numbers:
        process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, output.decode().strip(), errors.decode()


def test_ctrl_c_closes_the_session_and_keeps_what_was_recorded(scribe, rest, tmp_path):
    """A file at its pace is cut, a pipe that stays open is ended, and so is a microphone."""
    sound = speech(600)
    (tmp_path / "long.wav").write_bytes(wav_bytes(sound, 16000))
    device = ("--driver", "lavfi", "--device", "sine=sample_rate=16000,arealtime", "--sample-rate", "16000")
    started = {
        "file": scribe.start("record", "long.wav", "--realtime", "--name", "ctrl-c file", "--ffmpeg", FFMPEG),
        "pipe": scribe.start("record", "-", "--name", "ctrl-c pipe", "--format", "wav", stdin=subprocess.PIPE),
        "microphone": scribe.start("record", "-m", *device, "--name", "ctrl-c microphone", "--ffmpeg", FFMPEG),
    }
    pipe = started["pipe"].stdin
    assert pipe is not None
    pipe.write(wav_bytes(sound, 16000)[:64044])
    pipe.flush()
    for name, process in started.items():

        def is_recording(name: str = f"ctrl-c {name}") -> bool:
            return any(each["total_chunks"] > 1 for each in rest.sessions.list(name=name).items)

        eventually(is_recording)
        code, session_id, errors = interrupted(process, signal.SIGINT)
        assert (code, session_id != "") == (130 if name == "file" else 0, True), errors
        session = rest.sessions.wait_until_ready(session_id)
        assert session["status"] == "completed"
        if name == "microphone":
            assert session["recording"]["warnings"] == []
        else:
            recorded = recording_of(rest, session_id)
            assert recorded and sound.tobytes().startswith(recorded)


def test_a_second_ctrl_c_leaves_the_session_open(rest, scribe, server, key, tmp_path):
    process = scribe.start("record", "-", "--name", "twice", "--format", "wav", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(wav_bytes(SOUND, 16000)[:32044])
    process.stdin.flush()
    eventually(lambda: any(each["total_chunks"] for each in rest.sessions.list(name="twice").items))
    # Nobody answers the close: the server is stopped.
    web = server.child("web")
    assert web is not None
    processes = [web, *web.children(recursive=True)]
    for each in processes:
        each.suspend()
    try:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"Closing the session." in process.stderr.readline()
        code, _, errors = interrupted(process, signal.SIGINT)
    finally:
        for each in processes:
            each.resume()
    assert code == 130 and "Interrupted. The session stays open" in errors, errors


def test_kill_9_of_the_server_loses_nothing_and_doubles_nothing(make_server, tmp_path):
    """Standard input, a file at its pace and the plain client record while the server is killed and starts again."""
    server = make_server(PORT=str(free_port()), DISCONNECT_GRACE_SECONDS="600")
    server.start()
    scribe = Scribe(server.url, None, tmp_path)
    sound = speech(6)
    content = wav_bytes(sound, 16000)
    (tmp_path / "talk.wav").write_bytes(content)
    pipe = scribe.start("record", "-", "--name", "pipe", "--json", stdin=subprocess.PIPE)
    file = scribe.start("record", "talk.wav", "--realtime", "--name", "file", "--json", "--ffmpeg", FFMPEG)
    assert pipe.stdin is not None
    with Client(server.url, "") as client, client.record(name="plain", chunks="stream") as recorder:
        recorder.send(content[:50_000])
        recorder.flush()
        pipe.stdin.write(content[:60_000])
        pipe.stdin.flush()

        def are_recording() -> bool:
            found = {each["name"]: each["total_chunks"] for each in client.sessions.list().items}
            return found.get("pipe", 0) > 1 and found.get("file", 0) > 1

        eventually(are_recording)
        server.kill_all()
        for at in range(50_000, len(content), 5000):
            recorder.send(content[at : at + 5000])
        pipe.stdin.write(content[60_000:])
        pipe.stdin.close()
        pipe.stdin = None
        server.restart()
        recorder.close()
        assert recorder.reconnect_count
        ids = [recorder.session_id]
        for process in (pipe, file):
            output, errors = process.communicate(timeout=DEADLINE_SECONDS)
            assert process.returncode == 0, errors.decode()
            ids.append(json.loads(output)["session_id"])
        for session_id in ids:
            assert recording_of(client, session_id) == sound.tobytes()


def test_the_shell_completes_commands_options_and_sessions(scribe, server, key, rest, tmp_path):
    session_id = rest.sessions.create()["session_id"]

    def completed(line: str) -> list[str]:
        variables = {"_SCRIBE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        given = {"SERCUESCRIBE_URL": server.url, "SERCUESCRIBE_API_KEY": key}
        done = CliRunner(env=variables | given).invoke(app, [], prog_name="scribe")
        return done.stdout.split()

    assert {"record", "sessions", "listen", "keys"} <= set(completed("scribe "))
    assert "--microphone" in completed("scribe record --")
    assert session_id in completed("scribe show ")
    assert "complete -o default -F _scribe_completion scribe" in shown_completion()


def shown_completion() -> str:
    done = CliRunner(env={"_SCRIBE_COMPLETE": "source_bash"}).invoke(app, [], prog_name="scribe")
    return done.stdout


def commands() -> list[tuple[str, ...]]:
    root: Any = get_command(app)
    groups = [((name,), below) for name, below in root.commands.items()]
    return [
        *(path for path, below in groups if not hasattr(below, "commands")),
        *((*path, name) for path, below in groups if hasattr(below, "commands") for name in below.commands),
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_help_of_each_command_has_an_example(scribe, command):
    text = " ".join(scribe(*command, "--help").stdout.split())
    assert f"Example: scribe {' '.join(command)}" in text
    assert "--json" in text and "--url" in text


def test_the_exit_codes_are_documented(scribe):
    told = " ".join(scribe("--help").stdout.split())
    codes = {code for _, code in execution._EXIT_CODES} | {0, execution.FAILED, execution.INTERRUPTED}
    assert all(f"{code} " in told for code in codes)
    rows = [line.split("|")[1].strip() for line in (execution.__doc__ or "").splitlines() if line.startswith("| ")]
    assert {int(row) for row in rows if row.isdigit()} == codes


def test_the_version_is_that_of_the_product(scribe):
    assert scribe("--version").stdout.strip() == __version__ == sercuescribe.__version__
