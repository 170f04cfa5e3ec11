"""Recordings that move to S3: verified before the local file goes, found again after any death, read where they are."""

import hashlib
import logging
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.storage import storages
from django.utils import timezone

from audio import dispatch, upkeep
from audio.assembly import concatenate
from audio.assembly.rebuild import rebuild
from audio.errors import ObjectDamagedError, SessionBusyError, StorageFullError, StorageUnavailableError
from audio.jobs import peaks, recording, rows, run, transcode
from audio.jobs import upload as module
from audio.jobs.upload import upload
from audio.media import ffmpeg, waveform
from audio.models import AudioSession, BackgroundTask, Recording, TaskKind, TaskState
from audio.storage import paths
from audio.storage.lock import session_lock
from audio.storage.remote import remote_storage
from tests.api.asgi import fetch
from tests.broker import requests_for
from tests.s3 import unchanged
from tests.sound import cut, decoded, encoded, speech

SAMPLES = speech(2)
SPEECH = SAMPLES.tobytes()
# More than one part of an upload.
LONG = bytes(range(256)) * 4096 * 9


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def recorded(bucket, stored):
    """Makes a session with its recording ready, and not moved yet."""

    def make(samples=SPEECH, **parameters):
        session = stored(**{"format": "wav", **parameters})
        session.add(cut(samples, 1 << 20) if isinstance(samples, bytes) else samples)
        session.made()
        return session

    return make


@pytest.fixture
def moved(recorded):
    """Makes a session whose recording has moved."""

    def make(*arguments, **parameters):
        session = recorded(*arguments, **parameters)
        upload(session.session.pk)
        return session

    return make


def place(session) -> tuple[bool, bool]:
    """Whether the row says that the recording is remote, and whether it says that the file is here."""
    return session.recording.remote_at is not None, session.recording.is_local


@pytest.mark.parametrize("samples", [SPEECH, LONG], ids=["one part", "several parts"])
def test_a_recording_moves_under_its_own_name(bucket, recorded, samples):
    session = recorded(samples)
    content = session.path.read_bytes()
    upload(session.session.pk)
    assert place(session) == (True, False)
    assert not session.path.exists()
    assert bucket.objects() == {session.recording.file_name: content}
    with storages["recordings"].open(session.recording.file_name) as file:
        assert file.read() == content


def test_a_second_time_does_nothing(bucket, moved):
    session = moved()
    before, bucket.proxy.requests = session.recording.updated_at, []
    upload(session.session.pk)
    assert (session.recording.updated_at, bucket.proxy.requests) == (before, [])


def test_a_recording_whose_digest_was_not_written_gets_it(recorded):
    session = recorded()
    content = session.path.read_bytes()
    Recording.objects.update(sha256="")
    upload(session.session.pk)
    assert place(session) == (True, False)
    assert session.recording.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("state", ["live", "failed"])
def test_what_is_not_ready_stays(bucket, recorded, state):
    session = recorded()
    Recording.objects.update(state=state)
    upload(session.session.pk)
    assert place(session) == (False, True)
    assert bucket.objects() == {}


def test_a_session_that_is_worked_on_is_left_alone(bucket, recorded):
    session = recorded()
    with session_lock(session.session.pk), pytest.raises(SessionBusyError):
        upload(session.session.pk)
    assert bucket.objects() == {}


def flipped(method, path, body):
    return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:] if len(body) > 1000 else body


def shortened(method, path, body):
    return body[:-1] if len(body) > 1000 else body


def emptied(method, path, body):
    return b"" if len(body) > 1000 else body


def lengthened(method, path, body):
    return body + b"\0" if len(body) > 1000 else body


