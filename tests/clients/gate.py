"""A network that is away for a while: a TCP proxy that a test closes and opens."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_BLOCK_BYTES = 65536


class Gate:
    """Forwards to the server at `url`, as long as it is open. It has the same address all the time."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_open = True
        self._is_silent = False
        self._loses_answers = False
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut every connection, and let none through."""
        with self._lock:
            self._is_open = False
            self._cut()

    def silence(self) -> None:
        """Lose everything that is sent, and tell nobody."""
        self._is_silent = True

    def lose_answers(self) -> None:
        """Lose everything that the server sends, and pass on what the clients send."""
        self._loses_answers = True

    def open(self) -> None:
        """Let connections through again. Those that were silent are dead."""
        with self._lock:
            if self._is_silent or self._loses_answers:
                self._cut()
            self._is_open, self._is_silent, self._loses_answers = True, False, False

    def end(self) -> None:
        """Stop listening."""
        self.close()
        self._listener.close()

    def _cut(self) -> None:
        for end in self._ends:
            # With a reset, as after the restart of a router.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    far = self._connected() if self._is_open else None
                    if far is None:
                        near.close()
                        continue
                    self._ends |= {near, far}
                for source, target, is_answer in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=(source, target, is_answer), daemon=True).start()

    def _connected(self) -> socket.socket | None:
        try:
            return socket.create_connection((str(self._target.hostname), self._target.port or 80))
        except OSError:
            return None

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK_BYTES):
                # Lost blocks are told to nobody, as if a cable had been pulled.
                if not (self._is_silent or (is_answer and self._loses_answers)):
                    target.sendall(block)
        with self._lock:
            self._ends -= {source, target}
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def gate(url: str) -> Iterator[Gate]:
    """Run a gate on a free port of the loopback address."""
    running = Gate(url)
    try:
        yield running
    finally:
        running.end()
