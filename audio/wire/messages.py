"""PURE. The JSON texts that go over a connection, and what a client's text asks for.

Every answer has the same four keys first: `message`, `session_id`, `chunk_count`, `status` (an error:
`error`, `code`, `session_id`, `chunk_count`, `status` where known). JSON is RFC 8259, in UTF-8.
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
    """What a client may ask for besides storing a chunk."""

    CLOSE_SESSION = "close_session"
    PAUSE = "pause"
    RESUME = "resume"
    PING = "ping"


@dataclass(frozen=True, slots=True)
class MarkerRequest:
    """A client wants a marker with this label behind everything that was sent before."""

    label: str


_ACTIONS = [action.value for action in Action]
_FORMS = [*({"type": "control", "action": action} for action in _ACTIONS), {"type": "marker", "label": "..."}]
_TYPES = ["control", "marker"]
# What clients of other services say for "begin" and "end".
_COMMANDS = ("eos", "eof", "start", "stop", "end", "done")
_SHORTEST_AUDIO = 64


def parse_text(text: str) -> Action | MarkerRequest:
    """Return what a text message asks for.

    The forms are `{"type": "control", "action": ...}` and `{"type": "marker", "label": ...}`. `{"type": "ping"}` is
    accepted as well.

    Raises:
        InvalidJsonError: The text is not JSON.
        InvalidMarkerError: It is a marker without a proper label.
        UnknownMessageTypeError: It is neither a control message nor a marker.
        UnknownActionError: It is a control message that asks for something else.
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
    """Make the error for an object that is no control message: clients of other services speak otherwise."""
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
    """Return an error's sentence with where audio belongs, for clients that put it into a text."""
    return (
        f"{sentence}. Audio is sent as binary messages, as it is: without base64 and without JSON around it. Text "
        "messages are control messages and markers alone. The protocol is in docs/protocol.md, and on this server's "
        "own page /api/asyncapi."
    )


def _is_no_attempt(text: str) -> bool:
    """Return whether a text that is no JSON is not meant as JSON either, but is audio or another service's command."""
    is_audio = len(text) >= _SHORTEST_AUDIO or not text.isprintable() or text.startswith(("data:", "[object"))
    return (is_audio and not text.startswith("{")) or text.lower() in _COMMANDS


def _reject_constant(name: str) -> None:
    """Reject NaN and the infinities, which Python's parser takes and JSON has not (RFC 8259 section 6)."""
    raise ValueError(name)


def _short(value: Any) -> str | None:
    """Return what was received, as text: a number can be one that JSON has no digits for, or has thousands."""
    return None if value is None else str(value)[:100]


def answer(message: str, session_id: str, chunk_count: int, status: str, **more: Any) -> str:
    """Return the text of an answer that is not an error."""
    return json.dumps(
        {"message": message, "session_id": session_id, "chunk_count": chunk_count, "status": status, **more}
    )


def rejection(error: AudioError, session_id: str | None, chunk_count: int | None, status: str | None) -> str:
    """Return the text of an error; keys whose value is not known are left out.

    `retryable` says whether the same may succeed over another connection.
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
    """The acknowledgement of a chunk with its count left open: filling it in costs a tenth of `json.dumps`."""

    __slots__ = ("_head", "_head_bytes", "_size_bytes", "_tail", "_tail_bytes")

    def __init__(self, session_id: str, status: str) -> None:
        self._head, place, self._tail = answer(STORED, session_id, 0, status).partition('"chunk_count": 0')
        self._head += place[:-1]
        self._head_bytes, self._tail_bytes = self._head.encode(), self._tail.encode()
        self._size_bytes = len(self._head_bytes) + len(self._tail_bytes)

    def fill(self, chunk_count: int) -> str:
        """Return the text with the count in place."""
        return f"{self._head}{chunk_count}{self._tail}"

    def frame(self, chunk_count: int) -> bytes:
        """Return the text with the count in place, as a whole frame of a server (RFC 6455 section 5.2)."""
        digits = b"%d" % chunk_count
        size = self._size_bytes + len(digits)
        # The text is longer than 125 bytes, and never as long as 64 KiB.
        return b"\x81\x7e%c%c%b%b%b" % (size >> 8, size & 255, self._head_bytes, digits, self._tail_bytes)
