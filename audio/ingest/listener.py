"""The listener of a process: it receives the events of `audio.events` and passes them to the connections concerned.

The channel layer may lose events. The heartbeat (`audio.ingest.heartbeat`) finds the same facts in the database.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

import structlog
from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from audio import events, metrics
from audio.errors import NotAuthenticatedError
from audio.ingest.connections import Connections
from audio.ingest.types import LiveConnection

logger = structlog.stdlib.get_logger(__name__)

# The channel layer removes a member of a group after a day.
_REJOIN_SECONDS = 3600.0
_RETRY_SECONDS = 1.0
# Longer than the opening of a connection takes. The heartbeat finds what takes longer still.
_REMEMBERED_SECONDS = 120.0


class Listener:
    """The only reader of the channel layer in this process. One per connection would cost many times as much."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        # The keys and tokens that were revoked a short time ago, and when, on the steady clock.
        self._revoked: dict[str, float] = {}

    def admit(self, connection: LiveConnection) -> None:
        """End a new connection whose key or token was revoked while it was being opened.

        Its identity was found before that, and it did not get the event, because it was not registered yet.
        """
        if str(connection.identity.key) in self._revoked:
            connection.end_with(_revoked())

    async def keep_listening(self) -> None:
        """Receive events until cancelled, and again once Redis is back."""
        layer = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                while True:
                    await layer.group_add(events.GROUP, channel)
                    metrics.without_redis.set(0)
                    await self._listen_for(layer, channel, _REJOIN_SECONDS)
            except (RedisError, OSError) as error:
                metrics.without_redis.set(1)
                logger.warning("channel_layer_away", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _listen_for(self, layer: Any, channel: str, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._tell(await layer.receive(channel))

    def _tell(self, event: dict[str, Any]) -> None:
        if event["type"] == events.REVOKED:
            self._remember(event["keys"])
        for connection in self._connections:
            self._tell_one(connection, event)

    def _remember(self, keys: Iterable[str]) -> None:
        now = time.monotonic()
        recent = {key: at for key, at in self._revoked.items() if at > now - _REMEMBERED_SECONDS}
        self._revoked = recent | dict.fromkeys(keys, now)

    @staticmethod
    def _tell_one(connection: LiveConnection, event: dict[str, Any]) -> None:
        producer = connection.producer
        match event:
            case {"type": events.CLOSED, "session_id": session_id} if str(producer.session_id) == session_id:
                connection.session_closed()
            case {"type": events.WARNED, "session_id": session_id} if str(producer.session_id) == session_id:
                connection.warned(event["warning"])
            case {"type": events.REVOKED, "keys": keys} if str(connection.identity.key) in keys:
                connection.end_with(_revoked())
            case {"type": events.SUPERSEDED, "source_id": source_id, "epoch": epoch} if (
                producer.source_id == source_id and producer.epoch is not None and producer.epoch < epoch
            ):
                connection.superseded()


def _revoked() -> NotAuthenticatedError:
    return NotAuthenticatedError("The API key or token was revoked.")
