"""An ingest on the test's event loop, seen from its connections and from the database."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from django.conf import settings

from audio import events
from audio.access import ANYONE
from audio.errors import AudioError
from audio.ingest import sessions
from audio.ingest.process import Ingest
from audio.ingest.types import Outcome, Producer
from audio.models import IngestProcess
from tests.server import DEADLINE_SECONDS, POLL_SECONDS

GROUP_KEY = f"sercuescribe:group:{events.GROUP}"


@dataclass
class Client:
    """A connection as the ingest sees it, which notes what it is told."""

    ingest: Ingest
    opened: sessions.Opened
    told: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    sent: int = 0
    removed: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.connection_id: int = self.opened.connection_id
        self.producer: Producer = self.opened.producer
        self.identity = ANYONE

    def send(self, payload: bytes) -> None:
        self.sent += 1
        self.ingest.submit(self, payload)

    def deliver(self, size_bytes: int, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def wake(self) -> None:
        """Leaves once it was sent away and has all its answers, as a real connection does."""
        if "away" in self.told and len(self.outcomes) == self.sent and self.removed is None:
            self.removed = asyncio.create_task(self.ingest.remove(self))

    def session_closed(self) -> None:
        self.told.append("closed")

    def superseded(self) -> None:
        self.told.append("superseded")

    def session_deleted(self) -> None:
        self.told.append("deleted")

    def end_with(self, error: AudioError) -> None:
        self.told.append(error.code)

    def warned(self, warning: dict[str, Any]) -> None:
        self.told.append(warning["code"])

    def go_away(self) -> None:
        self.told.append("away")
        self.wake()


async def until(condition: Callable[[], Any]) -> None:
    """Lets the event loop go on until the condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(POLL_SECONDS)


def listeners() -> int:
    """How many channels the layer sends the events to."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        return client.zcard(GROUP_KEY)


async def deafen() -> None:
    """Makes the channel layer lose every event from now on."""
    await until(listeners)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(GROUP_KEY)


def beats(ingest: Ingest) -> Any:
    return IngestProcess.objects.filter(pk=ingest.process_id).values_list("heartbeat_at", flat=True).first()


async def after_heartbeats(ingest: Ingest, count: int = 3) -> None:
    """Returns after some more heartbeats: what they had to say was said."""
    for _ in range(count):
        last = await ingest.run(beats, ingest)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await ingest.run(beats, ingest) == last:  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(POLL_SECONDS)
