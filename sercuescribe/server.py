"""The process of the web server: uvicorn, which acknowledges all chunks in flight before it closes its connections.

    python -m sercuescribe.server --host 127.0.0.1 --port 8000
    python -m sercuescribe.server --workers 4              # as many processes on one socket, under a supervisor
    python -m sercuescribe.server --fd 3 --ready-fd 4      # as a supervisor starts it

The original uvicorn closes every socket first and notifies the application afterwards. This server stops in another
order. It accepts no new connections. Then each open connection commits the chunks in flight, acknowledges them and
closes with 1012. The original shutdown comes last.
"""

import argparse
import asyncio
import fcntl
import functools
import gc
import importlib
import logging
import os
import resource
import socket
import struct
import sys
import termios
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import django
import structlog
import uvicorn
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, SystemCheckError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidHeader
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from audio.management import installation, readiness, web
from audio.management.supervisor import StartFailedError, Supervisor, listen
from audio.wire.frames import EXTENSION

logger = structlog.stdlib.get_logger("sercuescribe.server")

Hook = Callable[[], Awaitable[None]]

START_SECONDS = 90.0
# After a kill -9 the kernel needs a moment to end the processes that hold the port.
PATIENCE_SECONDS = 2.0
DRAIN_SECONDS = 6.0
# A client gets this long to answer the close frame. If the socket were closed earlier, while data is still arriving,
# TCP could discard the last acknowledgements.
CLOSING_HANDSHAKE_SECONDS = 2.0
REQUEST_SECONDS = 2
# A client that is silent for PING_INTERVAL_SECONDS is pinged. If it does not answer within PONG_SECONDS, it is
# considered gone.
PING_INTERVAL_SECONDS = 10.0
PONG_SECONDS = 10.0
# The limit from a connection, or from the end of the last request on it, to the end of the next request.
REQUEST_RECEIPT_SECONDS = 20.0
# The maximum number of incomplete requests, and their maximum share of the descriptors of the process.
MAX_UNFINISHED_REQUESTS = 1024
UNFINISHED_SHARE = 0.25
UPGRADES_PER_TURN = 4
POLL_SECONDS = 0.02
# How long the last messages may wait in memory for a client that reads slowly.
LAST_BYTES_SECONDS = 30.0
MAX_FRAMES = 16384
# The files have the names of Prometheus' client, and several times the size that the instruments need.
METRICS_FILES = ("counter", "histogram", "gauge_livesum")
METRICS_FILE_BYTES = 256 * 1024


