"""The web server's process: uvicorn, with recordings settled before it lets connections go.

    python -m sercuescribe.server --host 127.0.0.1 --port 8000
    python -m sercuescribe.server --workers 4              # as many processes on one socket, under a supervisor
    python -m sercuescribe.server --fd 3 --ready-fd 4      # as a supervisor starts it

Stock uvicorn closes every socket first and tells the application afterwards. Here a stop runs the other way round:
no new connections, then every open one commits what is in flight, acknowledges it and closes with 1012, and then
the stock shutdown.
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
from websockets.frames import CloseCode, Frame

from audio.management import installation, readiness, web
from audio.management.supervisor import StartFailed, Supervisor, listen

logger = structlog.stdlib.get_logger("sercuescribe.server")

Hook = Callable[[], Awaitable[None]]

START_SECONDS = 90.0
# After a kill -9 the kernel needs a moment to end the processes that hold the port.
PATIENCE_SECONDS = 2.0
DRAIN_SECONDS = 6.0
# A client gets this long to answer the close frame; closing the socket on it earlier could cost it the last
# acknowledgements, which TCP throws away when data that nobody read is still coming in.
CLOSING_HANDSHAKE_SECONDS = 2.0
REQUEST_SECONDS = 2
# A client that says nothing for so long is pinged, and is taken for gone if it leaves that unanswered for so long.
PING_INTERVAL_SECONDS = 10.0
PONG_SECONDS = 10.0
# From a connection, or from the end of the last request on it, to the end of the next one.
REQUEST_RECEIPT_SECONDS = 20.0
# Requests that are not whole yet may be so many, and take that part of the files that the process may open.
MAX_UNFINISHED_REQUESTS = 1024
UNFINISHED_SHARE = 0.25
POLL_SECONDS = 0.02
# How long the last answers may wait in our memory for a client that takes them slowly.
LAST_BYTES_SECONDS = 30.0
MAX_FRAMES = 16384
# As Prometheus' client names them; several times what our instruments take.
METRICS_FILES = ("counter", "histogram", "gauge_livesum")
METRICS_FILE_BYTES = 256 * 1024


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with bounds where the stock one has none.

    They are on the answers to pings, on the frames of one message, and on the time that a connection has to take
    its last bytes once the application is done with it. A handshake that can't be read is answered. And the network
    may lose a client without a word: one that neither sends nor answers a ping is given up.
    """

    _late_pong = b""
    _last_bytes: asyncio.TimerHandle | None = None
    _heard_at = 0.0
    _unsent_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take what came; of a handshake that can't be read, the refusal (414, 431) waits to be sent."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def run_asgi(self) -> None:
        """Runs the application. A client that it gave up, because it reads nothing, is not waited for."""
        await super().run_asgi()
        if not self.close_sent and not self.writable.is_set():
            self.transport.abort()
        elif not self.disconnected:
            self._last_bytes = self.loop.call_later(LAST_BYTES_SECONDS, self.transport.abort)

    def send_keepalive_ping(self) -> None:
        """Ping a client that has said nothing for PING_INTERVAL_SECONDS; one that sends needs no ping."""
        due = self._heard_at + PING_INTERVAL_SECONDS
        if self.loop.time() < due:
            self.ping_timer = self.loop.call_at(due, self.send_keepalive_ping)
        else:
            super().send_keepalive_ping()
            self._unsent_bytes = self._count_unsent()

    def keepalive_timeout(self) -> None:
        """Give up a client that has not answered, unless it can't have or shows in another way that it lives.

        Its answer waits behind what we do not read for now. And it comes behind what a slow reader has not taken yet,
        which gets less.
        """
        was_heard = self._heard_at > self.ping_sent_at
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
        """Return how many bytes the client has not taken yet, here and in the kernel."""
        handle = self.transport.get_extra_info("socket").fileno()
        (in_kernel,) = struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))
        return self.transport.get_write_buffer_size() + int(in_kernel)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self._last_bytes is not None:
            self._last_bytes.cancel()
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        """Answers, or while the client reads nothing keeps the newest answer only (RFC 6455 section 5.5.3).

        With the first of several pings that came together, the answers to all of them are there to be sent.
        """
        answers = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(answers))
        elif answers:
            self._late_pong = answers[-1]

    def resume_writing(self) -> None:
        """The client reads again."""
        pong, self._late_pong = self._late_pong, b""
        super().resume_writing()
        if pong and not self.close_sent:
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        """Takes one more frame of a message; empty ones would never reach the limit on its size."""
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAMES:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAMES} frames")
            self.handle_parser_exception()
            return
        super().handle_cont(event)


