"""The system checks find what they are for, and nothing on a sound installation."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from django.core.checks import run_checks
from django.db import connection

from audio import checks
from tests.services import REPOSITORY


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


def test_a_storage_folder_that_can_be_made_is_not_made_yet(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "new" / "audio"
    assert checks.check_storage() == []
    assert list(tmp_path.iterdir()) == []


def test_production_behind_a_proxy_has_no_complaint(settings):
    """What `manage.py check --deploy` says beyond the rest."""
    settings.SECRET_KEY = "".join(map(chr, range(33, 97)))
    assert [message for message in run_checks(include_deployment_checks=True) if not message.is_silenced()] == []


# The folders that are looked at are those of Python's `tempfile`; a folder of the caller's own is the last of them.
READ_ONLY = (
    'for folder in /tmp /var/tmp /usr/tmp "$PWD"; do'
    ' if [ -d $folder ]; then mount --bind $folder $folder && mount -o remount,bind,ro $folder; fi; done; exec "$@"'
)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_system_that_is_read_only_needs_a_temporary_folder(command):
    """The data folder can be written, and has too long a name for the bundled Redis's socket in the case of `serve`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as writable:
        folder = Path(writable) / ("deep" * 25 if command == "serve" else "data")
        environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "DATA_DIR": str(folder), "PORT": "0"}
        if command == "check":
            environment["REDIS_URL"] = os.environ["TEST_REDIS_URL"]
        apart = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        run = [*apart, "sh", "-c", READ_ONLY, "sh", sys.executable, "manage.py", command]
        done = subprocess.run(run, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "There is no writable temporary folder" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    ("asks", "is_local_only", "expected"),
    [(False, False, ["sercuescribe.W004"]), (True, False, []), (False, True, [])],
)
def test_a_server_for_others_that_asks_nobody(settings, asks, is_local_only, expected):
    settings.REQUIRE_AUTH = asks
    settings.IS_LOCAL_ONLY = is_local_only
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
