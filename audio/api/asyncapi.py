"""The WebSocket protocol as an AsyncAPI 3.0 document, generated from the tables that the server itself uses.

Descriptions are written here. Names, values, sentences and codes come from `audio.wire` and `audio.errors`, and the
examples are the output of the server's own functions.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings

from audio.errors import (
    AudioError,
    ChunkNotFoundError,
    ConnectionEndedError,
    KeyNotFoundError,
    LastManagerError,
    LegalHoldError,
    MarkerNotFoundError,
    MemberNotFoundError,
    MessageTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    RequestError,
    ServiceError,
    SessionBusyError,
    SessionError,
    TokenNotFoundError,
    UpgradeRequiredError,
)
from audio.ingest import default_parameters
from audio.models import SessionStatus
from audio.wire import messages
from audio.wire.messages import Action
from audio.wire.parameters import (
    CHANNELS,
    CHUNK_MODES,
    DECIDED_BY_MEDIA,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    METADATA_MAX_BYTES,
    METADATA_MAX_KEYS,
    METADATA_PREFIX,
    SAMPLE_RATES_HZ,
    SessionParameters,
)

Json = dict[str, Any]

ERROR_PREFIX = "error_"

_SESSION_ID = "123e4567-e89b-42d3-a456-426614174000"
_PATH = "/api/ws/audio"
_DESCRIPTION = (
    "Binary messages are audio, and text messages are JSON. Each binary message is answered exactly once, after its "
    "bytes are synced to the disk and their row is committed. Responses come in the order of the messages that they "
    "answer. A client may send without waiting for responses, but it must read them. A named `source` makes resuming "
    "exact: the greeting's `source_chunk_count` says how many of its chunks are stored."
)
_CLIENT_MESSAGES = {
    Action.CLOSE_SESSION: "Closes the session after everything that was sent before. Close code 1000 follows.",
    Action.PAUSE: "Pauses the session: chunks are rejected until it is resumed. Timeouts continue.",
    Action.RESUME: "Resumes a paused session.",
    Action.PING: 'Counts as activity and changes nothing. `{"type": "ping"}` is accepted as well.',
}
_ANSWERS = {
    messages.CREATED: ("created", "The first message of a connection that opens a session."),
    messages.RESUMED: ("continued", "The first message of a connection that continues a session."),
    messages.STORED: (
        "stored",
        "The chunk is durable. `chunk_count` is its sequence in the session. An empty binary message stores nothing "
        "and is answered with the current count.",
    ),
    messages.PAUSED_NOW: ("paused", "The session is paused."),
    messages.RESUMED_NOW: ("resumed", "The session is resumed."),
    messages.MARKED: (
        "marked",
        "The marker is stored. `sequence` is the last chunk before it, of any connection of the session.",
    ),
    messages.CLOSED: ("closed", "The session is closed, by this client or otherwise. Close code 1000 follows."),
    messages.PONG: ("pong", "The answer to a ping."),
    messages.PART_NOT_MADE: (
        "part_not_made",
        "A notice, and not a response to a message: chunks of the session, from any connection, cannot be decoded. The "
        "rest of the session is recorded.",
    ),
}
_GREETINGS = (messages.CREATED, messages.RESUMED)
_WARNING_EXAMPLE = {
    "event": "error",
    "code": "undecodable_chunk",
    "detail": "A WAV file with format tag 17 can't be recorded.",
    "first_sequence": 2,
    "last_sequence": 2,
    "start_seconds": 1.5,
    "end_seconds": 1.5,
}
_STATUSES = {messages.PAUSED_NOW: SessionStatus.PAUSED, messages.CLOSED: SessionStatus.COMPLETED}
_ON_THE_SOCKET = (RequestError, SessionError, ConnectionEndedError, ServiceError)
# A message that is too large gets close code 1009 alone, because nothing of it is read.
_HTTP_ONLY = (
    MessageTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    UpgradeRequiredError,
    SessionBusyError,
    ChunkNotFoundError,
    KeyNotFoundError,
    LastManagerError,
    MemberNotFoundError,
    TokenNotFoundError,
    LegalHoldError,
    MarkerNotFoundError,
)
_DETAILS: Json = {
    "parameter": {"type": "string", "description": "The invalid parameter."},
    "received": {"description": "The received value, shortened."},
    "valid_values": {"type": "array", "description": "The valid values."},
    "limit": {"type": "number", "description": "The limit that was exceeded."},
    "retry_after_seconds": {"type": "number", "description": "The seconds after which another attempt may succeed."},
    "format": {"type": "string", "description": "The format of a session that would record the content."},
    "source_chunk_count": {"type": "integer", "description": "The stored chunks of the source of a closed session."},
}
_METADATA = {
    "type": "string",
    "description": "The metadata of a new session under the key in the parameter's name: at most "
    f"{METADATA_MAX_KEYS} keys, and {METADATA_MAX_BYTES} bytes of keys and values together.",
}
CLOSE_CODES = {
    1000: "The session is closed.",
    1001: "The server is stopping. Connect again.",
    1002: "The client sent an invalid WebSocket frame (RFC 6455).",
    1006: "The network broke. Connect again.",
    1007: "The client sent text that is not UTF-8.",
    1008: "The request was rejected. Read the error, and connect again only if it is `retryable`.",
    1009: "A message is larger than `max_message_size_bytes`. No error precedes this code.",
    1011: "The server has failed, or the client did not answer its pings. Connect again.",
    1012: "The server is stopping. Connect again.",
    1013: "The server is overloaded, its storage is full, or it is starting or stopping. Connect again later.",
    4408: "The client sent nothing for `connection_timeout_seconds`.",
    4409: "A newer connection has taken over the `source`. Do not connect again.",
}


def document(scheme: str, host: str, path: str = "") -> Json:
    """Return the document of a server.

    Args:
        scheme: `ws` or `wss`.
        host: The host that clients connect to, with its port.
        path: The path in front of all others.
    """
    heard = {name: _ref("messages", name) for name in _heard()}
    said = {name: _ref("messages", name) for name in [*_answers(), *_errors()]}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "SercueScribe",
            "version": settings.SPECTACULAR_SETTINGS["VERSION"],
            "description": _DESCRIPTION,
        },
        "defaultContentType": "application/json",
        "servers": {"here": {"host": host, "protocol": scheme} | ({"pathname": path} if path else {})},
        "channels": {
            "newSession": _channel(_PATH, "Opens a new session.", heard | said),
            "session": {
                **_channel(f"{_PATH}/{{session_id}}", "Continues a session.", heard | said),
                "parameters": {"session_id": {"description": "The session's id, a UUID.", "examples": [_SESSION_ID]}},
            },
        },
        "operations": {
            f"{verb}{name[0].upper()}{name[1:]}": _operation(verb, name, summary, names)
            for name in ("newSession", "session")
            for verb, summary, names in (
                ("receive", "What a client sends.", heard),
                ("send", "What the server sends.", said),
            )
        },
        "components": {"messages": _heard() | _answers() | _errors()},
        "x-close-codes": {str(code): meaning for code, meaning in CLOSE_CODES.items()},
    }


def error_classes() -> list[type[AudioError]]:
    """Return the errors that a connection can meet, in the order of their codes."""
    found = {each.code: each for base in _ON_THE_SOCKET for each in _leaves(base) if each not in _HTTP_ONLY}
    return [found[code] for code in sorted(found)]


def _leaves(base: type[AudioError]) -> Iterator[type[AudioError]]:
    """Yield the errors that can be raised: the classes without subclasses."""
    derived = base.__subclasses__()
    for each in derived:
        yield from _leaves(each)
    if not derived:
        yield base


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _channel(address: str, summary: str, all_messages: Json) -> Json:
    query = {
        "type": "object",
        "properties": query_parameters(),
        "patternProperties": {rf"^{re.escape(METADATA_PREFIX)}": _METADATA},
        "additionalProperties": False,
    }
    binding = {"method": "GET", "query": query, "bindingVersion": "0.1.0"}
    return {"address": address, "summary": summary, "messages": all_messages, "bindings": {"ws": binding}}


def _operation(verb: str, channel: str, summary: str, names: Json) -> Json:
    return {
        "action": verb,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


def query_parameters() -> Json:
    """Return the schema of each parameter of a connection's URL, by name."""
    defaults = default_parameters()
    label = {"type": "string", "minLength": 1, "maxLength": LABEL_MAX_LENGTH}
    return {
        **_session_parameters(defaults),
        "user_id": {**label, "description": "A label of the client's choice for a new session."},
        "source": {**label, "description": "The name of a source. Its newest connection takes over."},
        "ticket": {
            "type": "string",
            "description": "The ticket in the `websocket_url` of a session that was created over HTTP.",
        },
        "token": {
            "type": "string",
            "description": "A session token or an API key, for clients that can send no header.",
        },
        "project": {**label, "description": "The project of a new session, for people who have several."},
        "name": {**label, "description": "A title of the client's choice for a new session."},
    }


