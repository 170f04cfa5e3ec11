"""The event stream: server-sent events for pages, without a thread for each of them.

Django answers `GET /api/events` like any request: it checks the host, the identity and the parameters. Its response
ends at once, so that its thread is free. Then the middleware `EventStreams` sends events for as long as the page
listens. One task reads the new events once a second for all listeners of the process, and reads nothing while there are
none. The progress of a session is read from its row, so this adds no work for each chunk.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.db.models import QuerySet
from django.utils import timezone

from audio import access, metrics
from audio.access.identity import Kind
from audio.assembly import wanted
from audio.errors import OverloadedError, ServiceError
from audio.ingest.executor import DatabaseExecutor
from audio.ingest.supervision import Supervisor
from audio.models import TEST_TYPE, AudioSession, Recording, WebhookEvent
from audio.storage import downloads
from audio.webhooks import events, outbox
from audio.webhooks.subscriptions import SCOPE_KEY, Subscription

logger = structlog.stdlib.get_logger(__name__)

PATH = "/api/events"
POLL_SECONDS = 1.0
# The interval of comments, which show proxies and clients that the connection is alive, and of the check by Django that
# the listener may still listen.
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": heartbeat\n\n"
MAX_LISTENERS = 1000
# A listener that reads too slowly is disconnected. It connects again and continues where it was.
MAX_WAITING = 1000
EVENTS_PER_READ = 500
SESSIONS_PER_READ = 1000
RETRY_AFTER_SECONDS = 5
PROGRESS = "session.progress"
_CHANGING = (Kind.KEY, Kind.TOKEN, Kind.USER)
_GONE = object()
_REJECTED = (400, 401, 403, 404)

Messages = list[dict[str, Any]]
# The columns of a session that its progress shows, by the id of the session.
Marks = dict[uuid.UUID, tuple[Any, ...]]
_MARKED = ("pk", "status", "total_chunks", "recording__state", "recording__master_bytes", "recording__progress")


@dataclass(frozen=True, slots=True)
class News:
    """A message to send, and the session that it is about."""

    project_id: int
    session_id: uuid.UUID | None
    text: bytes
    position: int = 0


class Listener:
    """One page that listens, and the messages that wait to be sent to it."""

    def __init__(self, subscription: Subscription, since: int) -> None:
        self.subscription = subscription
        self.since = since
        # Whether it gets the state of all its sessions next, although they may not have changed.
        self.is_new = True
        # Whether the listener may have lost its right to listen.
        self.is_in_doubt = False
        # When that was last checked, on the steady clock.
        self.checked_at = time.monotonic()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING + 1)
        self.is_over = False

    def put(self, news: News) -> None:
        """Let something wait to be sent, if it is for this listener."""
        if self.is_over or not self.subscription.wants(news.project_id, news.session_id):
            return
        if self._waiting.qsize() >= MAX_WAITING:
            self.end()
        else:
            self._waiting.put_nowait(news.text)

    def doubt(self) -> None:
        """Let it be checked, before anything more is sent, that the listener still may listen."""
        if not self.is_over and not self.is_in_doubt:
            self.is_in_doubt = True
            if self._waiting.empty():
                self._waiting.put_nowait(HEARTBEAT)

    def end(self) -> None:
        """End the stream after what waits."""
        if not self.is_over:
            self.is_over = True
            self._waiting.put_nowait(None)

    async def next(self) -> bytes | None:
        """Return the messages to send next: a heartbeat if there is nothing for a while, None at the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                return await self._waiting.get()
        except TimeoutError:
            return HEARTBEAT


