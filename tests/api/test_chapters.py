"""Downloads of compressed recordings and transcodes with the markers of their session as chapters."""

import hashlib
import json
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from audio import ingest
from audio.jobs import run
from audio.models import BackgroundTask, Marker, TaskKind, TaskState
from tests.api.asgi import fetch
from tests.recorded import Recorded
from tests.sound import FFMPEG, cut, decoded, encoded, speech

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

RATE = 16000
SECONDS = 3.0
LABELS = {
    0.5: "Frage 1: ü 🎤",
    1.0: "a=b; #c \\ \"quoted\" 'single' [CHAPTER]",
    1.25: "title=x",
    2.75: "long " + "🎤" * 250,
}
# How FFmpeg writes what clients send, by the format of the session.
SENT = {
    "mp3": ("sound.mp3",),
    "flac": ("sound.flac",),
    "webm": ("sound.webm", "-c:a", "libopus"),
    "ogg": ("sound.ogg", "-c:a", "libopus"),
    "mp4": ("sound.mp4", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov+default_base_moof"),
}
TRANSCODES = ("mp3", "m4a", "opus", "flac")


def ffmpeg(*arguments: str) -> str:
    command = [FFMPEG, "-v", "error", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


def chapters_in(path: Path) -> list[tuple[float, float, str]]:
    """The beginnings, ends and titles that FFmpeg finds in a file."""
    found = []
    for section in ffmpeg("-copyts", "-i", str(path), "-f", "ffmetadata", "-").split("\n[CHAPTER]\n")[1:]:
        values = dict(re.findall(r"^(\w+)=((?:[^\\\n]|\\.)*)$", section, re.MULTILINE))
        unit = int(values["TIMEBASE"].partition("/")[0]) / int(values["TIMEBASE"].partition("/")[2])
        title = re.sub(r"\\(.)", r"\1", values.get("title", ""))
        found.append((int(values["START"]) * unit, int(values["END"]) * unit, title))
    return found


def packets_in(path: Path) -> list[str]:
    """The time, the length and the MD5 of each packet."""
    told = ffmpeg("-copyts", "-i", str(path), "-map", "0:a", "-c", "copy", "-f", "framemd5", "-")
    return [line for line in told.splitlines() if not line.startswith("#")]


def work() -> None:
    """Do what a worker does: run all tasks that wait."""
    while task := BackgroundTask.objects.filter(state=TaskState.PENDING).first():
        run.run(task.pk)


def made(session_id: str, query: str) -> Any:
    """Download a file, as a client does that asks again while it is being made."""
    for _ in range(4):
        answer = fetch(session_id, query)
        if answer.status_code != 202:
            return answer
        assert json.loads(answer.body)["code"] == "task_running"
        work()
    raise AssertionError("the file is never made")


def mark(session_id: Any) -> str:
    for seconds, label in reversed(LABELS.items()):
        ingest.add_marker(session_id, label, seconds)
    return str(session_id)


def check(path: Path, plain: Path, audio_format: str) -> None:
    """Whether a file has the markers as chapters, and the same sound as one without."""
    found = chapters_in(path)
    if audio_format in ("m4a", "mp4"):
        start, end, title = found.pop(0)
        assert (start, round(end, 3), title) == (0.0, 0.5, "")
    assert [title for _, _, title in found] == list(LABELS.values())
    assert [start for start, _, _ in found] == pytest.approx(list(LABELS), abs=0.001)
    ends = [*list(LABELS)[1:], SECONDS]
    assert [end for _, end, _ in found] == pytest.approx(ends, abs=0.1)
    assert packets_in(path) == packets_in(plain)
    assert decoded(path) == decoded(plain)


@pytest.mark.parametrize("audio_format", SENT)
def test_a_recording_has_its_markers_as_chapters(recorded: Recorded, tmp_path, client, audio_format):
    name, *options = SENT[audio_format]
    sent = encoded(speech(SECONDS, RATE), RATE, tmp_path / name, *options)
    session_id = mark(recorded.session(*cut(sent, 5000), format=audio_format, sample_rate=RATE, channels=1))
    path, plain = tmp_path / f"with.{audio_format}", tmp_path / f"without.{audio_format}"
    answer = made(session_id, "?markers=true")
    assert answer.status_code == 200
    path.write_bytes(answer.body)
    plain.write_bytes(fetch(session_id).body)
    check(path, plain, audio_format)
    # The file itself is as it was.
    shown = client.get(f"/api/audio/sessions/{session_id}").json()
    assert shown["recording"]["sha256"] == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert answer["ETag"] != fetch(session_id)["ETag"]
    assert answer["Content-Type"] == fetch(session_id)["Content-Type"]
    part = fetch(session_id, "?markers=true", Range="bytes=100-199")
    assert (part.status_code, part.body) == (206, answer.body[100:200])


@pytest.mark.parametrize("audio_format", TRANSCODES)
def test_a_transcode_has_the_markers_as_chapters(recorded: Recorded, tmp_path, audio_format):
    sound = speech(SECONDS, RATE).tobytes()
    session_id = mark(recorded.session(sound, format="wav", sample_rate=RATE, channels=1, encoding="s16le"))
    path, plain = tmp_path / f"with.{audio_format}", tmp_path / f"without.{audio_format}"
    path.write_bytes(made(session_id, f"?markers=true&format={audio_format}").body)
    plain.write_bytes(fetch(session_id, f"?format={audio_format}").body)
    check(path, plain, audio_format)


@pytest.fixture
def marked(recorded: Recorded, tmp_path) -> str:
    sent = encoded(speech(SECONDS, RATE), RATE, tmp_path / "sound.mp3")
    return mark(recorded.session(sent, format="mp3", sample_rate=RATE, channels=1))


def titles(answer: Any, tmp_path: Path) -> list[str]:
    assert answer.status_code == 200
    (tmp_path / "file.mp3").write_bytes(answer.body)
    return [title for _, _, title in chapters_in(tmp_path / "file.mp3")]


def test_the_file_is_made_anew_after_a_change_of_the_markers(marked, tmp_path):
    before = made(marked, "?markers=true")
    assert fetch(marked, "?markers=true", If_None_Match=before["ETag"]).status_code == 304
    ingest.change_marker(Marker.objects.get(label="title=x"), {"label": "changed"})
    first = BackgroundTask.objects.get(kind=TaskKind.CHAPTERS)
    after = made(marked, "?markers=true")
    assert titles(after, tmp_path)[2] == "changed"
    assert after["ETag"] != before["ETag"]
    derived = {path.name for path in tmp_path.rglob("derived/*.mp3")}
    current = BackgroundTask.objects.get(kind=TaskKind.CHAPTERS, is_current=True)
    assert derived == {Path(current.file_name).name}
    assert current.pk != first.pk


def test_a_change_while_the_file_is_made_is_in_the_next_one(marked, tmp_path):
    assert fetch(marked, "?markers=true").status_code == 202
    task = BackgroundTask.objects.get(kind=TaskKind.CHAPTERS)
    run.run(task.pk)
    Marker.objects.filter(label="title=x").delete()
    assert fetch(marked, "?markers=true").status_code == 202
    work()
    assert len(titles(fetch(marked, "?markers=true"), tmp_path)) == 3


def test_a_session_without_markers(marked):
    Marker.objects.all().delete()
    assert fetch(marked, "?markers=true").body == fetch(marked).body
    assert not BackgroundTask.objects.exists()


def test_markers_at_one_moment_share_a_chapter_and_the_last_one_can_be_reached(marked, tmp_path):
    duration = Marker.objects.first().session.recording.duration_seconds
    Marker.objects.all().delete()
    for seconds, label in ((duration, "end"), (0.0, "a"), (0.0, "b"), (0.0004, "c")):
        ingest.add_marker(uuid.UUID(marked), label, seconds)
    (tmp_path / "file.mp3").write_bytes(made(marked, "?markers=true").body)
    found = chapters_in(tmp_path / "file.mp3")
    assert [title for _, _, title in found] == ["a / b / c", "end"]
    assert duration - 0.003 < found[1][0] < duration


def test_a_thousand_markers(recorded: Recorded, tmp_path):
    sent = encoded(speech(SECONDS, RATE), RATE, tmp_path / "sound.ogg", "-c:a", "libopus")
    session_id = recorded.session(sent, format="ogg", sample_rate=RATE, channels=1)
    rows = [Marker(session_id=session_id, label=f"{n}" + "ü" * 250, position_seconds=n * 0.0029) for n in range(1000)]
    Marker.objects.bulk_create(rows)
    for audio_format in ("ogg", "mp3", "m4a", "flac"):
        path = tmp_path / f"file.{audio_format}"
        path.write_bytes(made(str(session_id), f"?markers=true&format={audio_format}").body)
        assert [title for _, _, title in chapters_in(path)] == [row.label for row in rows], audio_format


def test_a_format_without_chapters(marked):
    answer = fetch(marked, "?markers=true&format=aac")
    error = json.loads(answer.body)
    assert (answer.status_code, error["code"], error["parameter"]) == (400, "invalid_parameter", "format")
    assert "m4a" in error["valid_values"]


def test_a_failure_is_told_once_and_the_next_request_begins_anew(marked, recorded):
    path = recorded.path(Marker.objects.first().session_id)
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    assert fetch(marked, "?markers=true").status_code == 202
    work()
    answer = fetch(marked, "?markers=true")
    assert (answer.status_code, json.loads(answer.body)["code"]) == (409, "task_failed")
    path.write_bytes(whole)
    assert made(marked, "?markers=true").status_code == 200


def test_the_task_is_listed_and_can_not_be_asked_for_by_itself(marked, client):
    made(marked, "?markers=true")
    (task,) = client.get(f"/api/tasks?session_id={marked}").json()["results"]
    assert (task["task"], task["format"], task["status"]) == ("chapters", "mp3", "completed")
    assert task["result"]["url"].endswith("/audio?format=mp3&markers=true")
    wanted = {"task": "chapters", "session_id": marked, "format": "mp3"}
    assert client.post("/api/tasks", wanted, "application/json").json()["code"] == "invalid_parameter"
