"""Events that processes send each other over the channel layer.

They say that a session was closed, a source was taken over, a part of a recording could not be decoded, or an API key
was revoked. They are hints: the database already has the change, and the event only tells other processes at once. The
layer may lose events, so each process also reads the database with every heartbeat (`audio.ingest.heartbeat`).
"""

import asyncio
import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import redis
import structlog
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from redis.exceptions import RedisError

logger = structlog.stdlib.get_logger(__name__)

GROUP = "ingest"
CLOSED = "session.closed"
SUPERSEDED = "source.superseded"
WARNED = "recording.warned"
REVOKED = "access.revoked"
_SEND_SECONDS = 3.0
# The events of the block `together` that runs.
_collected: ContextVar[list[dict[str, Any]] | None] = ContextVar("collected", default=None)


def session_closed(session_id: uuid.UUID) -> None:
    """Tell every process that a session is closed, after the surrounding transaction is committed."""
    transaction.on_commit(lambda: _send({"type": CLOSED, "session_id": str(session_id)}))


async def source_superseded(source_id: int, epoch: int) -> None:
    """Tell every process that connections of this source before `epoch` have ended. It is called after the commit."""
    await _send_or_warn({"type": SUPERSEDED, "source_id": source_id, "epoch": epoch})


def recording_warned(session_id: uuid.UUID, warning: dict[str, Any]) -> None:
    """Tell every process about a new entry of a session's `recording.warnings`, after the commit.

    Args:
        session_id: The session's id.
        warning: The entry as the API shows it, with `code` and `detail`.
    """
    transaction.on_commit(lambda: _send({"type": WARNED, "session_id": str(session_id), "warning": warning}))


def access_revoked(keys: Iterable[uuid.UUID]) -> None:
    """Tell every process that API keys or tokens are no longer valid, after the commit."""
    named = [str(key) for key in keys]
    transaction.on_commit(lambda: _send({"type": REVOKED, "keys": named}))


def try_redis(seconds: float) -> None:
    """Write something to Redis, which may answer and still reject writes.

    Args:
        seconds: How long it may take to connect, and to answer.

    Raises:
        RedisError: Redis is away, or rejects writes.
    """
    url = settings.CACHES["default"]["LOCATION"]
    with redis.Redis.from_url(url, socket_connect_timeout=seconds, socket_timeout=seconds) as client:
        client.set("sercuescribe:health", "", ex=1)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Send the events of a block at its end, over one connection. To open one for each event costs more than it."""
    collected: list[dict[str, Any]] = []
    before = _collected.set(collected)
    try:
        yield
    finally:
        _collected.reset(before)
    if collected:
        async_to_sync(_send_all)(collected)


async def _send_all(collected: Sequence[dict[str, Any]]) -> None:
    for event in collected:
        if not await _send_or_warn(event):
            return


def _send(event: dict[str, Any]) -> None:
    collected = _collected.get()
    if collected is None:
        async_to_sync(_send_or_warn)(event)
    else:
        collected.append(event)


async def _send_or_warn(event: dict[str, Any]) -> bool:
    """Send the event, and return whether that succeeded.

    A Redis that is away or hangs must not keep whoever opens or closes a session.
    """
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await get_channel_layer().group_send(GROUP, event)
    except (RedisError, OSError) as error:
        logger.warning("channel_layer_away", unsent=event["type"], error=str(error))
        return False
    return True
