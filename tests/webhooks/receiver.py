"""An endpoint of webhooks: a real HTTP server, which verifies signatures and behaves as a test tells it."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def succeeding(behave: Behaviour) -> Behaviour:
    """Marks a behaviour that answers with 2xx."""
    behave.is_success = True  # type: ignore[attr-defined]
    return behave


def answer(status: int, body: bytes = b"thank you", **headers: str) -> Behaviour:
    """Answers with a status, and with headers whose names have _ for -."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return succeeding(behave) if 200 <= status < 300 else behave


class Server(ThreadingHTTPServer):
    """A server that takes a crowd: with the library's queue of five the kernel resets connections."""

    daemon_threads = True
    request_queue_size = 128


class Receiver:
    """Listens on a port of this machine. The first requests get the answers in `script`, and all others 204.

    With `tls` it speaks HTTPS.
    """

    def __init__(self, *script: Behaviour, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script = list(script)
        self.secrets: list[str] = []
        # Whatever came, verified or not, as (id, event, headers).
        self.received: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        # The ids of the events that were answered with 2xx.
        self.taken: list[str] = []
        self.errors: list[str] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            do_GET = do_POST  # noqa: N815 - the name is the library's

            def log_message(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        verified = [self.verified(secret, body, headers) for secret in self.secrets]
        event = next((each for each in verified if each is not None), None)
        with self._lock:
            behave = self.script.pop(0) if self.script else answer(204, b"")
            if event is None:
                self.errors.append(f"{handler.command} {handler.path} {body!r}")
            else:
                self.received.append((headers["webhook-id"], event, headers))
                if getattr(behave, "is_success", False):
                    self.taken.append(headers["webhook-id"])
        behave(handler)

    @staticmethod
    def verified(secret: str, body: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        try:
            return Webhook(secret).verify(body, headers)
        except WebhookVerificationError:
            return None

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """A behaviour: answers nothing until the test is over."""
        self.released.wait(120)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