@pytest.mark.parametrize(
    ("way", "change"),
    [
        ("on_request", flipped),
        ("on_request", shortened),
        ("on_request", emptied),
        ("on_request", lengthened),
        ("on_answer", flipped),
    ],
)
def test_an_upload_that_does_not_come_back_as_it_was_is_not_accepted(bucket, recorded, caplog, way, change):
    session = recorded()
    content = session.path.read_bytes()
    setattr(bucket.proxy, way, change)
    with pytest.raises(ObjectDamagedError):
        upload(session.session.pk)
    assert (place(session), session.path.read_bytes()) == ((False, True), content)
    assert [record.levelno for record in caplog.records if "upload_damaged" in record.message] == [logging.ERROR]
    assert fetch(session.session).body == content
    setattr(bucket.proxy, way, unchanged)
    upload(session.session.pk)
    assert (place(session), bucket.objects()) == ((True, False), {session.recording.file_name: content})


def test_a_file_that_is_damaged_here_is_not_uploaded_as_the_recording(recorded):
    session = recorded()
    content = session.path.read_bytes()
    session.path.write_bytes(flipped("", "", content))
    with pytest.raises(ObjectDamagedError):
        upload(session.session.pk)
    assert place(session) == (False, True)


def _after(monkeypatch, owner, name):
    done = getattr(owner, name)

    def killed(*arguments, **options):
        done(*arguments, **options)
        raise KilledError

    monkeypatch.setattr(owner, name, killed)


def _after_upload(monkeypatch):
    _after(monkeypatch, type(remote_storage()), "put")


def _after_verification(monkeypatch):
    _after(monkeypatch, type(remote_storage()), "verify")


def _after_commit(monkeypatch):
    _after(monkeypatch, module, "_upload")


def _after_removal(monkeypatch):
    _after(monkeypatch, Path, "unlink")


@pytest.mark.database
@pytest.mark.parametrize("step", [_after_upload, _after_verification, _after_commit, _after_removal])
def test_a_run_that_dies_is_found_by_the_sweep_and_repeated(bucket, recorded, step):
    session = recorded()
    content = session.path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        step(patch)
        with pytest.raises(KilledError):
            upload(session.session.pk)
    is_remote, is_local = place(session)
    assert is_local
    assert session.path.exists() or is_remote
    assert fetch(session.session).body == content
    Recording.objects.update(updated_at=timezone.now() - timedelta(minutes=11))
    assert upkeep.sweep().requested_uploads == 1
    assert upkeep.sweep().requested_uploads == 0
    upload(session.session.pk)
    assert place(session) == (True, False)
    assert not session.path.exists()
    assert fetch(session.session).body == content
    assert bucket.objects() == {session.recording.file_name: content}


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_the_end_of_a_recording_and_the_sweep_ask_for_the_upload(bucket, stored):
    """With the real queue."""
    session = stored(format="wav")
    session.add([SPEECH])
    session.close()
    recording.make_recording(session.session.pk)
    assert requests_for(session.session.pk, "jobs") == [dispatch.UPLOAD]
    assert upkeep.sweep().requested_uploads == 0
    Recording.objects.update(updated_at=timezone.now() - timedelta(minutes=11))
    assert upkeep.sweep().requested_uploads == 1
    assert requests_for(session.session.pk, "jobs") == [dispatch.UPLOAD] * 2


@pytest.mark.database
def test_a_sweep_asks_for_a_bounded_number_of_uploads(bucket, recorded, monkeypatch):
    monkeypatch.setattr("audio.upkeep.work.REQUESTS_PER_SWEEP", 2)
    for _ in range(3):
        recorded()
    Recording.objects.update(updated_at=timezone.now() - timedelta(minutes=11))
    # What was asked for and is not done yet counts, however often the sweep comes.
    assert [upkeep.sweep().requested_uploads for _ in range(3)] == [2, 0, 0]


@pytest.mark.database
def test_a_rebuild_meanwhile_keeps_the_row_as_it_made_it(bucket, recorded, monkeypatch):
    session = recorded()
    verify = type(remote_storage()).verify

    def rebuild_first(*arguments):
        verify(*arguments)
        rebuild(session.session.pk)

    monkeypatch.setattr(type(remote_storage()), "verify", rebuild_first)
    upload(session.session.pk)
    assert (place(session), session.recording.state) == ((True, False), "ready")
    assert session.recording.rebuild_requested_at is not None


