"""What tests say to a server over the contract: a WebSocket client, and REST through httpx."""

import contextlib
import json
from collections.abc import AsyncIterator
from ssl import SSLContext
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.server import eventually

CLOSE_SESSION = {"type": "control", "action": "close_session"}


class Recorder:
    """One connection to `/api/ws/audio`; `greeting` is the first message, an error if it was rejected."""

    def __init__(self, socket: ClientConnection, greeting: dict[str, Any]) -> None:
        self.socket = socket
        self.greeting = greeting
        self.session_id: str = greeting.get("session_id", "")

    async def send(self, *payloads: bytes) -> None:
        """Sends binary messages without waiting."""
        for payload in payloads:
            await self.socket.send(payload)

    async def answer(self) -> dict[str, Any]:
        """Returns the next answer."""
        received: dict[str, Any] = json.loads(await self.socket.recv())
        return received

    async def answers(self, count: int) -> list[dict[str, Any]]:
        """Returns the next answers."""
        return [await self.answer() for _ in range(count)]

    async def answered(self, payload: bytes) -> dict[str, Any]:
        """Sends a binary message and returns its answer."""
        await self.send(payload)
        return await self.answer()

    async def store(self, *payloads: bytes) -> list[int]:
        """Sends binary messages and returns the counts in their acknowledgements."""
        await self.send(*payloads)
        return [answer["chunk_count"] for answer in await self.answers(len(payloads))]

    async def control(self, action: str) -> dict[str, Any]:
        """Sends a control message and returns its answer."""
        await self.socket.send(json.dumps({"type": "control", "action": action}))
        return await self.answer()

    async def close_code(self) -> int:
        """Reads until the server closes; returns the close code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.socket.recv()
        return self.socket.close_code or 0

    async def close_session(self) -> dict[str, Any]:
        """Closes the session; returns the answer, and has seen close code 1000 after it."""
        answer = await self.control("close_session")
        assert await self.close_code() == 1000
        return answer


@contextlib.asynccontextmanager
async def recorder(
    ws_url: str, session_id: str | None = None, ssl: SSLContext | None = None, **query: str | int
) -> AsyncIterator[Recorder]:
    """Open a connection, with the greeting read; the socket is closed at the end."""
    path = "/api/ws/audio" + (f"/{session_id}" if session_id else "")
    url = ws_url + path + (f"?{urlencode(query)}" if query else "")
    options: dict[str, Any] = {"ssl": ssl} if ssl else {}
    async with connect(url, max_size=None, compression=None, ping_interval=None, open_timeout=90, **options) as socket:
        yield Recorder(socket, json.loads(await socket.recv()))


class Rest:
    """The sessions of a server over REST."""

    def __init__(self, url: str) -> None:
        # Without kept connections nothing has to be closed at the end of a test.
        self.http = httpx.Client(base_url=url, timeout=90, limits=httpx.Limits(max_keepalive_connections=0))

    def session(self, session_id: str) -> dict[str, Any]:
        """Returns the session's detail."""
        answer = self.http.get(f"/api/audio/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()
        return detail

    def finished(self, session_id: str) -> dict[str, Any]:
        """Waits until the recording is ready or has failed; returns the session's detail."""

        def done() -> dict[str, Any] | None:
            detail = self.session(session_id)
            return detail if detail["recording"]["state"] in ("ready", "failed") else None

        detail = eventually(done)
        assert detail is not None
        return detail

    def download(self, session_id: str) -> bytes:
        """Waits for the recording and returns its bytes."""
        detail = self.finished(session_id)
        assert detail["recording"]["state"] == "ready", detail
        answer = self.http.get(f"/api/audio/sessions/{session_id}/audio")
        assert answer.status_code == 200, answer.text
        return answer.content
