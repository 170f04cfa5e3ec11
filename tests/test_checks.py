"""The system checks find what they are for, and nothing on a sound installation."""

import pytest
from django.core.checks import run_checks
from django.db import connection

from audio import checks


def ids() -> list[str]:
    return [str(message.id) for message in run_checks() if str(message.id).startswith("sercuescribe.")]


def test_a_sound_installation_has_no_complaint():
    assert ids() == []


def test_ffmpeg_that_is_not_there(settings):
    settings.FFMPEG_BINARY = "/nowhere/ffmpeg"
    (message,) = checks.check_ffmpeg()
    assert message.id == "sercuescribe.E001"
    assert "/nowhere/ffmpeg" in message.msg
    assert "FFMPEG_BINARY" in str(message.hint)


def test_a_storage_folder_that_can_not_be_written(settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.AUDIO_STORAGE_PATH = tmp_path / "file" / "audio"
    assert ids() == ["sercuescribe.E002"]


def test_a_storage_folder_is_made_and_left_empty(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "new" / "audio"
    assert checks.check_storage() == []
    assert list(settings.AUDIO_STORAGE_PATH.iterdir()) == []


def test_a_short_secret_key(settings):
    settings.SECRET_KEY = "x" * 31
    assert ids() == ["sercuescribe.E004"]


@pytest.mark.parametrize(("debug", "expected"), [(False, ["sercuescribe.E005"] * 3), (True, [])])
def test_secrets_of_the_example_are_none(settings, debug, expected):
    settings.DEBUG = debug
    settings.SECRET_KEY = "change-me-" * 5
    settings.REDIS_URL = "redis://:change-me@redis/0"
    settings.FLOWER_BASIC_AUTH = "operator:change-me"
    assert ids() == expected


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", ["sercuescribe.W001"]), ("127.0.0.1", [])])
def test_debug_where_others_can_connect(settings, host, expected):
    settings.DEBUG = True
    settings.HOST = host
    assert ids() == expected


@pytest.mark.django_db
def test_an_old_sqlite(monkeypatch):
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    expected = ["sercuescribe.E003"] if connection.vendor == "sqlite" else []
    assert [message.id for message in checks.check_sqlite(databases=["default"])] == expected


@pytest.mark.database
@pytest.mark.django_db
def test_a_postgresql_that_does_not_wait_for_the_disk():
    # The PostgreSQL of the tests is one: see tests/services.py.
    if connection.vendor == "sqlite":
        assert checks.check_postgresql_durability(databases=["default"]) == []
        return
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
    messages = checks.check_postgresql_durability(databases=["default"])
    assert {message.id for message in messages} == {"sercuescribe.W002"}
    assert [message.msg.split()[3] for message in messages] == ["fsync", "synchronous_commit"]


def test_a_bucket_that_takes_recordings(bucket):
    assert checks.check_recordings_storage() == []


def test_a_bucket_that_is_not_there_is_no_reason_not_to_start(bucket, settings):
    options = {**bucket.storage["OPTIONS"], "bucket_name": "another"}
    settings.STORAGES = {**settings.STORAGES, "recordings": {**bucket.storage, "OPTIONS": options}}
    (message,) = checks.check_recordings_storage()
    assert message.id == "sercuescribe.W003"
    assert "NoSuchBucket" in message.msg
    assert not message.is_serious()
