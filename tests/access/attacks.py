"""What attackers present: secrets that are nearly right, in all places, and requests that no library would send."""

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hypothesis import strategies as st

from tests.server import DEADLINE_SECONDS, Server

KEY_OF_HANDSHAKE = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
# Bytes that end a header would only make another request of it.
HEADER_BYTES = st.binary(max_size=60).map(lambda text: bytes(byte for byte in text if byte not in b"\r\n\0"))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@dataclass(frozen=True)
class Answer:
    """What a server has answered to raw bytes: of a WebSocket, the first message and the close code too."""

    status: int
    head: bytes
    body: bytes
    message: Mapping[str, Any] | None = None
    close_code: int | None = None


def mangled(secrets: list[str]) -> st.SearchStrategy[bytes]:
    """Texts that are nearly one of the secrets, or that are none at all."""
    secret = st.sampled_from([text.encode() for text in secrets])
    other = st.sampled_from([text.encode() for text in secrets])
    return st.one_of(
        HEADER_BYTES,
        st.tuples(secret, st.integers(0, 60)).map(lambda drawn: drawn[0][: drawn[1]]),
        st.tuples(secret, HEADER_BYTES).map(lambda drawn: drawn[0] + b"=" + drawn[1]),
        st.tuples(secret, st.integers(0, 60), st.integers(0, 127)).map(_with_another_character),
        st.tuples(secret, other).map(lambda drawn: drawn[0][:25] + drawn[1][25:][::-1]),
        secret.map(lambda text: text.swapcase()),
        secret.map(lambda text: b"%" + text.hex().encode()),
        secret.map(lambda text: text + b", " + text),
        secret.map(lambda text: text * 200),
    )


def _with_another_character(drawn: tuple[bytes, int, int]) -> bytes:
    text, place, character = drawn
    if character in b"\r\n\0" or text[place : place + 1] == bytes([character]):
        character = ord("!")
    return text[:place] + bytes([character]) + text[place + 1 :]


def ask(server: Server, request: bytes) -> Answer:
    """Sends raw bytes, and returns the answer."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), DEADLINE_SECONDS) as client:
        client.sendall(request)
        with client.makefile("rb") as stream:
            head = b""
            while (line := stream.readline()) not in (b"\r\n", b""):
                head += line
            status = int(head.split()[1])
            if status != 101:
                return Answer(status, head, stream.read())
            message = json.loads(_frame(stream)[1])
            if "error" not in message:
                return Answer(status, head, b"", message)
            opcode, payload = _frame(stream)
            assert opcode == 8
            return Answer(status, head, b"", message, struct.unpack("!H", payload[:2])[0])


def _frame(stream: Any) -> tuple[int, bytes]:
    """One frame of a server (RFC 6455 section 5.2), which is never masked: its opcode and its payload."""
    first, length = stream.read(2)
    if length == 126:
        (length,) = struct.unpack("!H", stream.read(2))
    return first & 15, stream.read(length)


def get(path: bytes, *headers: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    """A request over HTTP, as bytes."""
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    if body:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


def handshake(path: bytes, *headers: bytes) -> bytes:
    """The handshake of a WebSocket, as bytes."""
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket"]
    return b"\r\n".join([*lines, *headers, b"Sec-WebSocket-Version: 13", KEY_OF_HANDSHAKE + b"\r\n"])
