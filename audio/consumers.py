"""The WebSocket: moves messages between the socket, the pure protocol (`audio.wire`) and the ingest.

Channels' stock consumer dispatches every message through a look-up, an executor hop and a task wait, which
costs several times the server's own work for a message. This consumer has a receive loop of its own and keeps
the rest of Channels: scopes, routing, the channel layer (read once for the whole process, in `audio.ingest`).

A connection is two loops: `_receive_all` reads, `_send_all` sends what the protocol gives out, in order. Reading
stops while too much is in flight or too many answers wait for a slow reader; the ASGI server then stops reading
from the socket, and TCP holds the client back.
"""

import asyncio
import contextlib
import uuid
from typing import Any

import structlog
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from channels.consumer import AsyncConsumer
from django.conf import settings
from structlog.contextvars import bind_contextvars

from audio import ingest, metrics
from audio.admission import Admission
from audio.assembly import chunks
from audio.errors import (
    AudioError,
    IdleTimeout,
    MediaError,
    Overloaded,
    ServiceError,
    SessionNotFound,
    SessionPaused,
    Superseded,
)
from audio.ingest.types import Accepted, Outcome, Producer
from audio.wire import messages
from audio.wire.connection import SERVICE_RESTART, Close, Connection, State
from audio.wire.messages import Action
from audio.wire.parameters import parse_query

logger = structlog.stdlib.get_logger(__name__)

ACCEPT: Any = {"type": "websocket.accept"}
MAX_IN_FLIGHT_BYTES = 1024 * 1024
MAX_BACKLOG = 16384
LAST_ANSWERS_SECONDS = 5.0
ABNORMAL_CLOSURE = 1006


async def start() -> None:
    """Make this process ready to take chunks; the web server calls it before it listens.

    A database that is away or full keeps nobody from listing, fetching and deleting what is there. Each connection
    that comes tries again.
    """
    try:
        await ingest.current()
    except ServiceError as error:
        logger.error("ingest_not_started", error=str(error))


async def drain() -> None:
    """Ends every connection after its last answer, with 1012; the web server calls it before it stops."""
    await ingest.drain()


class AudioConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels is not typed
    """One connection of section 2 of the contract: `/api/ws/audio` and `/api/ws/audio/{session_id}`."""

    connection_id: int
    producer: Producer
    _ingest: ingest.Ingest
    _opened: ingest.Opened
    _protocol: Connection

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serves one connection to its end."""
        self.scope: Any = scope
        # The typed events of ASGI know none of the servers' shorter forms.
        self._receive: Any = receive
        self._send: Any = send
        self._in_flight_bytes = 0
        self._has_paused = False
        self._news: asyncio.Future[None] | None = None
        self._progress = asyncio.Event()
        await self._receive()
        await self._send(ACCEPT)
        # Read ahead while the connection is opened: a client may have given up by the time that it could be.
        self._first: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        try:
            if await self._open():
                await self._serve()
        finally:
            self._first.cancel()

    # What the ingest calls, on the event loop.

    def settle(self, size_bytes: int, outcome: Outcome) -> None:
        """The oldest chunk in flight has its outcome."""
        self._in_flight_bytes -= size_bytes
        if isinstance(outcome, Accepted):
            self._protocol.stored(outcome.sequence)
        else:
            self._protocol.refused(outcome)

    def wake(self) -> None:
        """There may be something to send, and room to receive."""
        self._wake_sender()
        self._progress.set()

    def session_closed(self) -> None:
        """The session was closed elsewhere."""
        self._protocol.closed()
        self.wake()

    def superseded(self) -> None:
        """A newer connection has taken over the source."""
        self._protocol.reject(Superseded())
        self.wake()

    def session_deleted(self) -> None:
        """The session was deleted elsewhere."""
        self._protocol.reject(SessionNotFound("The session was deleted."))
        self.wake()

    def warned(self, warning: dict[str, Any]) -> None:
        """Something that came can't be in the recording as it came."""
        self._protocol.warn(warning)
        self.wake()

    def go_away(self) -> None:
        """The server stops: answer what is in flight, then close."""
        self._protocol.end(SERVICE_RESTART)
        self.wake()

    # Opening.

    async def _open(self) -> bool:
        """Validates, opens and greets; a refusal is sent as an error, then the close code. Returns success."""
        session_text = self.scope["url_route"]["kwargs"].get("session_id")
        try:
            request = parse_query(self.scope["query_string"])
            session_id = ingest.parse_session_id(session_text) if session_text else None
            self._ingest = await ingest.current()
            if self._ingest.draining:
                raise Overloaded("The server is stopping. Reconnect in a moment.")
            self._opened = await self._ingest.run(
                ingest.open_connection, request, session_id, self._ingest.process_id, self._is_gone
            )
        except AudioError as error:
            await self._refuse(error, session_text)
            return False
        self._greet(self._opened)
        self._tell()
        if self._admission.is_undecided and self._opened.session.total_chunks:
            for payload in await self._ingest.run(_first_payloads, self.producer.session_id):
                self._admission.recall(payload)
        return True

    def _is_gone(self) -> bool:
        """Whether the client left before it was greeted."""
        first = self._first
        return first.done() and not first.cancelled() and first.result()["type"] == "websocket.disconnect"

    def _tell(self) -> None:
        """Binds the session and the connection to this task's context, and so to every line of the log from here."""
        session, source = self._opened.session, self._opened.source
        bind_contextvars(session_id=str(session.pk), connection_id=self.connection_id)
        logger.info(
            "session_resumed" if self._opened.resumed else "session_opened",
            format=session.format,
            chunks=session.total_chunks,
            source=source.name or None,
        )

    async def _refuse(self, error: AudioError, session_text: str | None) -> None:
        metrics.connections_refused.labels(error.code).inc()
        logger.info("connection_refused", code=error.code, session_id=session_text[:64] if session_text else None)
        status = error.details.pop("status", None)
        with contextlib.suppress(OSError):
            named = session_text[:64] if session_text else None
            await self._send({"type": "websocket.send", "text": messages.refusal(error, named, None, status)})
            await self._send({"type": "websocket.close", "code": error.close_code or 1011})

    def _greet(self, opened: "ingest.Opened") -> None:
        session, source = opened.session, opened.source
        self.connection_id, self.producer = opened.connection_id, opened.producer
        self._admission = Admission(
            session.format,
            session.chunk_mode,
            is_undecided="format" in session.undecided,
            has_begun=bool(source.chunk_count if source.name else session.total_chunks),
            is_named=bool(source.name),
        )
        self._protocol = Connection(str(session.pk), session.total_chunks, session.status)
        named = {"source": source.name, "source_chunk_count": source.chunk_count} if source.name else {}
        self._protocol.greet(
            messages.RESUMED if opened.resumed else messages.CREATED,
            **session.parameters.as_dict(),
            undecided=session.undecided,
            user_id=session.user_id,
            byte_count=session.byte_count,
            **named,
            max_message_size_bytes=settings.MAX_MESSAGE_SIZE_BYTES,
            connection_timeout_seconds=settings.CONNECTION_TIMEOUT_SECONDS,
        )

    # Serving.

    async def _serve(self) -> None:
        """Runs both loops until the connection has ended, then signs it off."""
        loop = asyncio.get_running_loop()
        metrics.connections_opened.inc()
        self._close_code = 0
        self._abandoned = False
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # it is inside one
        self._heard_at = loop.time()
        self._idle_timer = loop.call_later(settings.CONNECTION_TIMEOUT_SECONDS, self._check_idle, loop)
        self._sender = asyncio.create_task(self._send_all())
        self._sender.add_done_callback(lambda _: self._progress.set())
        self._ingest.add(self)
        try:
            await self._receive_all()
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
        finally:
            self._idle_timer.cancel()
            await self._settled()
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._sender
            metrics.count_closed(self._close_code)
            logger.info("connection_closed", code=self._close_code, chunks=self._protocol.chunk_count)
            await self._ingest.remove(self)

    def _check_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer a connection, moved on when it fires: re-arming it for every message would cost more."""
        due = self._heard_at + settings.CONNECTION_TIMEOUT_SECONDS
        if due <= loop.time():
            self._protocol.fail(IdleTimeout(limit=settings.CONNECTION_TIMEOUT_SECONDS))
            self.wake()
            self._idle_timer = loop.call_later(LAST_ANSWERS_SECONDS, self._abandon)
        else:
            self._idle_timer = loop.call_at(due, self._check_idle, loop)

    def _abandon(self) -> None:
        """The client does not even take the last answers: end without it, or it would hold its place for ever."""
        self._abandoned = True
        self._task.cancel()

    async def _receive_all(self) -> None:
        loop = asyncio.get_running_loop()
        message = await self._first
        while message["type"] != "websocket.disconnect":
            self._heard_at = loop.time()
            payload = message.get("bytes")
            if payload is None:
                await self._take_text(message["text"])
            elif self._admission.is_undecided:
                await self._take_undecided(payload)
            else:
                self._take_binary(payload)
            if self._full():
                await self._until_room()
            message = await self._receive()
        # A server that was not told why the client went says 1005 or 1006, or nothing.
        self._close_code = self._close_code or message.get("code") or ABNORMAL_CLOSURE

    def _take_binary(self, payload: bytes) -> None:
        self._take(payload, self._admission.refusal(payload))

    def _take(self, payload: bytes, refusal: AudioError | None) -> None:
        if refusal is not None:
            metrics.chunks_refused.labels(refusal.code).inc()
            self._protocol.reject(refusal)
            self._wake_sender()
        elif self._protocol.receive_binary(len(payload)):
            self._in_flight_bytes += len(payload)
            self._ingest.submit(self, payload)
        else:
            self._wake_sender()

    async def _take_undecided(self, payload: bytes) -> None:
        """Makes the format durable that the first bytes decide, before the chunk is stored that decides it."""
        refusal = self._admission.refusal(payload)
        if self._admission.found:
            try:
                refusal = await self._decide(self._admission.found) or refusal
            except AudioError as error:
                refusal = error
        self._take(payload, refusal)

    async def _decide(self, audio_format: str) -> AudioError | None:
        """Decides the session's format; returns why the last message does not fit what another has decided."""
        session_id = self.producer.session_id
        session = await self._ingest.run(ingest.decide_format, session_id, self.connection_id, audio_format)
        self.producer.description = ingest.describe(session, self._opened.source.name)
        logger.info("format_decided", format=session.format)
        return self._admission.decide(session.format)

    async def _take_text(self, text: str) -> None:
        action = self._protocol.receive_text(text)
        if action is not None:
            await self._settled()
            # What came before it may have ended the connection meanwhile.
            if self._protocol.state is State.OPEN:
                try:
                    await self._act(action)
                except AudioError as error:
                    self._protocol.reject(error)
        self._wake_sender()

    async def _act(self, action: Action) -> None:
        producer = self.producer
        if action is Action.CLOSE_SESSION:
            # Another has paused the session in the middle of what this source sends: the rest would be lost.
            if isinstance(producer.failed, SessionPaused) and not self._has_paused:
                raise producer.failed
            await self._ingest.run(ingest.close_session, producer.session_id, "client", producer)
            self._protocol.closed()
        elif action is Action.PAUSE:
            await self._ingest.run(ingest.pause_session, producer.session_id, producer)
            self._has_paused = True
            self._protocol.paused()
        elif action is Action.RESUME:
            await self._ingest.run(ingest.resume_session, producer.session_id, producer)
            self._has_paused = False
            if isinstance(producer.failed, SessionPaused):
                producer.failed = None
            self._protocol.resumed()

    def _full(self) -> bool:
        return (
            self._in_flight_bytes >= MAX_IN_FLIGHT_BYTES
            or self._protocol.backlog >= MAX_BACKLOG
            or not self._ingest.has_room
        )

    async def _until_room(self) -> None:
        while self._in_flight_bytes >= MAX_IN_FLIGHT_BYTES or self._protocol.backlog >= MAX_BACKLOG:
            if self._sender.done():
                # Nobody takes answers any more, so the backlog stays: on to the disconnect that waits to be received.
                return
            self._progress.clear()
            await self._progress.wait()
        await self._ingest.room()

    async def _settled(self) -> None:
        while self._protocol.unsettled:
            self._progress.clear()
            await self._progress.wait()

    def _wake_sender(self) -> None:
        """A future costs a third of an asyncio.Event, and one is waited for with every batch of answers."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for item in self._protocol.outgoing():
                if isinstance(item, Close):
                    self._close_code = item.code
                    await self._send({"type": "websocket.close", "code": item.code})
                    return
                await self._send({"type": "websocket.send", "text": item})
            self._progress.set()
            self._news = loop.create_future()
            await self._news


def _first_payloads(session_id: uuid.UUID) -> list[bytes]:
    """Returns the chunks of a session whose format is undecided: a few bytes, which an earlier connection sent."""
    try:
        return [chunk.payload for chunk in chunks.read(chunks.window_after(session_id, 0))]
    except MediaError as error:
        logger.warning("first_chunks_not_read", error=str(error))
        return []