def _session_parameters(defaults: SessionParameters | None = None) -> Json:
    """Return the schemas of a session's parameters, with default values if they are given."""
    described: Json = {
        "sample_rate": {"type": "integer", "enum": SAMPLE_RATES_HZ, "description": "In Hz."},
        "channels": {"type": "integer", "enum": CHANNELS},
        "format": {"type": "string", "enum": FORMATS, "description": "The format of the audio and of the recording."},
        "encoding": {"type": "string", "enum": ENCODINGS, "description": "The encoding of raw PCM under `wav`."},
        "chunks": {
            "type": "string",
            "enum": CHUNK_MODES,
            "description": "`stream`: one stream, cut anywhere. `files`: each message is a complete file.",
        },
    }
    for name, value in defaults.as_dict().items() if defaults else ():
        described[name]["default"] = value
    return {name: {**schema, "enum": list(schema["enum"])} for name, schema in described.items()}


def _message(summary: str, payload: Json, example: Any, **more: Any) -> Json:
    return {
        "summary": summary,
        "contentType": "application/json",
        "payload": payload,
        "examples": [{"payload": example}],
        **more,
    }


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required}


def _heard() -> Json:
    """Return the messages that a client sends."""
    heard: Json = {
        "chunk": {
            "summary": "A chunk of audio, of at most `max_message_size_bytes`.",
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "format": "binary"},
        }
    }
    for action in Action:
        example = {"type": "control", "action": action.value}
        payload = _object({key: {"const": value} for key, value in example.items()}, ["type", "action"])
        heard[action.value] = _message(_CLIENT_MESSAGES[action], payload, example)
    properties = {
        "type": {"const": "marker"},
        "label": {"type": "string", "minLength": 1, "maxLength": LABEL_MAX_LENGTH},
    }
    example = {"type": "marker", "label": "Question 2"}
    summary = "Adds a marker after everything that was sent before."
    heard["marker"] = _message(summary, _object(properties, ["type", "label"]), example)
    return heard


