"""The Redis of `manage.py serve`: unfinished work is queued again, and damaged files don't stop it."""

import os
from typing import Any

import pytest
import redis
from celery import Celery

from audio.management import bundled_redis
from audio.management.supervisor import NotYet


@pytest.fixture
def broker_url():
    url = os.environ["REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    yield url
    with redis.Redis.from_url(url) as client:
        client.flushdb()


def take_and_die(app: Celery) -> None:
    """Takes a message as a worker does, and goes without acknowledging or giving it back."""
    with app.connection_for_read() as connection:
        channel: Any = connection.channel()
        assert channel.basic_get("celery") is not None
        channel.qos._delivered.clear()


def test_what_a_killed_worker_had_taken_is_queued_again(broker_url):
    app = Celery("test", broker=broker_url, set_as_current=False)
    for number in range(20):
        app.send_task("work", args=[number])
    for _ in range(20):
        take_and_die(app)
    with redis.Redis.from_url(broker_url) as client:
        assert client.llen("celery") == 0
        client.set("unacked_mutex", "held by the dead")
        bundled_redis.restore_unacknowledged(app)
        assert client.llen("celery") == 20
        bundled_redis.restore_unacknowledged(app)
        assert client.llen("celery") == 20
    app.close()


def test_a_redis_that_is_away_is_waited_for(tmp_path):
    app = Celery("test", broker=f"redis+socket://{tmp_path / 'nobody'}", set_as_current=False)
    with pytest.raises(NotYet):
        bundled_redis.restore_unacknowledged(app)
    app.close()


def test_files_that_can_not_be_read_are_kept_aside(tmp_path):
    (tmp_path / "appendonly.aof").write_text("damaged")
    (tmp_path / "redis.sock").touch()
    bundled_redis.set_aside(tmp_path)
    assert not (tmp_path / "appendonly.aof").exists()
    assert [path.read_text() for path in tmp_path.glob("unreadable-*/appendonly.aof")] == ["damaged"]
    assert (tmp_path / "redis.sock").exists()
    bundled_redis.set_aside(tmp_path)
    assert len(list(tmp_path.glob("unreadable-*"))) == 1