class Handshakes(ServerProtocol):
    """The protocol of the websockets library, which repeats no header in the rejection of a handshake.

    The header Sec-WebSocket-Protocol may contain a token.
    """

    def reject(self, status: StatusLike, text: str) -> Response:
        """Return the rejection of a handshake. It names the invalid header."""
        if isinstance(self.handshake_exc, InvalidHeader):
            text = f"The WebSocket was not opened: the header {self.handshake_exc.name} is missing or invalid.\n"
        return super().reject(status, text)


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with limits that the original does not have.

    They limit the answers to pings, the frames of one message, and the time that a client may take to read the last
    bytes after the application has ended. An unreadable handshake is answered. A network may lose a client without
    notice, so a client that neither sends nor answers a ping is disconnected.
    """

    # The extension `audio.wire.frames`.
    take_binary: Callable[[bytes], bool] | None = None

    _late_pong = b""
    _last_bytes: asyncio.TimerHandle | None = None
    _heard_at = 0.0
    _unsent_bytes = 0

    def __init__(self, *of_uvicorn: Any, **named: Any) -> None:
        super().__init__(*of_uvicorn, **named)
        self.conn = Handshakes(max_size=self.config.ws_max_size, logger=self.logger)

    def handle_connect(self, event: Request) -> None:
        """Start the application for a handshake, and offer the extension to it."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self

    def handle_bytes(self, event: Frame) -> None:
        """Pass a message to the application directly, or else by the queue of ASGI."""
        take = self.take_binary
        if take is None or not event.fin or self.close_sent or not self.queue.empty() or not take(bytes(event.data)):
            super().handle_bytes(event)

    @property
    def is_writable(self) -> bool:
        """Whether frames can be sent now: the connection is open, and the client reads."""
        return self.writable.is_set() and not (self.close_sent or self.disconnected) and self.conn.state is State.OPEN

    def write_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames that the application has prepared."""
        self.transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        """Process received bytes. If they are an unreadable handshake, its rejection (414, 431) is sent."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def run_asgi(self) -> None:
        """Run the application, then close the connection. A client that reads nothing is disconnected at once."""
        await super().run_asgi()
        if not self.close_sent and not self.writable.is_set():
            self.transport.abort()
        elif not self.disconnected:
            self._last_bytes = self.loop.call_later(LAST_BYTES_SECONDS, self.transport.abort)

    def send_keepalive_ping(self) -> None:
        """Ping the client if it has been silent for PING_INTERVAL_SECONDS."""
        due = self._heard_at + PING_INTERVAL_SECONDS
        if self.loop.time() < due:
            self.ping_timer = self.loop.call_at(due, self.send_keepalive_ping)
        else:
            super().send_keepalive_ping()
            self._unsent_bytes = self._count_unsent()

    def keepalive_timeout(self) -> None:
        """Disconnect a client that has not answered a ping, unless there is another sign of life.

        An answer may wait behind messages that the server does not read at the moment. It may also come after messages
        that a slow client is still reading, whose number of bytes then shrinks.
        """
        # The event loop's clock counts milliseconds, and a near client answers within the same one. Nothing older can
        # have the same time, because only a silent client is pinged.
        was_heard = self._heard_at >= self.ping_sent_at
        if was_heard or self.read_paused or self._count_unsent() < self._unsent_bytes:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
        elif not (self.close_sent or self.transport.is_closing()):
            super().keepalive_timeout()
            self.disconnected = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
            self._last_bytes = self.loop.call_later(LAST_BYTES_SECONDS, self.transport.abort)

    def _count_unsent(self) -> int:
        """Return how many bytes the client has not received yet, in the process and in the kernel."""
        handle = self.transport.get_extra_info("socket").fileno()
        (in_kernel,) = struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))
        return self.transport.get_write_buffer_size() + int(in_kernel)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the socket was closed."""
        if self._last_bytes is not None:
            self._last_bytes.cancel()
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        """Answer a ping. While the client does not read, keep only the newest answer (RFC 6455 section 5.5.3).

        If several pings came at once, the first call sends the answers to all of them.
        """
        answers = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(answers))
        elif answers:
            self._late_pong = answers[-1]

    def resume_writing(self) -> None:
        """Send the kept answer when the client reads again."""
        pong, self._late_pong = self._late_pong, b""
        super().resume_writing()
        if pong and not self.close_sent:
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        """Add a frame to a message, and limit the number of frames. Empty frames never reach the limit on the size."""
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAMES:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAMES} frames")
            self.handle_parser_exception()
            return
        super().handle_cont(event)


class UnfinishedRequests:
    """The connections of a process that wait for the rest of a request, the longest waiting first.

    Without a limit, clients that send nothing, or never finish, could use up all descriptors and lock out everybody
    else.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[HttpProtocol, None] = {}

    def add(self, connection: "HttpProtocol") -> None:
        """Add a connection. If there are too many, close the one that has waited longest."""
        self._connections[connection] = None
        if len(self._connections) > self._limit:
            next(iter(self._connections)).give_up()

    def discard(self, connection: "HttpProtocol") -> None:
        """Remove a connection."""
        self._connections.pop(connection, None)