@pytest.mark.database
def test_a_session_that_is_deleted_meanwhile_leaves_no_object(bucket, recorded, monkeypatch):
    """The file is open, and the object is made after the deletion has looked for it."""
    session = recorded()
    save = type(remote_storage()).save

    def delete_first(*arguments):
        upkeep.delete_session(session.session.pk)
        return save(*arguments)

    monkeypatch.setattr(type(remote_storage()), "save", delete_first)
    upload(session.session.pk)
    assert bucket.objects() == {}
    assert not paths.folder(session.session.pk).exists()


# Reading


def test_a_download_is_the_same_before_and_after(moved, recorded):
    session = recorded(LONG)
    size = session.recording.size_bytes

    def answers():
        requests = [
            {},
            {"method": "HEAD"},
            {"Range": "bytes=0-0"},
            {"Range": "bytes=100-9999999"},
            {"Range": "bytes=-5"},
            {"Range": f"bytes={size}-"},
            {"If_None_Match": etag},
            {"If_Match": '"other"'},
            {"Range": "bytes=5-10", "If_Range": etag},
            {"query": "?format=wav"},
        ]
        for answer in (fetch(session.session, **request) for request in requests):
            yield answer.status_code, dict(answer.headers), hashlib.sha256(answer.body).hexdigest()

    etag = fetch(session.session)["ETag"]
    before = list(answers())
    assert [status for status, *_ in before] == [200, 200, 206, 206, 206, 416, 304, 412, 206, 200]
    upload(session.session.pk)
    assert list(answers()) == before


def test_the_headers_alone_ask_nothing_of_the_storage(bucket, moved):
    session = moved()
    bucket.proxy.requests = []
    assert fetch(session.session, method="HEAD").status_code == 200
    assert bucket.proxy.requests == []


def test_a_download_is_one_request_however_long(bucket, moved):
    session = moved(LONG)
    bucket.proxy.requests = []
    fetch(session.session)
    assert [method for method, _ in bucket.proxy.requests] == ["GET"]


@pytest.mark.parametrize("cut_after", [0, 1, 5_000_000])
def test_a_connection_to_the_storage_that_breaks_is_replaced(bucket, moved, cut_after):
    session = moved(LONG)
    content = fetch(session.session).body
    bucket.proxy.cut_after = cut_after
    assert fetch(session.session, Range="bytes=100-8000000").body == content[100:8000001]


def test_a_download_is_never_of_two_versions(bucket, moved):
    session = moved(LONG)
    name, size = session.recording.file_name, session.recording.size_bytes
    bucket.proxy.cut_after = 100_000
    with remote_storage().open_span(name, 0, size) as reader:
        bucket.client.put_object(Bucket=bucket.name, Key=f"{bucket.FOLDER}/{name}", Body=bytes(size))
        with pytest.raises(StorageUnavailableError):
            while reader.read(50_000):
                pass


def test_a_storage_that_goes_away_in_a_download_ends_it(bucket, moved):
    session = moved(LONG)
    bucket.proxy.cut_after = 100_000
    with remote_storage().open_span(session.recording.file_name, 0, session.recording.size_bytes) as reader:
        bucket.proxy.is_away = True
        with pytest.raises(StorageUnavailableError):
            while reader.read(50_000):
                pass


def test_a_storage_that_is_away(bucket, moved, recorded):
    gone, waiting = moved(), recorded()
    content = waiting.path.read_bytes()
    bucket.proxy.is_away = True
    answer = fetch(gone.session)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert int(answer["Retry-After"]) > 0
    assert fetch(gone.session, method="HEAD").status_code == 200
    with pytest.raises(StorageUnavailableError):
        upload(waiting.session.pk)
    assert (place(waiting), waiting.path.read_bytes()) == ((False, True), content)
    assert fetch(waiting.session).body == content


