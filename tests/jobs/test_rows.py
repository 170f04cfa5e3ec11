"""Other formats and peaks from real recordings, and what becomes of them when the recording or a request goes."""

import shutil
import subprocess
from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone

from audio import upkeep
from audio.assembly import concatenate
from audio.assembly.rebuild import rebuild
from audio.errors import (
    RecordingEmptyError,
    RecordingNotReadyError,
    TaskEndedError,
    TaskFailedError,
    TaskNotFoundError,
    TaskRunningError,
)
from audio.jobs import rows, run, transcode
from audio.models import BackgroundTask, TaskKind, TaskState
from audio.storage import paths
from audio.storage.lock import LOCK_NAME, file_lock
from tests.sound import FFMPEG, cut, decoded, encoded, speech

RATE = 16000


def made(session, audio_format):
    """The file of a transcode, made here and now."""
    task = rows.enqueue(session, TaskKind.TRANSCODE, audio_format)
    run.run(task.pk)
    return transcode.servable(session, audio_format).path


def row(task):
    return BackgroundTask.objects.get(pk=task.pk)


def derived_files(session):
    return sorted(path.name for path in (paths.folder(session.pk) / paths.DERIVED_FOLDER).glob("**/*"))


@pytest.fixture
def recorded(stored):
    """A session of two seconds of speech, with its recording."""
    session = stored(format="wav")
    session.add(cut(speech(2).tobytes(), 3200))
    session.made()
    return session.session


@pytest.mark.parametrize("encoding", ["s16le", "s24le", "s32le"])
def test_flac_holds_every_sample(stored, encoding):
    values = np.random.default_rng(1).integers(-(2**31), 2**31, 40_000, dtype="<i4")
    raw = subprocess.run(
        [FFMPEG, "-loglevel", "error", "-f", "s32le", "-ar", "16000", "-i", "pipe:0", "-f", encoding, "pipe:1"],
        input=values.tobytes(), stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    session = stored(format="wav", encoding=encoding)
    session.add(cut(raw, 3000))
    session.made()
    assert decoded(made(session.session, "flac"), encoding) == raw


def test_a_deep_flac_stays_deep(stored, tmp_path):
    data = encoded(speech(1), RATE, tmp_path / "deep.flac", "-af", "volume=0.3", "-sample_fmt", "s32")
    session = stored(format="flac")
    session.add(cut(data, 3000))
    session.made()
    assert decoded(made(session.session, "wav"), "s24le") == decoded(tmp_path / "deep.flac", "s24le")


def test_the_samples_of_files_are_encoded_once(stored, tmp_path):
    """A session of MP3 files keeps its decoded samples: another format is made of those, not of the new MP3."""
    session = stored(format="mp3", chunk_mode="files")
    session.add([encoded(speech(1, seed=seed), RATE, tmp_path / f"{seed}.mp3") for seed in (1, 2)])
    recording = session.made()
    master = paths.root() / recording.master_name
    assert master.suffix == ".wav"
    assert decoded(made(session.session, "flac")) == decoded(master)


@pytest.mark.parametrize("own", ["mp3", "aac", "ogg", "webm", "mp4"])
def test_a_compressed_recording_is_decoded_as_it_is(stored, own, tmp_path):
    codec = ("-c:a", "aac") if own in ("aac", "mp4") else ("-c:a", "libopus") if own in ("ogg", "webm") else ()
    session = stored(format=own)
    session.add(cut(encoded(speech(2), RATE, tmp_path / f"speech.{own}", *codec), 3000))
    recording = session.made()
    assert recording.state == "ready"
    options = ("-f", "aac") if own == "aac" else ()
    assert decoded(made(session.session, "flac")) == decoded(session.path, "s16le", *options)
    task = rows.enqueue(session.session, TaskKind.WAVEFORM)
    run.run(task.pk)
    assert row(task).state == TaskState.COMPLETED
    assert row(task).seconds_done == pytest.approx(recording.duration_seconds, abs=0.1)


def test_asked_twice_made_once(recorded):
    first = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    assert rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3").pk == first.pk
    with pytest.raises(TaskRunningError):
        transcode.servable(recorded, "mp3")
    run.run(first.pk)
    before = transcode.servable(recorded, "mp3").path.stat()
    run.run(first.pk)
    assert rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3", again=True).pk == first.pk
    assert transcode.servable(recorded, "mp3").path.stat() == before
    assert derived_files(recorded) == [f"{first.pk}.mp3"]


def test_a_second_run_at_the_same_time_does_nothing(recorded):
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    with file_lock(paths.folder(recorded.pk) / paths.DERIVED_FOLDER / str(task.pk) / LOCK_NAME) as is_ours:
        assert is_ours
        run.run(task.pk)
    assert row(task).state == TaskState.PENDING


def test_a_run_that_died_is_begun_anew_by_the_sweep(recorded):
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    long_ago = timezone.now() - timedelta(hours=1)
    BackgroundTask.objects.filter(pk=task.pk).update(state=TaskState.RUNNING, updated_at=long_ago)
    work = paths.folder(recorded.pk) / paths.DERIVED_FOLDER / str(task.pk)
    work.mkdir(parents=True)
    (work / "half.mp3").write_bytes(b"half")
    assert upkeep.sweep().requested_tasks == 1
    assert upkeep.sweep().requested_tasks == 0
    run.run(task.pk)
    assert row(task).state == TaskState.COMPLETED
    assert derived_files(recorded) == [f"{task.pk}.mp3"]


def test_a_revoked_task_is_not_done_and_made_anew_when_asked_again(recorded):
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    for _ in range(2):
        rows.revoke(str(task.pk))
    run.run(task.pk)
    assert row(task).state == TaskState.REVOKED
    assert derived_files(recorded) == []
    again = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    assert again.pk != task.pk
    run.run(again.pk)
    with pytest.raises(TaskEndedError):
        rows.revoke(str(again.pk))


def test_what_can_not_be_made_says_why_and_is_tried_again_on_request(recorded):
    recording = recorded.recording
    recording.refresh_from_db()
    path = paths.root() / recording.file_name
    whole = path.read_bytes()
    path.write_bytes(b"RIFF" + bytes(1000))
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "flac")
    run.run(task.pk)
    with pytest.raises(TaskFailedError) as raised:
        transcode.servable(recorded, "flac")
    assert raised.value.details["reason"] == "ffmpeg_failed"
    assert derived_files(recorded) == []
    path.write_bytes(whole)
    again = rows.enqueue(recorded, TaskKind.TRANSCODE, "flac", again=True)
    run.run(again.pk)
    assert (row(task).state, row(again).state) == (TaskState.FAILED, TaskState.COMPLETED)