class Upgrades:
    """The WebSocket handshakes of a process, a few in each turn of the event loop.

    A handshake costs many times as much as a chunk. The requests of a crowd arrive in one turn, so that without a limit
    the chunks of all others would wait for all of its handshakes.
    """

    def __init__(self) -> None:
        self._waiting: deque[HttpProtocol] = deque()

    def add(self, connection: "HttpProtocol") -> None:
        """Let a connection wait for its turn."""
        if not self._waiting:
            connection.loop.call_soon(self._take, connection.loop)
        self._waiting.append(connection)

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(UPGRADES_PER_TURN, len(self._waiting))):
            self._waiting.popleft().upgrade()
        if self._waiting:
            loop.call_soon(self._take, loop)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on requests that have not arrived completely.

    The limits are on the time that such a request takes, and on the number of such requests.
    """

    def __init__(self, unfinished: UnfinishedRequests, upgrades: Upgrades, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._unfinished = unfinished
        self._upgrades = upgrades
        self._receipt: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Expect a request from a new client."""
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Process received bytes. While a request is being answered, the next one has no time limit yet."""
        if self.cycle is None or self.cycle.response_complete:
            self._expect_request()
        super().data_received(data)

    def on_message_complete(self) -> None:
        """End the time limit with the last byte of a request."""
        self._forget_request()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Wait for a turn to upgrade. The time limit ends, because the WebSocket protocol has limits of its own."""
        self._forget_request()
        self.transport.pause_reading()
        self._upgrades.add(self)

    def upgrade(self) -> None:
        """Continue with the WebSocket protocol."""
        if not self.transport.is_closing():
            super().handle_websocket_upgrade()
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the socket was closed."""
        self._forget_request()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close the connection of a client that does not finish its request."""
        self._forget_request()
        self.transport.abort()

    def _expect_request(self) -> None:
        if self._receipt is None:
            self._receipt = self.loop.call_later(REQUEST_RECEIPT_SECONDS, self.give_up)
            self._unfinished.add(self)

    def _forget_request(self) -> None:
        if self._receipt is not None:
            self._receipt.cancel()
            self._receipt = None
            self._unfinished.discard(self)