def test_a_storage_that_is_not_named_any_more(moved, settings, client):
    session = moved()
    settings.RECORDINGS_STORAGE = ""
    assert fetch(session.session).json()["code"] == "storage_unavailable"
    assert client.delete(f"/api/audio/sessions/{session.session.pk}").status_code == 503
    assert AudioSession.objects.filter(pk=session.session.pk).exists()


def test_an_object_that_somebody_has_deleted(bucket, moved):
    session = moved()
    bucket.client.delete_object(Bucket=bucket.name, Key=f"{bucket.FOLDER}/{session.recording.file_name}")
    answer = fetch(session.session)
    assert (answer.status_code, answer.json()["code"]) == (409, "master_damaged")


def test_an_object_that_somebody_has_shortened(bucket, moved):
    session = moved()
    for body in (b"short", b""):
        bucket.client.put_object(Bucket=bucket.name, Key=f"{bucket.FOLDER}/{session.recording.file_name}", Body=body)
        answer = fetch(session.session)
        assert (answer.status_code, answer.json()["code"]) == (409, "object_damaged")


# What is made of it


def made(session, kind, audio_format=""):
    task = rows.enqueue(session.session, kind, audio_format)
    run.run(task.pk)
    return BackgroundTask.objects.get(pk=task.pk)


@pytest.mark.parametrize("has_moved", [False, True])
def test_another_format_and_the_waveform(recorded, has_moved):
    session = recorded()
    if has_moved:
        upload(session.session.pk)
    for kind, audio_format in ((TaskKind.TRANSCODE, "flac"), (TaskKind.WAVEFORM, "")):
        assert made(session, kind, audio_format).state == TaskState.COMPLETED
    assert decoded(transcode.servable(session.session, "flac").path) == SPEECH
    derived = paths.folder(session.session.pk) / paths.DERIVED_FOLDER
    assert sorted(path.suffix for path in derived.iterdir()) == [".flac", ".peaks"]
    far = peaks.shown(session.session, session.recording, 100, 0.0, None)
    assert len(far.pairs) == 100
    # Nearer than the file of peaks: from the samples themselves.
    near = peaks.shown(session.session, session.recording, 800, 0.5, 0.6)
    expected = SAMPLES[8000:9600].reshape(800, 2)
    scale = 32767 / 32768
    assert abs(near.pairs[:, 0] - expected.min(axis=1) * scale).max() <= 1
    assert abs(near.pairs[:, 1] - expected.max(axis=1) * scale).max() <= 1


@pytest.mark.parametrize("audio_format", ["mp3", "flac"])
def test_another_format_of_a_compressed_one(moved, tmp_path, audio_format):
    source = encoded(SAMPLES, 16000, tmp_path / f"a.{audio_format}")
    session = moved(source, format=audio_format)
    assert place(session) == (True, False)
    assert made(session, TaskKind.TRANSCODE, "wav").state == TaskState.COMPLETED
    assert decoded(transcode.servable(session.session, "wav").path) == decoded(tmp_path / f"a.{audio_format}")


def test_separate_files_leave_a_master_that_other_formats_are_made_of(bucket, moved, tmp_path):
    files = [encoded(speech(0.5, seed=seed), 16000, tmp_path / f"{seed}.mp3") for seed in (1, 2)]
    session = moved(files, format="mp3", chunk_mode="files")
    assert place(session) == (True, False)
    bucket.proxy.requests = []
    assert made(session, TaskKind.TRANSCODE, "flac").state == TaskState.COMPLETED
    assert bucket.proxy.requests == []


def test_a_recording_that_moves_while_it_is_transcoded(recorded, monkeypatch):
    session = recorded()
    run = ffmpeg.run

    def moves_first(*arguments, **options):
        upload(session.session.pk)
        return run(*arguments, **options)

    monkeypatch.setattr("audio.media.ffmpeg.run", moves_first)
    assert made(session, TaskKind.TRANSCODE, "flac").state == TaskState.COMPLETED
    assert place(session) == (True, False)
    assert decoded(transcode.servable(session.session, "flac").path) == SPEECH


