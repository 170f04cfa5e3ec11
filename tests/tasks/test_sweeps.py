"""The sweep in production: a real `celery beat` asks for it, a real worker does it."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from tests.server import DEADLINE_SECONDS, eventually, migrated
from tests.services import REPOSITORY

REDIS_URL = os.environ["TEST_REDIS_URL"] + "/13"
BEAT = ("beat",)
WORKER = ("worker", "--queues", "sweeps", "--concurrency", "1", "--without-gossip", "--without-mingle")
AN_OLD_SESSION = """
from datetime import timedelta; from django.utils import timezone; from audio.models import AudioSession, Recording
session = AudioSession(sample_rate=16000, channels=1, format="wav", start_time=timezone.now() - timedelta(days=2))
session.save(); Recording(session=session).save()
"""
ITS_STATUS = "from audio.models import AudioSession; print(AudioSession.objects.get().status)"


@pytest.fixture
def environment(tmp_path):
    settings = migrated(tmp_path / "data", REDIS_URL=REDIS_URL, SWEEP_INTERVAL_SECONDS="0.1")
    with redis.Redis.from_url(REDIS_URL) as client:
        client.delete("sweeps")
    return settings


def manage(environment, *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=-1, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def celery(environment, *arguments: str):
    command = [sys.executable, "-m", "celery", "-A", "sercuescribe", "--quiet", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def requests() -> list[dict]:
    with redis.Redis.from_url(REDIS_URL) as client:
        return [json.loads(message)["headers"] for message in client.lrange("sweeps", 0, -1)]


def test_beat_asks_for_sweeps_that_expire_and_a_worker_does_them(environment):
    manage(environment, "shell", "-v", "0", "-c", AN_OLD_SESSION)
    with celery(environment, *BEAT):
        eventually(lambda: len(requests()) >= 3)
        waiting = requests()
        assert {each["task"] for each in waiting} == {"sercuescribe.sweep"}
        for each in waiting:
            left = datetime.fromisoformat(each["expires"]) - datetime.now(UTC)
            assert 0 < left.total_seconds() <= 30
        with celery(environment, *WORKER):
            eventually(lambda: manage(environment, "shell", "-v", "0", "-c", ITS_STATUS) == "completed")
            eventually(lambda: requests() == [])
    assert list(Path(environment["DATA_DIR"]).glob("beat-schedule*"))