def test_a_rebuilt_recording_drops_what_was_made_of_the_old_one(recorded):
    done = made(recorded, "mp3")
    waiting = rows.enqueue(recorded, TaskKind.WAVEFORM)
    rebuild(recorded.pk)
    assert done.exists()
    concatenate.concatenate(recorded.pk)
    assert not done.exists()
    assert row(waiting).state == TaskState.REVOKED
    with pytest.raises(TaskRunningError):
        transcode.servable(recorded, "mp3")
    assert decoded(made(recorded, "flac")) == speech(2).tobytes()


def test_a_deleted_session_leaves_no_row_and_no_file(recorded):
    made(recorded, "mp3")
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "flac")
    upkeep.delete_session(recorded.pk)
    run.run(task.pk)
    assert not BackgroundTask.objects.filter(session=recorded.pk).exists()
    assert not paths.folder(recorded.pk).exists()


def test_an_open_session_has_its_own_format_alone(stored):
    session = stored(format="wav")
    with pytest.raises(RecordingEmptyError):
        rows.enqueue(session.session, TaskKind.TRANSCODE, "mp3")
    session.add([speech(1).tobytes()])
    concatenate.concatenate(session.session.pk)
    with pytest.raises(RecordingNotReadyError):
        rows.enqueue(session.session, TaskKind.TRANSCODE, "mp3")
    assert not BackgroundTask.objects.exists()


def test_a_concatenation_can_be_asked_for_each_time(stored):
    session = stored(format="wav")
    for payload in cut(speech(2).tobytes(), 32000):
        session.add([payload])
        task = rows.enqueue(session.session, TaskKind.CONCATENATE)
        run.run(task.pk)
        assert row(task).state == TaskState.COMPLETED
        assert session.recording.chunks_done == session.session.total_chunks
    assert BackgroundTask.objects.count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("task_id", ["123e4567-e89b-42d3-a456-426614174000", "none", "x" * 1000])
def test_an_unknown_task(task_id):
    with pytest.raises(TaskNotFoundError):
        rows.find(task_id)
    with pytest.raises(TaskNotFoundError):
        rows.revoke(task_id)


def test_a_recording_whose_file_is_gone_fails_for_now(recorded):
    recorded.recording.refresh_from_db()
    shutil.rmtree(paths.folder(recorded.pk))
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    run.run(task.pk)
    assert row(task).state == TaskState.FAILED


def test_a_run_that_is_revoked_is_stopped_and_not_finished(recorded, monkeypatch):
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    finished, source = [], transcode.source

    def revoked_meanwhile(*arguments):
        rows.revoke(str(task.pk))
        return source(*arguments)

    monkeypatch.setattr(rows, "_PROGRESS_SECONDS", 0)
    monkeypatch.setattr(transcode, "source", revoked_meanwhile)
    monkeypatch.setattr(rows, "keep", lambda *_: finished.append(True))
    run.run(task.pk)
    assert (finished, row(task).state, derived_files(recorded)) == ([], TaskState.REVOKED, [])
