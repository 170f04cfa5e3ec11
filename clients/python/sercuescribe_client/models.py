"""The JSON of the server, with types. Keys that a newer server adds are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

Format = Literal["wav", "mp3", "flac", "aac", "webm", "ogg", "mp4"]
Encoding = Literal["s16le", "s24le", "s32le", "f32le", "mulaw", "alaw"]
ChunkMode = Literal["auto", "stream", "files"]
Target = Literal["wav", "mp3", "flac", "aac", "m4a", "opus"]
AnyFormat = Literal["wav", "mp3", "flac", "aac", "webm", "ogg", "mp4", "m4a", "opus"]
Status = Literal["active", "paused", "completed"]
Scope = Literal["read", "record", "manage"]
ItemT = TypeVar("ItemT")


class Reason(TypedDict):
    """Why a recording or a task failed."""

    code: str
    detail: str


class RecordingWarning(TypedDict):
    """Audio that is not in the recording as it was sent."""

    code: str
    detail: str
    first_sequence: int | None
    last_sequence: int | None
    start_seconds: float | None
    end_seconds: float | None


class Recording(TypedDict):
    """The recording of a session. `sha256` is empty until shortly after it is ready."""

    state: Literal["empty", "live", "building", "ready", "failed"]
    url: str | None
    format: str
    size_bytes: int | None
    duration_seconds: float | None
    sha256: str
    progress: float
    error: Reason | None
    sample_rate: int | None
    channels: int | None
    warnings: list[RecordingWarning]
    partial_url: str | None


class Session(TypedDict):
    """A session and its recording. A session that was just created has a `websocket_url`."""

    session_id: str
    user_id: str | None
    start_time: str
    status: Status
    file_path: str | None
    total_chunks: int
    duration_seconds: float | None
    sample_rate: int
    channels: int
    format: str
    end_time: str | None
    byte_count: int
    connections: int
    recording: Recording
    recovered: str | None
    websocket_url: NotRequired[str]
    project: str
    name: str | None
    metadata: dict[str, str]
    retention_days: int | None
    legal_hold: bool


class Marker(TypedDict):
    """A moment in a recording. `position_seconds` is null until the audio before it has been processed."""

    marker_id: str
    label: str
    position_seconds: float | None
    sequence: int | None
    created_at: str


class Waveform(TypedDict):
    """The lowest and the highest sample of each point. Full scale is 1."""

    sample_rate: int
    duration_seconds: float
    start_seconds: float
    end_seconds: float
    minimum: list[float]
    maximum: list[float]


class Token(TypedDict):
    """A session token. A token that was just created has `token` and `websocket_url`."""

    id: str
    session_id: str
    purpose: Literal["record", "listen"]
    prefix: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    token: NotRequired[str]
    websocket_url: NotRequired[str | None]


class Key(TypedDict):
    """An API key. A key that was just created has `key`."""

    id: str
    project: str
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    key: NotRequired[str]


class Project(TypedDict):
    """A project, the scopes of the caller in it, and its limits."""

    name: str
    scopes: list[Scope]
    retention_days: int | None
    max_open_sessions: int | None
    max_openings_per_minute: int | None
    max_bytes_per_day: int | None
    max_requests_per_second: int | None


class Webhook(TypedDict):
    """A webhook. It has `secret` if it was just created, or its secret was just rotated."""

    id: str
    project: str
    url: str
    event_types: list[str]
    description: str
    is_enabled: bool
    disabled_reason: str
    failing_since: str | None
    created_at: str
    secret: NotRequired[str]


class Attempt(TypedDict):
    """An attempt to deliver an event to a webhook."""

    at: str
    duration_ms: int | None
    status_code: int | None
    error: str
    answer: str


class Delivery(TypedDict):
    """An event that is, or was, sent to a webhook, with the last attempts."""

    id: str
    event_id: str
    event_type: str
    session_id: str | None
    status: str
    next_attempt_at: str | None
    created_at: str
    ended_at: str | None
    attempts: list[Attempt]


class Task(TypedDict):
    """A background task."""

    task_id: str
    task: str
    session_id: str
    format: str | None
    status: str
    progress: float
    percent: float
    seconds_done: float | None
    result: dict[str, Any] | None
    error: Reason | None
    created_at: str
    ended_at: str | None


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """One page of a list. `next_cursor` leads to the next one; None if this is the last."""

    items: list[ItemT]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a session.

    Attributes:
        type: Its type, such as `recording.ready`.
        timestamp: When it happened (ISO 8601).
        data: What happened, as JSON.
        id: The id that a webhook has too. None for `session.progress`.
        position: The place in the stream, with which a later stream continues. None for `session.progress`.
    """

    type: str
    timestamp: str
    data: Mapping[str, Any]
    id: str | None
    position: str | None
