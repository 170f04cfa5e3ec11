"""The run's own PostgreSQL and Redis: real, separate for each worker, and reported when they can't start."""

import os
import subprocess
import sys

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection


def test_redis_answers():
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        assert client.ping()


def test_postgres_url_is_an_empty_database_of_its_own(postgres_url):
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def test_settings_use_the_folder_of_the_run():
    assert str(settings.DATA_DIR).startswith(os.environ["SERCUESCRIBE_TEST_FOLDER"])
    assert settings.AUDIO_STORAGE_PATH.is_relative_to(settings.DATA_DIR)


def test_a_server_that_can_not_start_ends_the_run_with_the_reason():
    environment = os.environ | {"SERCUESCRIBE_TEST_DATABASE": "oracle"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert "SERCUESCRIBE_TEST_DATABASE must be sqlite, postgresql or none, not 'oracle'." in run.stderr


@pytest.mark.database
@pytest.mark.django_db
def test_django_runs_on_the_database_that_was_asked_for():
    assert connection.vendor == os.environ.get("SERCUESCRIBE_TEST_DATABASE", "sqlite")
