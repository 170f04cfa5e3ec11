"""The sweep in production: a real `celery beat` asks for it, a real worker does it."""

import contextlib
import json
import os
import subprocess
import sys
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
session = AudioSession(sample_rate=16000, channels=1, format="wav", status="completed")
session.save(); Recording(session=session).save()
Recording.objects.update(updated_at=timezone.now() - timedelta(days=2))
"""
IS_VOID = "from audio.models import Recording; print(Recording.objects.get().is_without_audio)"


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


def test_beat_asks_for_sweeps_and_a_worker_does_them(environment):
    manage(environment, "shell", "-v", "0", "-c", AN_OLD_SESSION)
    with celery(environment, *BEAT):
        eventually(lambda: len(requests()) >= 3)
        waiting = requests()
        assert {each["task"] for each in waiting} == {"sercuescribe.sweep"}
        # Celery would compare the clocks of two hosts.
        assert {each["expires"] for each in waiting} == {None}
    # Beat has ended: on a busy machine it may ask for sweeps faster than the worker does them.
    with celery(environment, *WORKER):
        eventually(lambda: manage(environment, "shell", "-v", "0", "-c", IS_VOID) == "True")
        eventually(lambda: requests() == [])
    assert list(Path(environment["DATA_DIR"]).glob("beat-schedule*"))