class Hub:
    """The listeners of a process, and the task that reads for them."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._database = DatabaseExecutor("events", 1)
        self._supervisor: Supervisor | None = None
        self._wanted = asyncio.Event()
        self._starting = asyncio.Lock()
        self._is_draining = False
        # Everything up to this position was put to the listeners; unknown while there are none.
        self._position: int | None = None
        # The progress of sessions that was sent last.
        self._marks: Marks = {}
        # The last known values of the keys, tokens and people of the listeners.
        self._standing: dict[Any, Any] = {}

    async def add(self, subscription: Subscription) -> Listener:
        """Return a new listener.

        Raises:
            ServiceError: There are too many, the process stops, or the database is not available.
        """
        if self._is_draining or len(self._listeners) >= MAX_LISTENERS:
            raise OverloadedError(retry_after_seconds=RETRY_AFTER_SECONDS)
        async with self._starting:
            if self._supervisor is None:
                self._supervisor = Supervisor()
                self._supervisor.keep_running("event_stream", self._poll)
            if self._position is None:
                self._position = await self._database.run(outbox.last_position)
            # There is no await between the reading of the position and the addition, so no event is missed.
            listener = Listener(subscription, self._position)
            self._listeners.add(listener)
            self._wanted.set()
        return listener

    def remove(self, listener: Listener) -> None:
        """Forget a listener. After the last one nothing is read any more."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._wanted.clear()
            self._position = None
            self._marks = {}
            self._standing = {}

    async def missed(self, listener: Listener) -> list[News]:
        """Return the next events between those that a listener had before and the new ones."""
        after = listener.subscription.after
        if after is None or after >= listener.since:
            return []
        return await self._database.run(_read_events, after, listener.since)

    async def drain(self) -> None:
        """End all streams, because the process stops."""
        self._is_draining = True
        for listener in self._listeners:
            listener.end()
        if self._supervisor is not None:
            await self._supervisor.stop()

    async def _poll(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._read()
            except ServiceError as error:
                logger.warning("event_stream_put_off", error=str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self) -> None:
        position = self._position
        if position is None:
            return
        listeners = list(self._listeners)
        await self._look_at(listeners)
        named = {session_id for each in listeners for session_id in each.subscription.session_ids}
        is_for_all = any(not each.subscription.session_ids for each in listeners)
        known = {} if any(each.is_new for each in listeners) else self._marks
        found = await self._database.run(_read_all, position, named, is_for_all, known)
        # All listeners may have gone meanwhile, and others come, which begin at their own position.
        if self._position == position:
            self._tell(listeners, found)

    async def _look_at(self, listeners: Sequence[Listener]) -> None:
        """Check the listeners again whose key, token or roles have changed."""
        identities = [listener.subscription.identity for listener in listeners]
        standing = await self._database.run(access.standing, identities)
        for listener, identity in zip(listeners, identities, strict=True):
            key = (identity.kind, identity.key)
            if identity.kind in _CHANGING and standing.get(key) != self._standing.get(key, standing.get(key, _GONE)):
                listener.doubt()
        self._standing = standing

    def _tell(self, listeners: Sequence[Listener], found: "Found") -> None:
        for each in found.events:
            self._position = each.position
            for listener in listeners:
                if each.position > listener.since:
                    listener.put(each)
        for one in found.progress:
            key = one.session_id
            has_changed = key is not None and found.marks.get(key) != self._marks.get(key)
            for listener in listeners:
                if has_changed or listener.is_new:
                    listener.put(one)
        self._marks = found.marks
        for listener in listeners:
            listener.is_new = False


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a reading: new events, the progress of sessions, and the values that show a change."""

    events: Sequence[News]
    progress: Sequence[News]
    marks: Marks


def _text(event_type: str, shown: dict[str, Any], position: int | None = None) -> bytes:
    """Return an event as its bytes in a stream (HTML Living Standard section 9.2)."""
    numbered = "" if position is None else f"id: {position}\n"
    return f"{numbered}event: {event_type}\ndata: {json.dumps(shown, ensure_ascii=False)}\n\n".encode()


def _read_events(after: int, up_to: int | None = None) -> list[News]:
    found = WebhookEvent.objects.filter(position__gt=after).select_related("project").order_by("position")
    if up_to is not None:
        found = found.filter(position__lte=up_to)
    return [_news(event) for event in found[:EVENTS_PER_READ]]


def _news(event: WebhookEvent) -> News:
    shown = {"id": event.message_id, **events.payload(event)}
    # The event of a test is for its endpoint alone.
    session_id = None if event.type == TEST_TYPE else event.session_id
    position = event.position or 0
    return News(event.project_id, session_id, _text(event.type, shown, position), position)


def _read_all(position: int, named: Collection[uuid.UUID], is_for_all: bool, known: Marks) -> Found:
    """Read the events after a position, and the sessions whose marks are not those that are known."""
    outbox.publish()
    if named:
        wanted.enqueue_windows(named)
    marks = _marks(AudioSession.objects.filter(pk__in=named)) if named else {}
    if is_for_all:
        marks |= _marks(AudioSession.objects.open().order_by())
    changed = [key for key, mark in marks.items() if known.get(key) != mark]
    for key in changed[SESSIONS_PER_READ:]:
        del marks[key]  # the next reading finds it changed
    rows = AudioSession.objects.filter(pk__in=changed[:SESSIONS_PER_READ]).select_related("recording", "project")
    return Found(_read_events(position), [_progress(session) for session in rows], marks)


def _marks(sessions: QuerySet[AudioSession]) -> Marks:
    return {key: tuple(rest) for key, *rest in sessions.values_list(*_MARKED)}


def _progress(session: AudioSession) -> News:
    recording = session.recording if hasattr(session, "recording") else Recording(session=session)
    data = {
        "session_id": str(session.pk),
        "project": session.project.name,
        "user_id": session.user_id,
        "status": session.status,
        "total_chunks": session.total_chunks,
        "byte_count": session.byte_count,
        "duration_seconds": downloads.duration_seconds(session, recording),
        "recording": {"state": recording.state, "progress": round(recording.progress, 3)},
    }
    shown = {"type": PROGRESS, "timestamp": timezone.now().isoformat(), "data": data}
    return News(session.project_id, session.pk, _text(PROGRESS, shown))


class EventStreams:
    """An ASGI middleware around Django that streams events to the listeners that Django's view has accepted."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._hub: Hub | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; a stream if it is for one."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith(PATH):
            await self._application(scope, receive, send)
            return
        messages, subscription = await self._ask(scope, receive)
        listener = None
        if subscription is not None and scope["method"] == "GET":
            try:
                listener = await self._hub_of_loop().add(subscription)
            except ServiceError as error:
                messages = _rejection(error)
        if listener is None:
            for message in messages:
                await send(message)
            return
        await self._stream(listener, messages, scope, receive, send)

    async def drain(self) -> None:
        """End all streams, because the server stops."""
        if self._hub is not None:
            await self._hub.drain()

    def _hub_of_loop(self) -> Hub:
        if self._hub is None:
            self._hub = Hub()
        return self._hub

    async def _ask(self, scope: Any, receive: Any) -> tuple[Messages, Subscription | None]:
        """Call Django, and return its answer, with the subscription that the view has accepted."""
        messages: Messages = []

        async def keep(message: dict[str, Any]) -> None:
            messages.append(message)

        scope = dict(scope)
        await self._application(scope, receive, keep)
        return messages, scope.get(SCOPE_KEY)

    async def _stream(self, listener: Listener, messages: Messages, scope: Any, receive: Any, send: Any) -> None:
        hub = self._hub_of_loop()
        gone = asyncio.create_task(_end_when_gone(listener, receive))
        metrics.event_listeners.inc()
        try:
            for message in messages:
                await send(_without_end(message))
            if await self._send_missed(listener, scope, send):
                await self._send_all(listener, scope, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            metrics.event_listeners.dec()
            hub.remove(listener)

    async def _send_missed(self, listener: Listener, scope: Any, send: Any) -> bool:
        """Send the events that a listener has missed. It may read them slowly, for hours.

        Returns:
            Whether it may listen on.
        """
        while news := await self._hub_of_loop().missed(listener):
            for each in news:
                if not await self._may_listen(listener, scope):
                    return False
                if listener.subscription.wants(each.project_id, each.session_id):
                    await send({"type": "http.response.body", "body": each.text, "more_body": True})
            listener.subscription = replace(listener.subscription, after=news[-1].position)
        return True

    async def _send_all(self, listener: Listener, scope: Any, send: Any) -> None:
        while (text := await listener.next()) is not None:
            if not await self._may_listen(listener, scope):
                return
            await send({"type": "http.response.body", "body": text, "more_body": True})

    async def _may_listen(self, listener: Listener, scope: Any) -> bool:
        """Tell whether a listener still may listen. Django is asked if it is in doubt, and once in a while."""
        if not listener.is_in_doubt and time.monotonic() - listener.checked_at < HEARTBEAT_SECONDS:
            return True
        listener.is_in_doubt = False
        await self._check(listener, scope)
        listener.checked_at = time.monotonic()
        return not listener.is_over

    async def _check(self, listener: Listener, scope: Any) -> None:
        """Ask Django again, because a key may have been revoked, a role changed, or a session deleted."""
        messages, subscription = await self._ask(scope, _nothing_received())
        if subscription is not None:
            listener.subscription = subscription
        elif messages and messages[0].get("status") in _REJECTED:
            listener.end()


async def _end_when_gone(listener: Listener, receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end()


def _nothing_received() -> Callable[[], Any]:
    """Return the `receive` of a request without a body, whose client never goes away."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


def _without_end(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of Django's response, changed so that the response continues."""
    if message["type"] == "http.response.body":
        return message | {"more_body": True}
    return message | {"headers": [header for header in message["headers"] if header[0].lower() != b"content-length"]}


def _rejection(error: ServiceError) -> Messages:
    body = json.dumps({"detail": error.detail, "code": error.code, **error.details}).encode()
    headers = [(b"content-type", b"application/json"), (b"retry-after", str(RETRY_AFTER_SECONDS).encode())]
    return [
        {"type": "http.response.start", "status": error.http_status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]
