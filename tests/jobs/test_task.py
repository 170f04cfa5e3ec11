"""The tasks by their names, as the broker calls them: thin, repeatable, asked for by dispatch."""

import os
import signal
import uuid
import wave
from typing import Any

import psutil
import pytest
from billiard.pool import soft_timeout_sighandler
from celery import current_app
from django.db import IntegrityError, OperationalError

from audio import dispatch, upkeep
from audio.errors import AudioError
from audio.jobs import rows, transcode
from audio.media.ffmpeg import LONG_LIMITS
from audio.models import BackgroundTask, TaskKind
from audio.storage import paths
from tests.sound import cut, speech


def call(session_id: uuid.UUID) -> None:
    current_app.loader.import_default_modules()
    current_app.tasks[dispatch.CONCATENATE].apply(args=(str(session_id),), throw=True)


def test_the_task_makes_the_recording_and_may_be_repeated(stored):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    call(session.session.pk)
    session.close()
    for _ in range(2):
        call(session.session.pk)
    assert session.recording.state == "ready"
    with wave.open(str(session.path)) as file:
        assert file.readframes(file.getnframes()) == samples


def test_an_unknown_session_is_done_at_once(stored):
    call(uuid.uuid4())


@pytest.fixture
def recorded(stored):
    session = stored(format="wav")
    session.add(cut(speech(2).tobytes(), 3200))
    session.made()
    return session.session


def derive_by_name(task: BackgroundTask):
    current_app.loader.import_default_modules()
    name = dispatch.BACKGROUND[task.kind]
    return current_app.tasks[name].apply(args=(str(task.session_id), task.format), task_id=str(task.pk))


def test_the_result_of_a_task_that_was_asked_for_says_what_became_of_it(recorded):
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    first, second = derive_by_name(task).result, derive_by_name(task).result
    assert first == second
    size_bytes = transcode.servable(recorded, "mp3").path.stat().st_size
    assert first == {"status": "completed", "seconds_done": pytest.approx(2, abs=0.1), "size_bytes": size_bytes}
    upkeep.delete_session(recorded.pk)
    assert derive_by_name(task).result == {"status": "deleted"}


def test_a_task_over_its_soft_time_limit_fails_and_its_ffmpeg_ends(recorded, settings, tmp_path):
    """As in a worker: the pool's signal handler raises the exception, wherever the task is at that moment."""
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -USR1 {os.getpid()}\nexec sleep 3600\n")
    program.chmod(0o700)
    settings.FFMPEG_BINARY = str(program)
    task = rows.enqueue(recorded, TaskKind.TRANSCODE, "mp3")
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    try:
        result = derive_by_name(task).result
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (result["status"], result["code"]) == ("failed", "media_limit_exceeded")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not (paths.folder(recorded.pk) / paths.DERIVED_FOLDER / str(task.pk)).exists()


def kinds(base: type[AudioError]) -> list[type[AudioError]]:
    return [base, *(kind for below in base.__subclasses__() for kind in kinds(below))]


@pytest.mark.parametrize("name", [dispatch.CONCATENATE, *dispatch.BACKGROUND.values()])
def test_what_may_pass_by_itself_is_tried_again_and_nothing_else(name):
    current_app.loader.import_default_modules()
    task: Any = current_app.tasks[name]
    tried_again = task.autoretry_for
    for kind in kinds(AudioError):
        assert issubclass(kind, tried_again) == kind.retryable, kind
    assert issubclass(OperationalError, tried_again)
    assert not issubclass(IntegrityError, tried_again)


def test_every_task_has_time_to_say_that_it_was_too_much(settings):
    assert LONG_LIMITS.wall_seconds < settings.CELERY_TASK_SOFT_TIME_LIMIT < settings.CELERY_TASK_TIME_LIMIT
    # Else what somebody works on would be handed out a second time.
    assert settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] > settings.CELERY_TASK_TIME_LIMIT
