"""Downloads through the whole stack: rows, files in the storage, ASGI."""

from uuid import uuid4

import pytest
from django.utils import timezone

from audio.media import wav
from audio.storage import downloads, paths
from tests.api.asgi import fetch
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]

SAMPLES = bytes(range(250)) * 64  # half a second of s16le, mono, at 16 kHz


@pytest.fixture(autouse=True)
def storage(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path
    return tmp_path


def write(storage, name, content):
    (storage / name).parent.mkdir(parents=True, exist_ok=True)
    (storage / name).write_bytes(content)


def make_live(storage, **fields):
    session = make_session({"state": "live", "master_encoding": "s16le"}, total_chunks=5, **fields)
    recording = session.recording
    recording.master_name = f"{paths.folder_name(session.pk)}/master.wav"
    recording.master_bytes = wav.HEADER_BYTES + len(SAMPLES)
    recording.save()
    # What follows the committed length is no part of it yet.
    write(storage, recording.master_name, bytes(wav.HEADER_BYTES) + SAMPLES + b"not committed")
    return session


def make_ready(storage, content):
    session = make_session(status="completed", end_time=timezone.now(), total_chunks=5)
    name = f"{paths.folder_name(session.pk)}/recording.wav"
    write(storage, name, content)
    fields = {
        "state": "ready",
        "file_name": name,
        "format": "wav",
        "size_bytes": len(content),
        "ready_at": timezone.now(),
    }
    type(session.recording).objects.filter(pk=session.pk).update(**fields)
    return session


def test_a_ready_recording(storage):
    session = make_ready(storage, b"RIFF....WAVE" + SAMPLES)
    answer = fetch(session)
    assert answer.status_code == 200
    assert answer.body == b"RIFF....WAVE" + SAMPLES
    assert answer["Content-Type"] == "audio/wav"
    assert answer["Content-Disposition"] == f'attachment; filename="{session.pk}.wav"'
    assert not answer["ETag"].startswith("W/")
    assert fetch(session, If_None_Match=answer["ETag"]).status_code == 304
    assert fetch(session, "?format=wav").body == answer.body
    assert fetch(f"{session.pk}", Accept="audio/*").body == answer.body


def test_a_range_of_a_recording(storage):
    session = make_ready(storage, SAMPLES)
    whole = fetch(session)
    answer = fetch(session, Range="bytes=100-199", If_Range=whole["ETag"])
    assert answer.status_code == 206
    assert answer.body == SAMPLES[100:200]
    assert answer["Content-Range"] == f"bytes 100-199/{len(SAMPLES)}"
    beyond = fetch(session, Range=f"bytes={len(SAMPLES)}-")
    assert beyond.status_code == 416
    assert beyond["Content-Range"] == f"bytes */{len(SAMPLES)}"
    assert beyond.json()["code"] == "range_not_satisfiable"
    assert fetch(session, If_Match='"other"').json()["code"] == "precondition_failed"


def test_the_headers_alone(storage):
    answer = fetch(make_ready(storage, SAMPLES), method="HEAD")
    assert (answer.status_code, answer.body, answer["Content-Length"]) == (200, b"", str(len(SAMPLES)))


def test_a_live_recording_is_a_whole_wav_file_of_what_is_committed(storage):
    session = make_live(storage)
    answer = fetch(session)
    pcm = downloads.master_format(session, session.recording)
    assert answer.status_code == 200
    assert answer.body == wav.header(pcm, len(SAMPLES)) + SAMPLES
    session.recording.master_bytes -= 2
    session.recording.save()
    assert fetch(session)["ETag"] != answer["ETag"]


def test_no_cache_keeps_a_recording_that_still_grows(storage):
    """A browser would ask for the version that it has, and get it without the newest sound."""
    assert fetch(make_live(storage))["Cache-Control"] == "no-store"
    assert fetch(make_ready(storage, SAMPLES))["Cache-Control"] == "private, no-cache"


def test_the_length_of_a_live_recording_is_exact(storage, client):
    shown = client.get(f"/api/audio/sessions/{make_live(storage).pk}").json()
    assert shown["duration_seconds"] == 0.5
    assert shown["recording"]["state"] == "live"
    assert shown["recording"]["url"].endswith("/audio")


def test_the_length_of_an_unfinished_compressed_stream_is_not_known(storage, client):
    session = make_session({"state": "live", "master_bytes": 4000}, total_chunks=1, format="mp3")
    assert client.get(f"/api/audio/sessions/{session.pk}").json()["duration_seconds"] is None


def test_nothing_was_recorded():
    answer = fetch(make_session())
    assert (answer.status_code, answer.json()["code"]) == (404, "recording_empty")


def test_a_recording_that_no_worker_has_begun_with_is_in_the_making():
    answer = fetch(make_session(status="completed", total_chunks=1))
    assert (answer.status_code, answer.json()["code"], answer.json()["progress"]) == (202, "recording_building", 0.0)


def test_a_recording_in_the_making_tells_its_progress_and_when_to_ask_again():
    answer = fetch(make_session({"state": "building", "progress": 0.4}))
    assert (answer.status_code, answer.json()["code"], answer.json()["progress"]) == (202, "recording_building", 0.4)
    assert int(answer["Retry-After"]) > 0


def test_a_recording_that_could_not_be_made_says_why():
    failed = make_session({"state": "failed", "error_code": "undecodable_chunk", "failed_sequence": 3})
    assert fetch(failed, "?partial=true").json()["code"] == "recording_failed"
    answer = fetch(failed)
    assert (answer.status_code, answer.json()["code"]) == (409, "recording_failed")
    assert (answer.json()["reason"], answer.json()["sequence"]) == ("undecodable_chunk", 3)


def test_the_part_that_could_be_made_is_had_on_request_and_marked(storage, client):
    session = make_ready(storage, SAMPLES)
    type(session.recording).objects.filter(pk=session.pk).update(state="failed", error_code="undecodable_chunk")
    shown = client.get(f"/api/audio/sessions/{session.pk}").json()["recording"]
    assert shown["url"] is None
    assert shown["partial_url"] == f"http://testserver/api/audio/sessions/{session.pk}/audio?partial=true"
    for query in ("?partial=true", "?partial=1", "?partial=TRUE&format=wav"):
        answer = fetch(session, query)
        assert (answer.status_code, answer.body) == (200, SAMPLES)
        assert f'"{session.pk}-incomplete.wav"' in answer["Content-Disposition"]
    for query in ("", "?partial=false", "?partial=true&format=mp3"):
        assert fetch(session, query).json()["code"] == "recording_failed"


def test_what_was_concatenated_before_a_recording_failed_is_its_part(storage):
    session = make_live(storage)
    type(session.recording).objects.filter(pk=session.pk).update(state="failed")
    answer = fetch(session, "?partial=true")
    assert answer.body[wav.HEADER_BYTES :] == SAMPLES
    assert "-incomplete.wav" in answer["Content-Disposition"]


def test_partial_changes_nothing_of_a_whole_recording(storage):
    session = make_ready(storage, SAMPLES)
    assert fetch(session, "?partial=true").headers == fetch(session).headers


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("?partial=maybe", "partial"), ("?format=webm", "format"), ("?format=", "format"), ("?at=3", "at")],
)
def test_what_can_not_be_asked_for(storage, query, parameter):
    answer = fetch(make_ready(storage, SAMPLES), query)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json()["parameter"]) == ("invalid_parameter", parameter)


def test_an_unknown_session():
    answer = fetch(str(uuid4()))
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


def test_a_file_that_is_gone_is_told_without_its_path(storage):
    session = make_ready(storage, SAMPLES)
    (storage / paths.folder_name(session.pk) / "recording.wav").unlink()
    answer = fetch(session)
    assert (answer.status_code, answer.json()["code"]) == (409, "master_damaged")
    assert str(storage) not in answer.body.decode()


def test_deleting_a_session_deletes_its_files(storage, client):
    session = make_ready(storage, SAMPLES)
    assert client.delete(f"/api/audio/sessions/{session.pk}").status_code == 204
    assert not paths.folder(session.pk).exists()
    assert fetch(session).status_code == 404
