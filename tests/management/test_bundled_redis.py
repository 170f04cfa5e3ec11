"""The Redis of `manage.py serve`: unfinished work is queued again, also after Redis was away or rejected."""

import os
import socket
from typing import Any

import pytest
import redis
from celery import Celery

from audio.management import bundled_redis
from audio.management.supervisor import NotYetError

pytestmark = pytest.mark.services


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
    with pytest.raises(NotYetError):
        bundled_redis.restore_unacknowledged(app)
    app.close()


def test_a_redis_that_rejects_to_write_is_waited_for(broker_url):
    app = Celery("test", broker=broker_url, set_as_current=False)
    app.send_task("work")
    take_and_die(app)
    with redis.Redis.from_url(broker_url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(NotYetError):
                bundled_redis.restore_unacknowledged(app)
        finally:
            client.config_set("maxmemory", 0)
        bundled_redis.restore_unacknowledged(app)
        assert client.llen("celery") == 1
    app.close()


def test_a_redis_without_tls_behind_rediss():
    """Like this listener, a Redis without TLS does not answer a TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "use redis:// instead of rediss://" in bundled_redis.fault(f"rediss://127.0.0.1:{port}")
    assert "TLS" not in bundled_redis.fault(f"rediss://127.0.0.1:{port}")
