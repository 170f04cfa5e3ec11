"""The web server's process: uvicorn, with recordings settled before it lets connections go.

    python -m sercuescribe.server --host 127.0.0.1 --port 8000
    python -m sercuescribe.server --fd 3 --ready-fd 4      # as `manage.py serve` starts it

Stock uvicorn closes every socket first and tells the application afterwards. Here a stop runs the other way round:
no new connections, then every open one commits what is in flight, acknowledges it and closes with 1012, and then
the stock shutdown.
"""

import argparse
import asyncio
import gc
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import django
import uvicorn
from django.conf import settings
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

logger = logging.getLogger(__name__)

Hook = Callable[[], Awaitable[None]]

DRAIN_SECONDS = 6.0
# A client gets this long to answer the close frame; closing the socket on it earlier could cost it the last
# acknowledgements, which TCP throws away when data that nobody read is still coming in.
CLOSING_HANDSHAKE_SECONDS = 2.0
REQUEST_SECONDS = 2
PING_INTERVAL_SECONDS = 20.0
POLL_SECONDS = 0.02
MAX_FRAMES = 16384


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with bounds where the stock one has none: answers to pings, and frames of one message."""

    _late_pong = b""

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
                logger.info("listening on %s", listening.getsockname())
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"ready\n")
            os.close(self._ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, settles the open connections, then does what uvicorn does."""
        for server in self.servers:
            server.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drain()
        except TimeoutError:
            logger.error("connections did not settle within %.0f s; what they had in flight is lost", DRAIN_SECONDS)
        await self._closing_handshakes()
        await super().shutdown(sockets)
        logger.info("stopped")

    async def _closing_handshakes(self) -> None:
        deadline = asyncio.get_running_loop().time() + CLOSING_HANDSHAKE_SECONDS
        # uvicorn tells nobody when a connection ends.
        while self._is_closing_websockets() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def _is_closing_websockets(self) -> bool:
        connections = self.server_state.connections
        return any(isinstance(each, WebSocketsSansIOProtocol) and each.close_sent for each in connections)


def config(host: str, port: int) -> uvicorn.Config:
    """The settings of the server; `host` and `port` don't matter to one that inherits its socket."""
    return uvicorn.Config(
        "sercuescribe.asgi:application",
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws=Protocol,
        ws_max_size=settings.MAX_MESSAGE_SIZE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_SECONDS,
        # A late pong is no sign of death: a client that reads nothing for a while sends none, and while we read
        # nothing from it we see none. Idle connections are closed by the consumer.
        ws_ping_timeout=None,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_SECONDS,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sercuescribe.server", description="SercueScribe's web server.")
    parser.add_argument("--host", help="address to listen on (default: HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (default: PORT)")
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited, instead of host and port")
    parser.add_argument("--ready-fd", type=int, help="descriptor to report to when connections are accepted")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT."""
    options = _options(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
    django.setup()
    from audio import consumers  # models load only after Django is set up

    host = settings.HOST if options.host is None else options.host
    port = settings.PORT if options.port is None else options.port
    # What is loaded by now stays: the collector need not look at it again with every generation.
    gc.collect()
    gc.freeze()
    server = Server(config(host, port), start=consumers.start, drain=consumers.drain, ready_fd=options.ready_fd)
    server.run(sockets=None if options.fd is None else [socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()
