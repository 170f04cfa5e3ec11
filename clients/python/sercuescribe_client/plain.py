"""The synchronous client: every method of the asynchronous one, without `await`.

An event loop in a thread of its own runs the asynchronous client. So a recorder receives acknowledgements, sends and
reconnects while the program does something else.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from sercuescribe_client.background import BackgroundLoop
from sercuescribe_client.client import TIMEOUT_SECONDS, AsyncClient
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

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")


class _Plain(Generic[A]):
    """An object of the asynchronous client, and the loop that runs it."""

    def __init__(self, asynchronous: A, loop: BackgroundLoop) -> None:
        self._asynchronous = asynchronous
        self._loop = loop


def _plain(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[_Plain[A], P], T]:
    """Return an asynchronous method as a plain one."""

    @functools.wraps(method)
    def call(self: _Plain[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(functools.partial(method, self._asynchronous, *args, **kwargs))

    return call


def _plain_iterator(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Plain[A], P], Iterator[T]]:
    """Return a method that returns an asynchronous iterator as one that returns a plain iterator."""

    @functools.wraps(method)
    def call(self: _Plain[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._asynchronous, *args, **kwargs))

    return call


class Sessions(_Plain[AsyncSessions]):
    """Sessions and their recordings."""

    list = _plain(AsyncSessions.list)
    iterate = _plain_iterator(AsyncSessions.iterate)
    get = _plain(AsyncSessions.get)
    create = _plain(AsyncSessions.create)
    update = _plain(AsyncSessions.update)
    close = _plain(AsyncSessions.close)
    delete = _plain(AsyncSessions.delete)
    wait_until_ready = _plain(AsyncSessions.wait_until_ready)
    download = _plain(AsyncSessions.download)
    read = _plain_iterator(AsyncSessions.read)
    follow = _plain_iterator(AsyncSessions.follow)
    waveform = _plain(AsyncSessions.waveform)
    transcode = _plain(AsyncSessions.transcode)


class Markers(_Plain[AsyncMarkers]):
    """The markers of a session."""

    list = _plain(AsyncMarkers.list)
    add = _plain(AsyncMarkers.add)
    update = _plain(AsyncMarkers.update)
    delete = _plain(AsyncMarkers.delete)


class Tokens(_Plain[AsyncTokens]):
    """The tokens of a session, for browsers and devices."""

    list = _plain(AsyncTokens.list)
    create = _plain(AsyncTokens.create)
    revoke = _plain(AsyncTokens.revoke)


class Keys(_Plain[AsyncKeys]):
    """API keys of the projects that the caller manages."""

    list = _plain(AsyncKeys.list)
    create = _plain(AsyncKeys.create)
    revoke = _plain(AsyncKeys.revoke)


class Projects(_Plain[AsyncProjects]):
    """The projects of the caller."""

    list = _plain(AsyncProjects.list)


class Webhooks(_Plain[AsyncWebhooks]):
    """Webhooks of the projects that the caller manages."""

    list = _plain(AsyncWebhooks.list)
    create = _plain(AsyncWebhooks.create)
    get = _plain(AsyncWebhooks.get)
    update = _plain(AsyncWebhooks.update)
    delete = _plain(AsyncWebhooks.delete)
    rotate = _plain(AsyncWebhooks.rotate)
    test = _plain(AsyncWebhooks.test)
    deliveries = _plain_iterator(AsyncWebhooks.deliveries)
    replay = _plain(AsyncWebhooks.replay)


class Tasks(_Plain[AsyncTasks]):
    """Background tasks."""

    list = _plain(AsyncTasks.list)
    start = _plain(AsyncTasks.start)
    get = _plain(AsyncTasks.get)
    revoke = _plain(AsyncTasks.revoke)
    wait = _plain(AsyncTasks.wait)


class PlainRecorder(_Plain[Recorder]):
    """One source of a session. Use it as a context manager. `Recorder` describes what it does."""

    send = _plain(Recorder.send)
    flush = _plain(Recorder.flush)
    pause = _plain(Recorder.pause)
    resume = _plain(Recorder.resume)
    marker = _plain(Recorder.marker)
    close = _plain(Recorder.close)

    def __enter__(self) -> Self:
        """Connect."""
        self._loop.run(self._asynchronous.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session, or after an exception leave it open."""
        self._loop.run(functools.partial(self._asynchronous.__aexit__, kind, error, traceback))

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self._asynchronous.session_id

    @property
    def source(self) -> str:
        """The name of this stream in the session."""
        return self._asynchronous.source

    @property
    def resumed_chunk_count(self) -> int:
        """The chunks of this source that the server had at the beginning."""
        return self._asynchronous.resumed_chunk_count

    @property
    def acknowledged_chunk_count(self) -> int:
        """How many chunks of this source are durable."""
        return self._asynchronous.acknowledged_chunk_count

    @property
    def reconnect_count(self) -> int:
        """How often the connection was lost."""
        return self._asynchronous.reconnect_count


class Client:
    """A synchronous client of one server. Use it as a context manager, or call `close` at the end.

    Its arguments are those of `AsyncClient`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        trust_env: bool = True,
    ) -> None:
        self._client = AsyncClient(url, api_key, timeout_seconds=timeout_seconds, trust_env=trust_env)
        self._loop = BackgroundLoop()
        self.sessions = Sessions(self._client.sessions, self._loop)
        self.markers = Markers(self._client.markers, self._loop)
        self.tokens = Tokens(self._client.tokens, self._loop)
        self.keys = Keys(self._client.keys, self._loop)
        self.projects = Projects(self._client.projects, self._loop)
        self.webhooks = Webhooks(self._client.webhooks, self._loop)
        self.tasks = Tasks(self._client.tasks, self._loop)

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._client.url

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections and end the thread."""
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. Closing it again does nothing."""
        if not self._loop.is_closed:
            self._loop.run(self._client.aclose)
            self._loop.close()

    def record(self, **options: Unpack[RecordOptions]) -> PlainRecorder:
        """Return a recorder, which is a context manager. `RecordOptions` lists the options."""
        return PlainRecorder(self._client.record(**options), self._loop)

    def events(self, session_ids: Sequence[str] = (), *, after: str | None = None) -> Iterator[Event]:
        """Return the events of sessions as they happen. It has no end. `AsyncClient.events` describes the arguments."""
        return self._loop.iterate(self._client.events(session_ids, after=after))
