"""The recorder: it sends chunks over as many connections as necessary, so that each is stored exactly once."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from sercuescribe_client.backoff import Backoff
from sercuescribe_client.errors import (
    ConflictError,
    IncompleteError,
    InvalidRequestError,
    NotAllowedError,
    ScribeError,
    ServerError,
    ServerUnreachableError,
    UsageError,
    error_of,
)
from sercuescribe_client.models import ChunkMode, Encoding, Format, Session
from sercuescribe_client.outbox import ChunkItem, ControlItem, Outbox
from sercuescribe_client.spool import FileSpool, MemorySpool, Spool
from sercuescribe_client.transport import Transport, segment, unreachable_of

MAX_PENDING_BYTES = 64 * 1024 * 1024
GIVE_UP_SECONDS = 600.0
FIRST_GREETING_SECONDS = 10.0
OPEN_TIMEOUT_SECONDS = 20.0
# The server closes first. The client waits only for one that it leaves.
CLOSE_TIMEOUT_SECONDS = 2.0
LONGEST_SILENCE_SECONDS = 60.0
_MARKER_CODES = ("invalid_marker", "too_many_markers")
# Another connection cannot help: a frame was invalid, not UTF-8, or too large (RFC 6455 section 7.4.1).
_FATAL_CLOSE_CODES = (1002, 1007, 1009)
_PING = json.dumps({"type": "control", "action": "ping"})
Notice = Callable[[Mapping[str, Any]], None]


class RecordOptions(TypedDict, total=False):
    """The options of a recording. All of them are optional.

    Attributes:
        session_id: The session to continue. Without it a new one is opened.
        source: The name of this stream in the session. The default is a random name.
        format: The format of the audio. By default the first bytes decide.
        sample_rate: The sample rate in Hz. By default it is read from the header of the audio.
        channels: 1 or 2. By default they are read from the header of the audio.
        encoding: The encoding of raw PCM.
        chunks: How chunks and files relate.
        user_id: A label of your choice.
        name: The title of a new session.
        metadata: The metadata of a new session.
        project: The project of a new session.
        max_pending_bytes: How many bytes may wait for their acknowledgement. If there are more, `send` waits.
        spool: Whether chunks wait in temporary files instead of in memory.
        give_up_seconds: How long the recorder tries to reconnect; None for ever.
        on_notice: Called with a message of the server about a part that it could not decode.
    """

    session_id: str | None
    source: str | None
    format: Format | None
    sample_rate: int | None
    channels: int | None
    encoding: Encoding | None
    chunks: ChunkMode | None
    user_id: str | None
    name: str | None
    metadata: Mapping[str, str] | None
    project: str | None
    max_pending_bytes: int
    spool: bool
    give_up_seconds: float | None
    on_notice: Notice | None


_QUERY = ("format", "sample_rate", "channels", "encoding", "chunks", "user_id", "name", "project")


class Recorder:
    """One source of a session. Use it as an asynchronous context manager.

    Leaving the block closes the session after all chunks are acknowledged. An exception in the block leaves the session
    open, so that it can be continued until the server's grace period is over.

    Attributes:
        source: The name of this stream in the session.
        session_id: The id of the session. It is empty before the block is entered.
        greeting: The newest first message of the server, which shows the parameters of the session.
        resumed_chunk_count: The chunks of this source that the server had when the block was entered.
        last_error: Why the last connection was lost; None while there is one.
        reconnect_count: How often the connection was lost.
    """

    def __init__(self, transport: Transport, **options: Unpack[RecordOptions]) -> None:
        self.source = options.get("source") or f"python-{uuid.uuid4().hex[:12]}"
        self.session_id = options.get("session_id") or ""
        self.greeting: Mapping[str, Any] = {}
        self.resumed_chunk_count = 0
        self.last_error: Exception | None = None
        self.reconnect_count = 0
        self._transport = transport
        self._parameters = _query_of(options, self.source)
        self._max_pending_bytes = options.get("max_pending_bytes") or MAX_PENDING_BYTES
        self._give_up_seconds = options.get("give_up_seconds", GIVE_UP_SECONDS)
        self._on_notice = options.get("on_notice")
        self._spool: Spool = FileSpool() if options.get("spool") else MemorySpool()
        self._outbox = Outbox()
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._is_paused = False
        self._is_closing = False
        self._is_closed = False
        self._was_closed_elsewhere = False
        # When the trouble began that is not over: no message was answered since.
        self._lost_at: float | None = None
        # Set when there is something to send, and when something was answered.
        self._more = asyncio.Event()
        self._progress = asyncio.Event()

    # The methods for programs.

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ServerError: The server rejected the recording.
            ServerUnreachableError: The server did not answer.
        """
        self._lost_at = time.monotonic()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        try:
            await self._until(lambda: bool(self.greeting))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session, or after an exception leave it open."""
        try:
            if error is None:
                await self.close()
        finally:
            await self._stop()

    @property
    def acknowledged_chunk_count(self) -> int:
        """How many chunks of this source are durable."""
        return self._outbox.acknowledged_chunk_count

    @property
    def acknowledged_bytes(self) -> int:
        """How many bytes of this client are durable."""
        return self._outbox.acknowledged_bytes

    @property
    def pending_bytes(self) -> int:
        """How many bytes wait for their acknowledgement."""
        return self._outbox.pending_bytes

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return bool(self.greeting) and self.last_error is None and not self._is_closed

    async def send(self, chunk: bytes) -> None:
        """Send one chunk. This returns when the chunk waits to be sent, and `flush` when it is durable.

        Raises:
            InvalidRequestError: The chunk is larger than the server allows, or the recorder is paused.
            ScribeError: Recording has ended with this error.
        """
        if self._is_paused:
            raise InvalidRequestError("The recorder is paused, so nothing is sent. Resume it first.", "session_paused")
        limit = int(self.greeting.get("max_message_size_bytes", len(chunk)))
        if len(chunk) > limit:
            sentence = f"A chunk can have at most {limit} bytes, not {len(chunk)}. Send it in pieces."
            raise InvalidRequestError(sentence, "message_too_large", details={"limit": limit})
        self._check_open()
        await self._until(lambda: self.pending_bytes < self._max_pending_bytes)
        if chunk:
            self._outbox.add(ChunkItem(self._spool.put(bytes(chunk))))
            self._more.set()

    async def flush(self) -> None:
        """Wait until everything that was sent is durable."""
        await self._until(lambda: not self._outbox.pending_chunk_count)

    async def pause(self) -> None:
        """Pause the session. Nothing can be sent until it is resumed."""
        self._is_paused = True
        await self._control({"type": "control", "action": "pause"})

    async def resume(self) -> None:
        """Resume the session."""
        await self._control({"type": "control", "action": "resume"})
        self._is_paused = False

    async def marker(self, label: str) -> None:
        """Set a marker after everything that was sent.

        If the connection breaks before the server has answered, the marker is sent again, and may be there twice.

        Raises:
            InvalidRequestError: The label is empty, too long, or has control characters.
            ConflictError: The session has its limit of markers.
        """
        await self._control({"type": "marker", "label": label})

    async def close(self) -> None:
        """Close the session after everything that was sent is durable. Closing it again does nothing.

        Raises:
            IncompleteError: The session was closed before all chunks were stored.
        """
        if self._is_closed and self._failure is None:
            return
        self._is_closing = True
        await self._control({"type": "control", "action": "close_session"})

    # The loop that sends and receives.

    async def _control(self, body: dict[str, Any]) -> None:
        self._check_open()
        item = ControlItem(body, asyncio.get_running_loop().create_future())
        self._outbox.add(item)
        self._more.set()
        await item.answer

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is None:
            raise UsageError("Enter the recorder with `async with` first.")
        if self._was_closed_elsewhere:
            raise _closed_elsewhere()
        if self._is_closed:
            raise UsageError("The recorder is closed.")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._failure is not None:
                raise self._failure
            self._progress.clear()
            await self._progress.wait()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = error
            self._outbox.fail(error if isinstance(error, ScribeError) else ScribeError(str(error)))
        self._progress.set()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._spool.close()

    async def _run(self) -> None:
        while not self._is_closed:
            try:
                await self._connect()
            except (OSError, WebSocketException, TimeoutError) as error:
                await self._lost(_reason(error, self._transport))
            except ServerError as error:
                if not error.is_retryable:
                    raise
                await self._lost(error)

    async def _lost(self, error: Exception) -> None:
        """Wait before the next connection.

        Raises:
            ScribeError: There was no connection for too long.
        """
        now = time.monotonic()
        if self.last_error is None and self.greeting:
            self.reconnect_count += 1
        if self._lost_at is None:
            self._lost_at = now
        self.last_error = error
        self._progress.set()
        patience = self._give_up_seconds if self.greeting else FIRST_GREETING_SECONDS
        delay_seconds = self._backoff.next_seconds(error)
        if patience is not None and now + delay_seconds - self._lost_at > patience:
            raise error
        await asyncio.sleep(delay_seconds)

    async def _connect(self) -> None:
        """Serve one connection to its end."""
        server = self._transport.server
        # A new session has an id only after the first greeting.
        url = server.websocket_url(self.session_id or None, self._parameters)
        proxy: Literal[True] | None = True if self._transport.trust_env else None
        async with connect(
            url,
            additional_headers=server.headers,
            compression=None,
            max_size=None,
            open_timeout=OPEN_TIMEOUT_SECONDS,
            close_timeout=CLOSE_TIMEOUT_SECONDS,
            proxy=proxy,
        ) as socket:
            await self._greet(_message(await asyncio.wait_for(socket.recv(), OPEN_TIMEOUT_SECONDS)))
            if not self._is_closed:
                await self._serve(socket)

    async def _greet(self, greeting: dict[str, Any]) -> None:
        if "error" in greeting:
            error = error_of(greeting)
            if error.code != "session_closed" or not self._is_closing:
                raise error
            await self._confirm()
            return
        stored = int(greeting["source_chunk_count"])
        if self.greeting:
            self._outbox.reconnect(stored)
        else:
            self._outbox.begin(stored)
            self.resumed_chunk_count = stored
        self.session_id = str(greeting["session_id"])
        self.greeting, self.last_error = greeting, None
        self._more.set()
        self._progress.set()

    async def _confirm(self) -> None:
        """Find out whether a session that was closed meanwhile has all chunks.

        The answer to `close_session` may be lost with its connection.

        Raises:
            IncompleteError: It does not, or that is not known.
        """
        session: Session = await self._transport.json("GET", f"/api/audio/sessions/{segment(self.session_id)}")
        others = int(self.greeting["chunk_count"]) - int(self.greeting["source_chunk_count"])
        expected = others + self._outbox.acknowledged_chunk_count + self._outbox.pending_chunk_count
        if session["total_chunks"] != expected:
            raise IncompleteError(self.session_id, self._outbox.pending_chunk_count)
        self._outbox.reconnect(expected - others)
        self._finish_closing()

    def _finish_closing(self) -> None:
        """Note that the session is closed, and that everything that was sent before is done."""
        self._is_closed = True
        while self._outbox.take():
            pass
        while self._outbox.head:
            self._outbox.answered()
        self._progress.set()

    async def _serve(self, socket: ClientConnection) -> None:
        tasks = [asyncio.create_task(self._receive_all(socket)), asyncio.create_task(self._send_all(socket))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _send_all(self, socket: ClientConnection) -> None:
        """Send what there is until the session is closed or the connection has ended, which the receiver reports."""
        silence = min(LONGEST_SILENCE_SECONDS, float(self.greeting["connection_timeout_seconds"]) / 3)
        try:
            while True:
                while item := self._outbox.take():
                    await socket.send(item.message())
                    if isinstance(item, ControlItem) and item.is_close:
                        return
                self._more.clear()
                try:
                    await asyncio.wait_for(self._more.wait(), silence)
                except TimeoutError:
                    await socket.send(_PING)
        except ConnectionClosed:
            return

    async def _receive_all(self, socket: ClientConnection) -> None:
        while not self._is_closed:
            self._take(_message(await socket.recv()))

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._reject(error_of(message))
        elif "event" in message:
            if self._on_notice is not None:
                self._on_notice(message)
        elif message["status"] == "completed":
            self._closed()
        else:
            if message["message"] != "pong":
                self._outbox.answered()
            self._lost_at = None
            self._backoff.reset()
            self._progress.set()

    def _reject(self, error: ServerError) -> None:
        head = self._outbox.head
        if isinstance(head, ControlItem) and head.is_marker and error.code in _MARKER_CODES:
            self._outbox.remove_head()
            head.fail(error)
            return
        raise error

    def _closed(self) -> None:
        head = self._outbox.head
        if not isinstance(head, ControlItem) or not head.is_close:
            self._was_closed_elsewhere = True
            if self._outbox.pending_chunk_count:
                raise IncompleteError(self.session_id, self._outbox.pending_chunk_count)
            self._outbox.fail(_closed_elsewhere(), but_close=True)
        self._finish_closing()


def _closed_elsewhere() -> ConflictError:
    return ConflictError("The session was closed elsewhere.", "session_closed")


def _query_of(options: RecordOptions, source: str) -> dict[str, str]:
    values: Mapping[str, Any] = options
    named = {name: str(values[name]) for name in _QUERY if values.get(name) is not None}
    metadata = {f"metadata.{key}": text for key, text in (options.get("metadata") or {}).items()}
    return {**named, "source": source, **metadata}


def _message(text: str | bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(text)
    return message


def _reason(error: Exception, transport: Transport) -> Exception:
    """Return a loss of the connection as an error of this client.

    Raises:
        ScribeError: Another connection cannot help.
    """
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        sentence = f"The server {transport.server.url} rejected the connection with {status}."
        if status < 500:
            raise NotAllowedError(
                f"{sentence} Check its address, ALLOWED_HOSTS and ALLOWED_ORIGINS.", "handshake_rejected"
            )
        return ServerUnreachableError(sentence)
    if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code in _FATAL_CLOSE_CODES:
        raise InvalidRequestError(f"The server rejected a message: {error}.", "message_rejected")
    if isinstance(error, InvalidHandshake):
        return ServerUnreachableError(f"The answer of {transport.server.url} is not that of a SercueScribe: {error}.")
    return unreachable_of(transport.server, error)
