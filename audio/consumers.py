"""The WebSocket: moves messages between the socket, the pure protocol (`audio.wire`) and the ingest.

The stock consumer of Channels dispatches each message through a look-up, an executor and a task. That costs several
times as much as the server's own work for a message. This consumer therefore has its own receive loop. It keeps the
rest of Channels: scopes, routing and the channel layer, which `audio.ingest` reads once for the whole process.

A connection runs two loops. `_receive_all` reads messages. `_send_all` sends the answers of the protocol, in order.
Reading stops while too many bytes are in flight, or while too many answers wait for a slow client. The ASGI server then
stops reading from the socket, and TCP slows the client down.

Under this project's own web server, messages and acknowledgements do not pass these loops as long as those wait
(`audio.wire.frames`).
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

from audio import access, ingest, metrics
from audio.admission import Admission
from audio.assembly import chunks
from audio.errors import (
    AudioError,
    IdleTimeoutError,
    MediaError,
    OverloadedError,
    ServiceError,
    SessionNotFoundError,
    SessionPausedError,
    SupersededError,
)
from audio.ingest.types import Accepted, Outcome, Producer
from audio.wire import messages
from audio.wire.connection import SERVICE_RESTART, Close, Connection, State
from audio.wire.frames import EXTENSION, FramePath
from audio.wire.messages import Action, MarkerRequest
from audio.wire.parameters import ConnectionRequest, parse_query

logger = structlog.stdlib.get_logger(__name__)

MAX_BACKLOG = 16384
LAST_ANSWERS_SECONDS = 5.0
ABNORMAL_CLOSURE = 1006


async def start() -> None:
    """Make this process ready to take chunks. The web server calls it before it listens.

    If the database is away or full, this logs an error and returns. Clients can still list, download and delete what
    is stored, and each new connection tries again to start the ingest.
    """
    try:
        await ingest.current()
    except ServiceError as error:
        logger.error("ingest_not_started", error=str(error))


async def drain() -> None:
    """End every connection with 1012 after its last answer. The web server calls it before it stops."""
    await ingest.drain()


class AudioConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels is not typed
    """One connection to `/api/ws/audio` or `/api/ws/audio/{session_id}`."""

    def __init__(self) -> None:
        """Declare the state of a connection, in the order in which it comes into being."""
        # Set when the server calls the consumer. They are untyped, because servers leave out keys that the types of
        # ASGI require.
        self.scope: Any  # the path and the query of the connection
        self._receive: Any  # returns the next event of the socket
        self._send: Any  # sends an event to the socket
        self._handshake: access.Handshake  # the headers of the connection, and where it comes from
        self._first: asyncio.Future[Any]  # the client's first message, or its disconnection, read ahead
        self._frames: FramePath | None  # a shorter way to the client, None if the server has none

        # Set when the connection is opened and greeted.
        self._ingest: ingest.Ingest  # the ingest of this process
        self._opened: ingest.Opened  # the rows of the session and the source, as they were when it was opened
        self.identity: access.Identity  # who records
        self.connection_id: int  # the key of the connection's row
        self.producer: Producer  # the connection as the commit sees it, and the reason if it may no longer write
        self._admission: Admission  # decides whether a message is audio that the session records
        self._protocol: Connection  # the answers to send, and whether the connection is ending

        # Set when it is served.
        self._task: asyncio.Task[Any]  # the task that receives
        self._sender: asyncio.Task[None]  # the task that sends
        self._idle_timer: asyncio.TimerHandle  # ends an idle connection
        self._loop: asyncio.AbstractEventLoop
        self._heard_at = 0.0  # when the last message arrived, on the event loop's clock

        # Changes while it is served.
        self._in_flight_bytes = 0  # bytes of chunks that have no outcome yet
        self._is_listening = False  # the receiver waits for a message
        self._has_paused = False  # this connection has paused the session and not resumed it
        self._is_abandoned = False  # the client does not even read the last answers
        self._close_code = 0  # how the connection ended, 0 before that
        self._news: asyncio.Future[None] | None = None  # the sender waits for it when there is nothing to send
        self._progress = asyncio.Event()  # chunks have got their outcomes, or answers were sent

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one connection to its end."""
        self.scope, self._receive, self._send = scope, receive, send
        self._handshake = access.Handshake.of(self.scope)
        self._frames = self.scope.get("extensions", {}).get(EXTENSION)
        await self._receive()
        await self._send({"type": "websocket.accept", "subprotocol": self._handshake.subprotocol})
        # Read ahead while the connection is opened, to notice a client that leaves before that is done.
        self._first = asyncio.ensure_future(self._receive())
        try:
            if await self._open():
                await self._serve()
        finally:
            self._first.cancel()

    # Methods that the ingest calls, on the event loop.

    def deliver(self, size_bytes: int, outcome: Outcome) -> None:
        """Note the outcome of the oldest chunk in flight.

        Args:
            size_bytes: The size of that chunk.
            outcome: Its outcome.
        """
        self._in_flight_bytes -= size_bytes
        self._protocol.deliver(outcome.sequence if isinstance(outcome, Accepted) else outcome)

    def wake(self) -> None:
        """Send the pending answers, and wake the receiver if it waits for room."""
        frames = self._frames
        if frames is None or self._news is None or self._news.done() or not frames.is_writable:
            self._wake_sender()
        else:
            # The sender waits, so that nothing can overtake it.
            if prepared := self._protocol.acknowledgement_frames():
                frames.write_frames(prepared)
            if self._protocol.has_outgoing:
                self._wake_sender()
        self._progress.set()

    def session_closed(self) -> None:
        """Tell the client that the session was closed elsewhere, and end."""
        self._protocol.closed()
        self.wake()

    def superseded(self) -> None:
        """Tell the client that a newer connection has taken over its source, and end."""
        self._protocol.reject(SupersededError())
        self.wake()

    def session_deleted(self) -> None:
        """Tell the client that the session was deleted elsewhere, and end."""
        self._protocol.reject(SessionNotFoundError("The session was deleted."))
        self.wake()

    def end_with(self, error: AudioError) -> None:
        """Send the error after the last answer, and end."""
        self._protocol.reject(error)
        self.wake()

    def warned(self, warning: dict[str, Any]) -> None:
        """Tell the client about a new warning of the recording."""
        self._protocol.warn(warning)
        self.wake()

    def go_away(self) -> None:
        """Answer the chunks in flight, then end, because the server stops."""
        self._protocol.end(SERVICE_RESTART)
        self.wake()

    # Opening.

    async def _open(self) -> bool:
        """Open and greet the connection, or reject it.

        Returns:
            Whether the connection is open.
        """
        session_text = self.scope["url_route"]["kwargs"].get("session_id")
        try:
            request = parse_query(self.scope["query_string"])
            session_id = ingest.parse_session_id(session_text) if session_text else None
            self._ingest = await ingest.current()
            if self._ingest.draining:
                raise OverloadedError("The server is stopping. Reconnect in a moment.")
            await self._admit(request, session_id)
        except AudioError as error:
            await self._reject(error, session_text)
            return False
        self._greet(self._opened)
        self._tell()
        if self._admission.is_undecided and self._opened.session.total_chunks:
            for payload in await self._ingest.run(_first_payloads, self.producer.session_id):
                self._admission.recall(payload)
        return True

    async def _admit(self, request: ConnectionRequest, session_id: uuid.UUID | None) -> None:
        """Find out who asks, and open the session for them, unless they were rejected too often in this second."""
        holds, loop = self._ingest.holds, asyncio.get_running_loop()
        opener, target = self._handshake.opener(request.token or request.ticket), (session_id, request.project)
        if held := holds.held(opener, target, loop.time()):
            await self._hold(held.until_seconds)
            raise held.error
        try:
            self.identity = await self._identify(request, session_id)
            opening = ingest.Opening(request, session_id, self.identity, self._handshake.address, self._is_gone)
            self._opened = await self._ingest.open(opening)
        except access.HELD as error:
            holds.note(opener, target, error, loop.time())
            raise

    async def _hold(self, until: float) -> None:
        """Let a client wait until a time of the event loop's clock, unless it leaves."""
        loop = asyncio.get_running_loop()
        await asyncio.wait([self._first], timeout=until - loop.time())
        if not self._is_gone():
            await asyncio.sleep(until - loop.time())

    async def _identify(self, request: ConnectionRequest, session_id: uuid.UUID | None) -> access.Identity:
        """Find out who asks, in a thread of the executor if they have shown something."""
        if self._handshake.shows_nothing and request.token is None and request.ticket is None:
            return access.without_identity()
        return await self._ingest.run(self._identify_now, request, session_id)

    def _identify_now(self, request: ConnectionRequest, session_id: uuid.UUID | None) -> access.Identity:
        identity = access.identify(self._handshake, request.token, request.ticket, session_id)
        access.limits.check_rate(identity)
        return identity

    def _is_gone(self) -> bool:
        """Return whether the client left before it was greeted."""
        first = self._first
        return first.done() and not first.cancelled() and first.result()["type"] == "websocket.disconnect"

    def _tell(self) -> None:
        """Bind the ids of the session and the connection to every later log line of this task, and log the opening."""
        session, source = self._opened.session, self._opened.source
        bind_contextvars(session_id=str(session.pk), connection_id=self.connection_id)
        logger.info(
            "session_resumed" if self._opened.resumed else "session_opened",
            format=session.format,
            chunks=session.total_chunks,
            source=source.name or None,
        )

    async def _reject(self, error: AudioError, session_text: str | None) -> None:
        metrics.connections_rejected.labels(error.code).inc()
        logger.info("connection_rejected", code=error.code, session_id=session_text[:64] if session_text else None)
        status = error.details.pop("status", None)
        with contextlib.suppress(OSError):
            named = session_text[:64] if session_text else None
            await self._send({"type": "websocket.send", "text": messages.rejection(error, named, None, status)})
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
        """Run both loops until the connection has ended, then unregister it."""
        loop = self._loop = asyncio.get_running_loop()
        metrics.connections_opened.inc()
        self._task = asyncio.current_task()  # type: ignore[assignment]  # it is inside one
        self._heard_at = loop.time()
        self._idle_timer = loop.call_later(settings.CONNECTION_TIMEOUT_SECONDS, self._check_idle, loop)
        self._sender = asyncio.create_task(self._send_all())
        self._sender.add_done_callback(lambda _: self._progress.set())
        self._ingest.add(self)
        if self._frames is not None:
            self._frames.take_binary = self._take_directly
        try:
            await self._receive_all()
        except asyncio.CancelledError:
            if not self._is_abandoned:
                raise
        finally:
            self._idle_timer.cancel()
            await self._until_none_in_flight()
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._sender
            metrics.count_closed(self._close_code)
            logger.info("connection_closed", code=self._close_code, chunks=self._protocol.chunk_count)
            await self._ingest.remove(self)

    def _check_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        """End an idle connection, or set its timer again.

        Setting the timer again for every message would cost more.
        """
        due = self._heard_at + settings.CONNECTION_TIMEOUT_SECONDS
        if due <= loop.time():
            self._protocol.reject(IdleTimeoutError(limit=settings.CONNECTION_TIMEOUT_SECONDS))
            self.wake()
            self._idle_timer = loop.call_later(LAST_ANSWERS_SECONDS, self._abandon)
        else:
            self._idle_timer = loop.call_at(due, self._check_idle, loop)

    def _abandon(self) -> None:
        """End a connection whose client does not even read the last answers. It would stay connected for ever."""
        self._is_abandoned = True
        self._task.cancel()

    async def _receive_all(self) -> None:
        loop = asyncio.get_running_loop()
        message = await self._first
        while message["type"] != "websocket.disconnect":
            self._heard_at = loop.time()
            payload = message.get("bytes")
            if payload is None:
                await self._take_text(message["text"])
            elif self._protocol.state is State.OPEN:
                if self._admission.is_undecided:
                    await self._take_undecided(payload)
                else:
                    self._take(payload, self._rejection(payload))
            if self._full():
                await self._until_room()
            self._is_listening = True
            message = await self._receive()
            self._is_listening = False
        # If the client sent no close code, the ASGI server reports 1005 or 1006, or none.
        self._close_code = self._close_code or message.get("code") or ABNORMAL_CLOSURE

    def _take_directly(self, payload: bytes) -> bool:
        """Take a message that arrives while the receiver waits for one, without waking it.

        Returns:
            Whether it was taken. If not, it has to go to the receiver.
        """
        if not self._is_listening or self._admission.is_undecided or self._protocol.state is not State.OPEN:
            return False
        if self._full():
            return False
        self._heard_at = self._loop.time()
        self._take(payload, self._rejection(payload))
        return True

    def _rejection(self, payload: bytes) -> AudioError | None:
        """Return why a binary message may not be written, None if it may.

        No other place decides whether the connection may still write. The decision has four parts:

        1. `Connection.state`: the connection is not ending. One that is ending reads until the disconnect and ignores
           the messages, so it does not call this method.
        2. `Admission`: the audio is, from its beginning, in the format that the session records.
        3. `Producer.rejection`: no earlier chunk of the connection was rejected for good.
        4. The commit transaction (`audio.ingest.commit`) decides last, on rows that it locks: the session is active,
           and no newer connection has taken over the source. It stores a final rejection in `Producer.rejection`.
        """
        error = self._admission.rejection(payload)
        return self.producer.rejection if error is None and payload else error

    def _take(self, payload: bytes, rejection: AudioError | None) -> None:
        if rejection is not None:
            metrics.chunks_rejected.labels(rejection.code).inc()
            self._protocol.reject(rejection)
            self._wake_sender()
        elif self._protocol.receive_binary(len(payload)):
            self._in_flight_bytes += len(payload)
            self._ingest.submit(self, payload)
        else:
            self._wake_sender()

    async def _take_undecided(self, payload: bytes) -> None:
        """Take a message while the format is undecided.

        If the message decides the format, the format is made durable before the message is stored.
        """
        rejection = self._rejection(payload)
        if self._admission.found:
            try:
                rejection = await self._decide(self._admission.found) or rejection
            except AudioError as error:
                rejection = error
        self._take(payload, rejection)

    async def _decide(self, audio_format: str) -> AudioError | None:
        """Decide the session's format.

        Returns:
            Why the last message does not fit the format that another connection has decided, None if it fits.
        """
        session_id = self.producer.session_id
        session = await self._ingest.write(ingest.decide_format, session_id, self.connection_id, audio_format)
        self.producer.description = ingest.describe(session, self._opened.source.name)
        logger.info("format_decided", format=session.format)
        return self._admission.decide(session.format)

    async def _take_text(self, text: str) -> None:
        action = self._protocol.receive_text(text)
        if action is not None:
            await self._until_none_in_flight()
            # An earlier message may have ended the connection meanwhile.
            if self._protocol.state is State.OPEN:
                try:
                    await (self._mark(action) if isinstance(action, MarkerRequest) else self._act(action))
                except AudioError as error:
                    self._protocol.reject(error)
        self._wake_sender()

    async def _act(self, action: Action) -> None:
        producer = self.producer
        if action is Action.CLOSE_SESSION:
            # Another client paused the session while this one was sending. To close now would lose its later chunks.
            if isinstance(producer.rejection, SessionPausedError) and not self._has_paused:
                raise producer.rejection
            await self._ingest.write(ingest.close_session, producer.session_id, "client", producer)
            self._protocol.closed()
        elif action is Action.PAUSE:
            await self._ingest.write(ingest.pause_session, producer.session_id, producer)
            self._has_paused = True
            self._protocol.paused()
        elif action is Action.RESUME:
            await self._ingest.write(ingest.resume_session, producer.session_id, producer)
            self._has_paused = False
            if isinstance(producer.rejection, SessionPausedError):
                producer.rejection = None
            self._protocol.resumed()

    async def _mark(self, wanted: MarkerRequest) -> None:
        producer = self.producer
        marker = await self._ingest.write(ingest.add_marker, producer.session_id, wanted.label, None, producer)
        self._protocol.marked(str(marker.pk), marker.after_sequence or 0)

    def _full(self) -> bool:
        return (
            self._in_flight_bytes >= self._ingest.share_bytes
            or self._protocol.backlog >= MAX_BACKLOG
            or not self._ingest.has_room
        )

    async def _until_room(self) -> None:
        while self._in_flight_bytes >= self._ingest.share_bytes or self._protocol.backlog >= MAX_BACKLOG:
            if self._sender.done():
                # No answer can be sent any more, so the backlog stays. Receive the disconnect that comes next.
                return
            self._progress.clear()
            await self._progress.wait()
        await self._ingest.room()

    async def _until_none_in_flight(self) -> None:
        while self._protocol.in_flight:
            self._progress.clear()
            await self._progress.wait()

    def _wake_sender(self) -> None:
        """Wake the sender.

        Each batch of answers needs this, and a future costs a third of an `asyncio.Event`.
        """
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
    """Return the chunks of a session whose format is undecided. They are a few bytes, sent by earlier connections."""
    try:
        return [chunk.payload for chunk in chunks.read(chunks.window_after(session_id, 0))]
    except MediaError as error:
        logger.warning("first_chunks_not_read", error=str(error))
        return []