class UnfinishedRequests:
    """The connections of a process whose next request is not whole yet, those that wait for longest first.

    Without a bound, clients that say nothing, or never finish, would take every descriptor and shut out all others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[HttpProtocol, None] = {}

    def add(self, connection: "HttpProtocol") -> None:
        """Count a connection; close the one that has waited longest if there are too many."""
        self._connections[connection] = None
        if len(self._connections) > self._limit:
            next(iter(self._connections)).give_up()

    def discard(self, connection: "HttpProtocol") -> None:
        """Count a connection no more."""
        self._connections.pop(connection, None)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, with a bound on the time that a request takes to arrive, and on how many are on their way."""

    def __init__(self, unfinished: UnfinishedRequests, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._unfinished = unfinished
        self._receipt: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """A client has connected."""
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Take some of a request. While one is answered the next one is not waited for yet."""
        if self.cycle is None or self.cycle.response_complete:
            self._expect_request()
        super().data_received(data)

    def on_message_complete(self) -> None:
        """The last byte of a request has come."""
        self._forget_request()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """The socket gets another protocol, with bounds of its own."""
        self._forget_request()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._forget_request()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close the socket of a client that does not finish its request."""
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
    """Return what makes the protocol of a connection, with the bound that the process's open files allow."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(MAX_UNFINISHED_REQUESTS, int(UNFINISHED_SHARE * descriptors))
    return functools.partial(HttpProtocol, UnfinishedRequests(limit))


class Server(uvicorn.Server):
    """uvicorn that runs `start` before it accepts and `drain` before it closes.

    `ready_fd`, when given, gets one line as soon as connections are accepted, and is closed.
    """

    def __init__(self, config: uvicorn.Config, start: Hook, drain: Hook, ready_fd: int | None = None) -> None:
        super().__init__(config)
        self._start = start
        self._drain = drain
        self._ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Prepares the application, listens, and reports it."""
        await self._start()
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                # A supervisor says it for all of its web servers.
                level = logging.INFO if self._ready_fd is None else logging.DEBUG
                logger.log(level, "server_listening", address=_address(listening))
        _report_ready(self._ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, settles the open connections, then does what uvicorn does."""
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
        # uvicorn tells nobody when a connection ends.
        while self._is_closing_websockets() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _is_closing_websockets(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(each, WebSocketsSansIOProtocol) and each.close_sent for each in connections)


def _address(listening: socket.socket) -> str:
    return "{}:{}".format(*listening.getsockname()[:2])


def config() -> uvicorn.Config:
    """The settings of the server, which gets its socket from its caller."""
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
        proxy_headers=False,  # `sercuescribe.proxies` looks at them, under every server
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
    """Tell whoever started this process: a supervisor by its descriptor, else systemd if it was that."""
    if descriptor is None:
        readiness.tell()
    else:
        os.write(descriptor, b"ready\n")
        os.close(descriptor)


def _serve(listener: socket.socket, ready_fd: int | None) -> None:
    """Serves with this process."""
    from audio import consumers  # models load only after Django is set up

    # The paths are loaded before the first request, which would hold up the chunks of all clients meanwhile.
    importlib.import_module(settings.ROOT_URLCONF)
    # What is loaded by now stays: the collector need not look at it again with every generation.
    gc.collect()
    gc.freeze()
    server = Server(config(), start=consumers.start, drain=consumers.drain, ready_fd=ready_fd)
    server.run(sockets=[listener])


def _supervise(listener: socket.socket, workers: int, ready_fd: int | None) -> None:
    """Serves with several processes below this one; ends the process with a sentence when they don't start.

    uvicorn's own supervisor would leave them behind when it is killed, and looks for dead ones twice a second.
    """
    from audio import metrics  # models load only after Django is set up

    metrics.begin_anew(settings.METRICS_DIR)
    with Supervisor() as supervisor:
        try:
            supervisor.start(*web.programs(listener, workers), within_seconds=START_SECONDS)
        except StartFailed as error:
            sys.exit(str(error))
        if not supervisor.stopping:
            logger.info("server_listening", address=_address(listener), processes=workers)
            _report_ready(ready_fd)
            supervisor.run()
        # Nobody accepts any more: new clients are told so at once instead of waiting in the queue.
        listener.close()
    logger.info("server_stopped")


def _listener(options: argparse.Namespace) -> socket.socket:
    """The socket that was handed down, else one of our own; ends the process with a sentence if there can't be one."""
    if options.fd is not None:
        return socket.socket(fileno=options.fd)
    from audio import checks  # as above

    host = settings.HOST if options.host is None else options.host
    port = settings.PORT if options.port is None else options.port
    try:
        BaseCommand().check(tags=[checks.START])  # whoever hands a socket down has done so
        return listen(host, port, PATIENCE_SECONDS)
    except SystemCheckError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"Can't listen on {host} port {port}: {error.strerror or error}. Set HOST or PORT to a free one.")


def _share_numbers() -> OSError | None:
    """Name the folder of `audio.metrics` to Prometheus' client, which looks for it when it is loaded.

    The client maps sparse files into memory, and a write to one that the disk has no room for kills the process
    (SIGBUS). So the files are filled first.

    Returns:
        Why that can't be done: the process then keeps its numbers to itself.
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
    """Serves until SIGTERM or SIGINT."""
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
