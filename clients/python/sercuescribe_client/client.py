"""The asynchronous client."""

from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Self, Unpack

from sercuescribe_client.events import listen
from sercuescribe_client.models import Event
from sercuescribe_client.recorder import Recorder, RecordOptions
from sercuescribe_client.resources import (
    AsyncKeys,
    AsyncMarkers,
    AsyncProjects,
    AsyncSessions,
    AsyncTasks,
    AsyncTokens,
    AsyncWebhooks,
)
from sercuescribe_client.server import Server
from sercuescribe_client.transport import Transport

TIMEOUT_SECONDS = 30.0


class AsyncClient:
    """A client of one server. Use it as an asynchronous context manager, or call `aclose` at the end.

    Args:
        url: The address of the server. The default is SERCUESCRIBE_URL, or else http://127.0.0.1:8000.
        api_key: An API key or session token. The default is SERCUESCRIBE_API_KEY. An empty one means none.
        timeout_seconds: How long a request may wait for an answer.
        trust_env: Whether proxies in the environment are used.

    Raises:
        UsageError: The address is not that of a server.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        trust_env: bool = True,
    ) -> None:
        self._transport = Transport(Server.find(url, api_key), timeout_seconds, trust_env)
        self.sessions = AsyncSessions(self._transport)
        self.markers = AsyncMarkers(self._transport)
        self.tokens = AsyncTokens(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.projects = AsyncProjects(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.tasks = AsyncTasks(self._transport)

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._transport.server.url

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def record(self, **options: Unpack[RecordOptions]) -> Recorder:
        """Return a recorder, which is an asynchronous context manager. `RecordOptions` lists the options."""
        return Recorder(self._transport, **options)

    def events(self, session_ids: Sequence[str] = (), *, after: str | None = None) -> AsyncGenerator[Event, None]:
        """Return the events of sessions as they happen. It has no end.

        Args:
            session_ids: The sessions; without any, all that the caller may see.
            after: The `position` of the last event that was received. The stream continues after it.
        """
        return listen(self._transport, session_ids, after)