def test_a_recording_that_moves_before_its_waveform_is_read(recorded):
    session = recorded()
    made(session, TaskKind.WAVEFORM)
    before = session.recording
    upload(session.session.pk)
    assert waveform.is_near(peaks.shown(session.session, before, 800, 0.5, 0.6), 800)


def test_a_copy_that_is_not_the_recording_is_not_used(bucket, moved):
    session = moved()
    bucket.proxy.on_answer = flipped
    task = made(session, TaskKind.TRANSCODE, "flac")
    assert (task.state, task.error_code) == (TaskState.FAILED, "object_damaged")


def test_a_copy_leaves_space_for_those_who_record(moved, monkeypatch):
    session = moved()
    task = rows.enqueue(session.session, TaskKind.TRANSCODE, "flac")
    free = session.recording.size_bytes * 2 - 1
    monkeypatch.setattr("audio.storage.local.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(StorageFullError):
        run.run(task.pk)


def test_a_task_waits_for_a_storage_that_is_away(bucket, moved):
    session = moved()
    task = rows.enqueue(session.session, TaskKind.TRANSCODE, "flac")
    bucket.proxy.is_away = True
    with pytest.raises(StorageUnavailableError):
        run.run(task.pk)
    bucket.proxy.is_away = False
    run.run(task.pk)
    assert BackgroundTask.objects.get(pk=task.pk).state == TaskState.COMPLETED


# The end of it


def test_a_rebuilt_recording_takes_the_place_of_the_old_one(bucket, moved):
    session = moved()
    content, etag = fetch(session.session).body, fetch(session.session)["ETag"]
    rebuild(session.session.pk)
    assert (place(session), fetch(session.session).body) == ((True, False), content)
    concatenate.concatenate(session.session.pk)
    assert place(session) == (False, True)
    assert session.path.read_bytes() == content
    upload(session.session.pk)
    assert bucket.objects() == {session.recording.file_name: content}
    assert fetch(session.session)["ETag"] != etag


@pytest.mark.database
def test_deleting_a_session_deletes_its_object_and_no_other(bucket, moved, recorded, client):
    doomed, kept = moved(), moved()
    half = bucket.client.create_multipart_upload(
        Bucket=bucket.name, Key=f"{bucket.FOLDER}/{doomed.recording.file_name}"
    )
    assert bucket.unfinished_uploads() == [half["Key"]]
    assert client.delete(f"/api/audio/sessions/{doomed.session.pk}").status_code == 204
    assert list(bucket.objects()) == [kept.recording.file_name]
    assert bucket.unfinished_uploads() == []
    assert fetch(doomed.session).status_code == 404


def test_a_deletion_where_uploads_can_not_be_listed_deletes_nothing(bucket, moved, client):
    session = moved()
    content = fetch(session.session).body
    bucket.proxy.rejects = lambda command, path: command == "GET" and "uploads" in path
    for _ in range(2):
        assert client.delete(f"/api/audio/sessions/{session.session.pk}").json()["code"] == "storage_unavailable"
        assert fetch(session.session).body == content
    bucket.proxy.rejects = lambda command, path: False
    assert client.delete(f"/api/audio/sessions/{session.session.pk}").status_code == 204
    assert bucket.objects() == {}


def test_a_deletion_while_the_storage_is_away_deletes_nothing(bucket, moved, client):
    session = moved()
    content = fetch(session.session).body
    bucket.proxy.is_away = True
    assert client.delete(f"/api/audio/sessions/{session.session.pk}").json()["code"] == "storage_unavailable"
    bucket.proxy.is_away = False
    assert fetch(session.session).body == content
    rebuild(session.session.pk)
    concatenate.concatenate(session.session.pk)
    assert session.path.read_bytes() == content
    assert client.delete(f"/api/audio/sessions/{session.session.pk}").status_code == 204
    assert bucket.objects() == {}
