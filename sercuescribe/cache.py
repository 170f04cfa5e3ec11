"""The connections of Django's cache to Redis.

Django makes a cache object for each thread and each context of asgiref, so for each request and each WebSocket. By
default each of them makes a pool of connections, and so opens a connection to Redis for a single command.
"""

import functools
from typing import Any

from redis import ConnectionPool


@functools.lru_cache
def _pool(url: str, **options: Any) -> ConnectionPool:
    return ConnectionPool.from_url(url, **options)


class SharedPools:
    """The `pool_class` of the cache: one pool for each address, which all threads of the process share."""

    from_url = staticmethod(_pool)
