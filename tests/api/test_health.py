"""Health and readiness, with real things that are really down."""

import re

import pytest
import redis
from django.db import connection, connections

from audio import health

pytestmark = pytest.mark.django_db


def test_healthy(client):
    for path in ("/health", "/health/"):
        answer = client.get(path)
        assert answer.status_code == 200
        told = answer.json()
        assert (told["status"], told["service"]) == ("healthy", "SercueScribe")
        assert set(told["versions"]) == {"python", "django", "ffmpeg", "database"}
        assert all(re.search(r"\d\.\d", version) for version in (told["version"], *told["versions"].values()))


def test_health_needs_no_database(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        client.get("/health")


@pytest.mark.database
def test_ready(client):
    answer = client.get("/health/ready")
    assert answer.status_code == 200, answer.json()
    assert answer.json() == {
        "status": "ready",
        "service": "SercueScribe",
        "late": [],
        "checks": {"database": "ok", "redis": "ok", "storage": "ok", "ffmpeg": "ok"},
    }


def test_redis_is_away(client, settings):
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["late"] == ["redis"]
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["redis"] == "Redis does not answer."
    assert answer.json()["checks"]["database"] == "ok"


def test_redis_rejects_to_write(client, settings):
    url = settings.CACHES["default"]["LOCATION"]
    with redis.Redis.from_url(url) as broker:
        broker.config_set("maxmemory", 1)
        try:
            answer = client.get("/health/ready")
        finally:
            broker.config_set("maxmemory", 0)
    assert answer.status_code == 200
    assert answer.json()["late"] == ["redis"]
    assert answer.json()["checks"]["redis"].startswith("Redis rejects writes: ")


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_the_database_is_read_only(client):
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        answer = client.get("/health/ready")
    finally:
        connection.close()
    assert answer.status_code == 503
    assert answer.json()["down"] == ["database"]
    assert answer.json()["checks"]["database"] == "The database is read-only."


def test_the_storage_is_no_folder(client, settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "file" / "audio"
    (tmp_path / "file").touch()
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "The server cannot record. Down: storage."
    assert answer.json()["down"] == ["storage"]
    assert answer.json()["code"] == "not_ready"
    assert answer.json()["status"] == "unavailable"
    assert str(tmp_path) not in answer.content.decode()


def test_nothing_is_left_in_the_storage(client, settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    client.get("/health/ready")
    assert list(settings.AUDIO_STORAGE_PATH.iterdir()) == []


def test_the_database_is_away(client, monkeypatch):
    """The connection of the test itself can't be taken away, so that another one, to nowhere, takes its place."""
    broken = connections["default"].copy()
    broken.settings_dict = {**broken.settings_dict, "NAME": "/nowhere/at/all.sqlite3", "HOST": "127.0.0.1", "PORT": "1"}
    monkeypatch.setattr(health, "connection", broken)
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["down"] == ["database"]


def test_ffmpeg_is_missing(client, settings, tmp_path):
    settings.FFMPEG_BINARY = str(tmp_path / "ffmpeg")
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["late"] == ["ffmpeg"]
    assert str(tmp_path) not in answer.content.decode()
    assert client.get("/health").json()["versions"]["ffmpeg"] == "unknown"


def test_ffmpeg_does_not_run(client, settings, tmp_path):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    settings.FFMPEG_BINARY = str(program)
    answer = client.get("/health/ready")
    assert answer.json()["late"] == ["ffmpeg"]
    assert "can't be run" in answer.json()["checks"]["ffmpeg"]
