"""Our consumer with an ingest that stores nothing: what the loop itself costs beside the bare application."""

import os
import uuid
from collections.abc import Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
django.setup()

from audio import consumers, ingest  # noqa: E402 - models load only after Django is set up
from audio.ingest.types import Accepted, Producer  # noqa: E402
from audio.models import AudioSession, AudioSource  # noqa: E402


class Instant:
    """Accepts every chunk at once. Only what a consumer asks of an ingest."""

    draining = False
    has_room = True
    process_id = uuid.uuid4()

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    async def open(self, opening: ingest.Opening) -> ingest.Opened:
        """Opens a session that no database knows."""
        session = AudioSession(sample_rate=16000, channels=1, format="wav")
        source = AudioSource(session=session, name="")
        return ingest.Opened(session, source, len(self._counts), Producer(session.pk, 0, None), resumed=False)

    async def write(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Closing a session does nothing."""

    def add(self, connection: ingest.LiveConnection) -> None:
        self._counts[id(connection)] = 0

    async def remove(self, connection: ingest.LiveConnection) -> None:
        del self._counts[id(connection)]

    async def room(self) -> None:
        """There always is."""

    def submit(self, connection: ingest.LiveConnection, payload: bytes) -> None:
        self._counts[id(connection)] += 1
        connection.deliver(len(payload), Accepted(self._counts[id(connection)], 0))
        connection.wake()


_instant = Instant()


async def _current() -> Instant:
    return _instant


ingest.current = _current  # type: ignore[assignment]

from audio.routing import application  # noqa: E402

__all__ = ["application", "consumers"]