def http_protocol() -> Any:
    """Return a factory of HTTP protocols, with a limit that fits the process's maximum of open files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(MAX_UNFINISHED_REQUESTS, int(UNFINISHED_SHARE * descriptors))
    return functools.partial(HttpProtocol, UnfinishedRequests(limit), Upgrades())


class Server(uvicorn.Server):
    """A uvicorn server that calls `start` before it accepts connections, and `drain` before it closes them.

    If `ready_fd` is given, a line is written to it as soon as connections are accepted, and it is closed.
    """

    def __init__(self, config: uvicorn.Config, start: Hook, drain: Hook, ready_fd: int | None = None) -> None:
        super().__init__(config)
        self._start = start
        self._drain = drain
        self._ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Prepare the application, listen, and report readiness."""
        await self._start()
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                # A supervisor logs this once for all of its web servers.
                level = logging.INFO if self._ready_fd is None else logging.DEBUG
                logger.log(level, "server_listening", address=_address(listening))
        _report_ready(self._ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain the open connections, then shut down like uvicorn."""
        for server in self.servers:
            server.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drain()
        except TimeoutError:
            logger.error("drain_timed_out", seconds=DRAIN_SECONDS)
        await self._closing_handshakes()
        await super().shutdown(sockets)
        logger.info("server_stopped")

    async def _closing_handshakes(self) -> None:
        deadline = asyncio.get_running_loop().time() + CLOSING_HANDSHAKE_SECONDS
        # uvicorn has no event for the end of a connection.
        while self._is_closing_websockets() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _is_closing_websockets(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(each, WebSocketsSansIOProtocol) and each.close_sent for each in connections)


def _address(listening: socket.socket) -> str:
    return "{}:{}".format(*listening.getsockname()[:2])


def config() -> uvicorn.Config:
    """Return the configuration of the server, without its socket."""
    return uvicorn.Config(
        "sercuescribe.asgi:application",
        loop="uvloop",
        http=http_protocol(),
        ws=Protocol,
        ws_max_size=settings.MAX_MESSAGE_SIZE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_SECONDS,
        proxy_headers=False,  # `sercuescribe.proxies` handles them under every server
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sercuescribe.server", description="SercueScribe's web server.")
    parser.add_argument("--host", help="address to listen on (default: HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (default: PORT)")
    parser.add_argument("--workers", type=_count, help="processes that serve (default: WEB_PROCESSES)")
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited, instead of host and port")
    parser.add_argument("--ready-fd", type=int, help="descriptor to report to when connections are accepted")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError
    return count


def _report_ready(descriptor: int | None) -> None:
    """Report readiness to the supervisor through its descriptor, or else to systemd."""
    if descriptor is None:
        readiness.tell()
    else:
        os.write(descriptor, b"ready\n")
        os.close(descriptor)


def _serve(listener: socket.socket, ready_fd: int | None) -> None:
    """Serve with this process alone."""
    from audio import consumers  # models load only after Django is set up
    from sercuescribe import asgi

    # The URLs are loaded now, because loading them at the first request would delay the chunks of all clients.
    importlib.import_module(settings.ROOT_URLCONF)
    # Whitenoise answers so, and its files are small. Operators can do nothing about it.
    warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
    # Loaded modules are never freed, so the garbage collector need not scan them again.
    gc.collect()
    gc.freeze()

    async def drain() -> None:
        await asgi.event_streams.drain()
        await consumers.drain()

    server = Server(config(), start=consumers.start, drain=drain, ready_fd=ready_fd)
    server.run(sockets=[listener])


def _supervise(listener: socket.socket, workers: int, ready_fd: int | None) -> None:
    """Serve with several child processes. If they don't start, exit with a sentence.

    uvicorn's own supervisor leaves its children behind when it is killed, and looks for dead ones twice a second.
    """
    from audio import metrics  # models load only after Django is set up

    metrics.begin_anew(settings.METRICS_DIR)
    with Supervisor() as supervisor:
        try:
            supervisor.start(*web.programs(listener, workers), within_seconds=START_SECONDS)
        except StartFailedError as error:
            sys.exit(str(error))
        if not supervisor.stopping:
            logger.info("server_listening", address=_address(listener), processes=workers)
            _report_ready(ready_fd)
            supervisor.run()
        # No process accepts any more. A closed socket rejects new clients at once, instead of letting them wait.
        listener.close()
    logger.info("server_stopped")


def _listener(options: argparse.Namespace) -> socket.socket:
    """Return the inherited socket, or a new one. If there can't be one, exit with a sentence."""
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    from audio import checks  # as above
    from audio.management import first_steps

    host = settings.HOST if options.host is None else options.host
    port = settings.PORT if options.port is None else options.port
    if fault := first_steps.fault(host):
        sys.exit(fault)
    try:
        BaseCommand().check(tags=[checks.START])  # a parent process has run them if it passes a socket
        return listen(host, port, PATIENCE_SECONDS)
    except SystemCheckError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"Can't listen on {host} port {port}: {error.strerror or error}. Set HOST or PORT to a free one.")


def _share_numbers() -> OSError | None:
    """Set the folder of `audio.metrics` for Prometheus' client, which reads it when it is imported.

    The client maps sparse files into memory. A write to one for which the disk has no room kills the process (SIGBUS),
    so the files are filled first.

    Returns:
        The error, if that failed. The process then keeps its numbers to itself.
    """
    paths = [settings.METRICS_DIR / f"{kind}_{os.getpid()}.db" for kind in METRICS_FILES]
    try:
        settings.METRICS_DIR.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_bytes(bytes(METRICS_FILE_BYTES))
    except OSError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        return error
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.METRICS_DIR)
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _options(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
    try:
        installation.keep_secret_key()
    except ImproperlyConfigured as error:
        sys.exit(f"SercueScribe can't start: {error}")
    workers = settings.WEB_PROCESSES if options.workers is None else options.workers
    unshared = _share_numbers() if workers == 1 else None
    django.setup()
    if unshared is not None:
        logger.warning("metrics_not_shared", error=str(unshared))
    if workers == 1:
        _serve(_listener(options), options.ready_fd)
    else:
        _supervise(_listener(options), workers, options.ready_fd)


if __name__ == "__main__":
    main()
