"""A client of the event stream, which parses what it hears."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.server import DEADLINE_SECONDS


@dataclass(frozen=True)
class Heard:
    """An event of the stream. Progress has no id."""

    type: str
    data: dict[str, Any]
    id: int | None = None


class Listening:
    """An open stream: what was heard, and whether it has ended."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.heard: list[Heard] = []
        self.comments = 0
        self.is_over = False
        self._news = asyncio.Event()

    async def read(self) -> None:
        fields: dict[str, str] = {}
        async for line in self.answer.aiter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                shown = json.loads(fields["data"])
                number = int(fields["id"]) if "id" in fields else None
                assert shown["type"] == fields["event"]
                self.heard.append(Heard(fields["event"], shown["data"], number))
                fields = {}
            self._news.set()
        self.is_over = True
        self._news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                self._news.clear()
                await self._news.wait()

    @property
    def events(self) -> list[Heard]:
        return [each for each in self.heard if each.id is not None]

    def types(self, session_id: str) -> list[str]:
        return [each.type for each in self.events if each.data["session_id"] == session_id]


@contextlib.asynccontextmanager
async def listening(url: str, *, headers: dict[str, str] | None = None, **query: Any) -> AsyncIterator[Listening]:
    """Listens to a server's events for as long as the block runs."""
    async with (
        httpx.AsyncClient(timeout=DEADLINE_SECONDS) as client,
        client.stream("GET", f"{url}/api/events", params=query, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        stream = Listening(answer)
        reading = asyncio.create_task(stream.read())
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
