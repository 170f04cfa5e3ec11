"""The connections of the cache: a request or a WebSocket opens none of its own."""

import contextvars
import os

import pytest
import redis
from django.core.cache import cache

pytestmark = pytest.mark.services


def test_contexts_share_the_connections_of_the_process() -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        contextvars.Context().run(cache.add, "shared", 1, 1)
        before = client.info("stats")["total_connections_received"]
        for _ in range(20):
            contextvars.Context().run(cache.incr, "shared")
        assert client.info("stats")["total_connections_received"] - before < 5
        assert contextvars.Context().run(cache.get, "shared") == 21
