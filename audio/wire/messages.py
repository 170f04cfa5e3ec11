"""PURE. The JSON texts of a connection: the answers of the server, and the requests of the client.

Every answer has the same first four keys: `message`, `session_id`, `chunk_count` and `status`. An error has `error` and
`code`, and then the other three keys if they are known. The JSON follows RFC 8259, in UTF-8.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from audio.errors import (
    AudioError,
    InvalidJsonError,
    InvalidMarkerError,
    InvalidParameterError,
    UnknownActionError,
    UnknownMessageTypeError,
)
from audio.wire.parameters import parse_label

CREATED = "Audio session created"
RESUMED = "Audio session resumed"
STORED = "Chunk processed successfully"
CLOSED = "Session closed successfully"
PAUSED_NOW = "Session paused"
RESUMED_NOW = "Session resumed"
PONG = "pong"
MARKED = "Marker stored"
PART_NOT_MADE = "A part of the recording could not be made"


class Action(StrEnum):
    """The actions that a client may request."""

    CLOSE_SESSION = "close_session"
    PAUSE = "pause"
    RESUME = "resume"
    PING = "ping"


@dataclass(frozen=True, slots=True)
class MarkerRequest:
    """A request for a marker with this label after everything that was sent before."""

    label: str


_ACTIONS = [action.value for action in Action]
_FORMS = [*({"type": "control", "action": action} for action in _ACTIONS), {"type": "marker", "label": "..."}]
_TYPES = ["control", "marker"]
# Words with which clients of other services begin and end a stream.
_COMMANDS = ("eos", "eof", "start", "stop", "end", "done")
_SHORTEST_AUDIO = 64


def parse_text(text: str) -> Action | MarkerRequest:
    """Parse a text message, and return its request.

    The forms are `{"type": "control", "action": ...}` and `{"type": "marker", "label": ...}`. `{"type": "ping"}` is
    accepted as well.

    Raises:
        InvalidJsonError: The text is not JSON.
        InvalidMarkerError: It is a marker without a valid label.
        UnknownMessageTypeError: It is neither a control message nor a marker.
        UnknownActionError: It is a control message with another action.
    """
    try:
        message = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        sentence = _with_directions(InvalidJsonError.sentence) if _is_no_attempt(text) else None
        raise InvalidJsonError(sentence, received=_short(text), valid_values=_FORMS) from error
    if not isinstance(message, dict):
        raise UnknownMessageTypeError(
            _with_directions(UnknownMessageTypeError.sentence), received=_short(text), valid_values=_TYPES
        )
    kind = message.get("type")
    if kind == Action.PING:
        return Action.PING
    if kind == "marker":
        return _marker(message.get("label"))
    if kind != "control":
        raise _unknown_type(message)
    action = message.get("action")
    if action not in _ACTIONS:
        raise UnknownActionError(received=_short(action), valid_values=_ACTIONS)
    return Action(action)


def _marker(label: Any) -> MarkerRequest:
    try:
        return MarkerRequest(parse_label("label", label if isinstance(label, str) else ""))
    except InvalidParameterError as error:
        raise InvalidMarkerError(**error.details) from error


def _unknown_type(message: dict[str, Any]) -> UnknownMessageTypeError:
    """Return the error for an object that is no control message, as clients of other services send it."""
    names = [name for name in ("type", "event", "action") if message.get(name) is not None]
    received = _short(message[names[0]]) if names else _short(json.dumps(message)) if message else None
    if names == ["action"] and message["action"] in _ACTIONS:
        right = json.dumps({"type": "control", "action": message["action"]})
        sentence: str | None = f"{UnknownMessageTypeError.sentence}. The message has no type: send {right}."
    else:
        is_bare = set(message) <= {"type"} and str(message.get("type", "")).islower()
        sentence = None if is_bare or not message else _with_directions(UnknownMessageTypeError.sentence)
    return UnknownMessageTypeError(sentence, received=received, valid_values=_TYPES)


def _with_directions(sentence: str) -> str:
    """Add to an error's sentence how to send audio, for clients that send it as text."""
    return (
        f"{sentence}. Audio is sent as binary messages, as it is: without base64 and without JSON around it. Text "
        "messages are control messages and markers alone. The protocol is in docs/protocol.md, and on this server's "
        "own page /api/asyncapi."
    )


def _is_no_attempt(text: str) -> bool:
    """Return whether an invalid text is not an attempt to send JSON, but audio or a command of another service."""
    is_audio = len(text) >= _SHORTEST_AUDIO or not text.isprintable() or text.startswith(("data:", "[object"))
    return (is_audio and not text.startswith("{")) or text.lower() in _COMMANDS


def _reject_constant(name: str) -> None:
    """Reject NaN and the infinities, which Python's parser accepts and JSON does not have (RFC 8259 section 6)."""
    raise ValueError(name)


def _short(value: Any) -> str | None:
    """Return the received value as short text. A number may have no digits in JSON, or thousands."""
    return None if value is None else str(value)[:100]


def answer(message: str, session_id: str, chunk_count: int, status: str, **more: Any) -> str:
    """Return the text of an answer that is not an error."""
    return json.dumps(
        {"message": message, "session_id": session_id, "chunk_count": chunk_count, "status": status, **more}
    )


def rejection(error: AudioError, session_id: str | None, chunk_count: int | None, status: str | None) -> str:
    """Return the text of an error. Keys with unknown values are left out.

    `retryable` says whether another connection may succeed.
    """
    known = {"session_id": session_id, "chunk_count": chunk_count, "status": status}
    return json.dumps(
        {
            "error": error.detail,
            "code": error.code,
            "retryable": error.retryable,
            **{key: value for key, value in known.items() if value is not None},
            **error.details,
        }
    )


class AcknowledgementTemplate:
    """The acknowledgement of a chunk without its count. Inserting the count costs a tenth of `json.dumps`."""

    __slots__ = ("_head", "_head_bytes", "_size_bytes", "_tail", "_tail_bytes")

    def __init__(self, session_id: str, status: str) -> None:
        self._head, place, self._tail = answer(STORED, session_id, 0, status).partition('"chunk_count": 0')
        self._head += place[:-1]
        self._head_bytes, self._tail_bytes = self._head.encode(), self._tail.encode()
        self._size_bytes = len(self._head_bytes) + len(self._tail_bytes)

    def fill(self, chunk_count: int) -> str:
        """Return the text with this count."""
        return f"{self._head}{chunk_count}{self._tail}"

    def frame(self, chunk_count: int) -> bytes:
        """Return the text with this count, as a whole frame of a server (RFC 6455 section 5.2)."""
        digits = b"%d" % chunk_count
        size = self._size_bytes + len(digits)
        # The text is longer than 125 bytes, and never as long as 64 KiB.
        return b"\x81\x7e%c%c%b%b%b" % (size >> 8, size & 255, self._head_bytes, digits, self._tail_bytes)
