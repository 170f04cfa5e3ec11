"""The migrations say what the models say."""

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from audio.media.samples import PcmFormat
from audio.models import DEFAULT_PROJECT_ID, AudioSession, BackgroundTask
from audio.storage import downloads


@pytest.mark.database
@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", check=True, dry_run=True)


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_sessions_of_the_version_before_keep_their_parameters():
    executor = MigrationExecutor(connection)
    latest = executor.loader.graph.leaf_nodes("audio")
    executor.migrate([("audio", "0001_initial")])
    try:
        models = executor.loader.project_state([("audio", "0001_initial")]).apps
        old = models.get_model("audio", "AudioSession").objects.create(sample_rate=16000, channels=2, format="webm")
        models.get_model("audio", "Recording").objects.create(session=old, state="live", master_encoding="s16le")
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(latest)
    session = AudioSession.objects.select_related("recording", "project").get(pk=old.pk)
    assert session.project.name == "default"
    assert (session.sample_rate, session.channels, session.format, session.undecided) == (16000, 2, "webm", [])
    assert session.recording.warnings == []
    assert downloads.master_format(session, session.recording) == PcmFormat("s16le", 16000, 2)
    session.delete()


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_tasks_of_the_version_before_get_the_project_of_their_session():
    executor = MigrationExecutor(connection)
    latest = executor.loader.graph.leaf_nodes("audio")
    executor.migrate([("audio", "0015_requests_of_people")])
    try:
        models = executor.loader.project_state([("audio", "0015_requests_of_people")]).apps
        phone = models.get_model("audio", "Project").objects.create(name="phone")
        sessions, tasks = (models.get_model("audio", name).objects for name in ("AudioSession", "BackgroundTask"))
        parameters = {"sample_rate": 16000, "channels": 1, "format": "wav"}
        made = {
            project: tasks.create(session=sessions.create(**parameters, project_id=project), kind="waveform").pk
            for project in (DEFAULT_PROJECT_ID, phone.pk)
        }
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(latest)
    found = {task.project_id: task.pk for task in BackgroundTask.objects.all()}
    assert found == made
    AudioSession.objects.all().delete()