def _common() -> Json:
    return {
        "session_id": {"type": "string", "format": "uuid"},
        "chunk_count": {"type": "integer", "minimum": 0, "description": "The number of chunks in the session."},
        "status": {"type": "string", "enum": SessionStatus.values},
    }


def _answers() -> Json:
    """Return the messages of the server that are not errors."""
    return {name: _answer(text, summary) for text, (name, summary) in _ANSWERS.items()}


def _answer(text: str, summary: str) -> Json:
    properties = {"message": {"const": text}, **_common()}
    required, more = list(properties), {}
    if text in _GREETINGS:
        greeting = _greeting()
        properties |= greeting
        required += [name for name in greeting if not name.startswith("source")]
        more = _greeting_example()
    elif text == messages.PART_NOT_MADE:
        properties |= _warning()
        required += ["event", "code", "detail"]
        more = _WARNING_EXAMPLE
    elif text == messages.MARKED:
        properties |= {"marker_id": {"type": "string", "format": "uuid"}, "sequence": {"type": "integer", "minimum": 0}}
        required += ["marker_id", "sequence"]
        more = {"marker_id": _SESSION_ID, "sequence": 3}
    status = _STATUSES.get(text, SessionStatus.ACTIVE)
    example = messages.answer(text, _SESSION_ID, 0 if text == messages.CREATED else 3, status, **more)
    return _message(summary, _object(properties, required), json.loads(example))


def _warning() -> Json:
    place = {"type": ["integer", "null"]}
    seconds = {"type": ["number", "null"]}
    return {
        "event": {"const": "error"},
        "code": {"type": "string", "description": "A stable code for programs."},
        "detail": {"type": "string", "description": "A sentence for people. It may be reworded."},
        "first_sequence": {**place, "description": "The first affected chunk."},
        "last_sequence": {**place, "description": "The last affected chunk."},
        "start_seconds": {**seconds, "description": "Where the part would be in the recording."},
        "end_seconds": seconds,
    }


def _greeting() -> Json:
    return {
        **_session_parameters(),
        "undecided": {
            "type": "array",
            "items": {"type": "string", "enum": list(DECIDED_BY_MEDIA)},
            "description": "The parameters that the client did not name and that are not known from the audio yet. "
            "Until then they have the defaults of the server.",
        },
        "user_id": {"type": ["string", "null"]},
        "byte_count": {"type": "integer", "minimum": 0},
        "source": {"type": "string", "description": "The source, if the connection named one."},
        "source_chunk_count": {
            "type": "integer",
            "minimum": 0,
            "description": "The number of stored chunks of that source. Skip those, and send the rest.",
        },
        "max_message_size_bytes": {"type": "integer"},
        "connection_timeout_seconds": {"type": "number"},
    }


def _greeting_example() -> Json:
    return {
        **default_parameters().as_dict(),
        "undecided": list(DECIDED_BY_MEDIA),
        "user_id": None,
        "byte_count": 0,
        "source": "microphone",
        "source_chunk_count": 0,
        "max_message_size_bytes": settings.MAX_MESSAGE_SIZE_BYTES,
        "connection_timeout_seconds": settings.CONNECTION_TIMEOUT_SECONDS,
    }


def _errors() -> Json:
    return {f"{ERROR_PREFIX}{each.code}": _error(each) for each in error_classes()}


def _error(error: type[AudioError]) -> Json:
    properties = {
        "error": {"type": "string", "description": "A sentence for people. It may be reworded."},
        "code": {"const": error.code},
        "retryable": {"const": error.retryable, "description": "Whether another connection may succeed."},
        # The id may be an invalid one that the client has sent.
        **_common() | {"session_id": {"type": "string"}},
        **_DETAILS,
    }
    example = json.loads(messages.rejection(error(), _SESSION_ID, 3, SessionStatus.ACTIVE))
    summary = " ".join((error.__doc__ or "").split())
    return _message(summary, _object(properties, ["error", "code", "retryable"]), example, **_closes(error))


def _closes(error: type[AudioError]) -> Json:
    return {} if error.close_code is None else {"x-close-code": error.close_code}
