"""All errors of clients, operators and tasks, in one tree.

AudioError
├── RequestError            the request is wrong
│   ├── InvalidParameterError    ├── ParameterConflictError   ├── InvalidSessionIdError
│   ├── InvalidJsonError         ├── UnknownMessageTypeError  ├── UnknownActionError
│   ├── InvalidMarkerError       ├── FormatMismatchError      ├── MissingHeaderError
│   ├── MessageTooLargeError     ├── NotAllowedError          ├── NotAuthenticatedError
│   ├── ProjectNotFoundError     ├── MemberNotFoundError      ├── LastManagerError
│   ├── KeyNotFoundError         ├── TokenNotFoundError       ├── PreconditionFailedError
│   ├── UpgradeRequiredError     └── RangeNotSatisfiableError
├── SessionError            the session's state forbids it
│   ├── SessionNotFoundError     ├── SessionClosedError       ├── SessionPausedError
│   ├── OneSourceOnlyError       ├── TooManyConnectionsError  ├── SessionBusyError
│   ├── LegalHoldError           ├── TooManyMarkersError      ├── MarkerNotFoundError
│   └── ChunkNotFoundError
├── ConnectionEndedError    this connection is over, the session is not
│   ├── IdleTimeoutError         └── SupersededError
├── ServiceError            a fault of the server; the same request may succeed later
│   ├── OverloadedError          ├── TooManySessionsError     ├── LimitReachedError
│   ├── StorageFullError         ├── DatabaseUnavailableError ├── JournalFailedError
│   └── StorageUnavailableError
├── RecordingError          the recording cannot be downloaded in its state
│   ├── RecordingEmptyError      ├── RecordingBuildingError   ├── RecordingFailedError
│   └── RecordingNotReadyError
├── TaskError               the state of a background task forbids it
│   ├── TaskNotFoundError        ├── TaskRunningError         ├── TaskFailedError
│   └── TaskEndedError
├── WebhookError            the state of a webhook forbids it
│   ├── WebhookNotFoundError     └── WebhookDisabledError
└── MediaError              the audio cannot be processed as it is
    ├── UndecodableChunkError    ├── ChunkDamagedError        ├── ChunksReleasedError
    ├── UnsupportedMediaError    ├── MasterDamagedError       ├── MediaLimitExceededError
    ├── FfmpegMissingError       ├── FfmpegFailedError        ├── FfmpegStoppedError
    └── ObjectDamagedError

`code` is for programs and never changes. The sentence is for people and may change. `close_code` is the WebSocket close
code that follows the error (RFC 6455 section 7.4; SercueScribe defines those from 4000 on), or None if the connection
stays open. `http_status` is the status of an HTTP answer. `details` are further keys of the answer, such as
`valid_values`, `limit` and `received`. They tell the client how to correct the request.
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class AudioError(Exception):
    """Base of all errors above.

    Args:
        sentence: The sentence for people, if it differs from the default of the class.
        details: Further keys of the answer. Their values can be serialised as JSON.
    """

    code: ClassVar[str] = "internal_error"
    close_code: ClassVar[int | None] = 1011
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    sentence: ClassVar[str] = "The server failed because of an internal error."

    def __init__(self, sentence: str | None = None, **details: Any) -> None:
        self.detail = sentence or self.sentence
        self.details = details
        super().__init__(self.detail)


class RequestError(AudioError):
    """The request is wrong. Sending it again without a change cannot succeed."""

    code = "bad_request"
    close_code: ClassVar[int | None] = 1008
    http_status = 400
    sentence = "The request could not be understood."


class InvalidParameterError(RequestError):
    """A parameter or field has an invalid value. The details contain its name and the valid values."""

    code = "invalid_parameter"
    sentence = "A parameter has an invalid value."


class ParameterConflictError(RequestError):
    """A connection continues a session, and its parameters differ from those of the session."""

    code = "parameter_conflict"
    http_status = 409
    sentence = "The parameters differ from those of the session."


class InvalidSessionIdError(RequestError):
    """The session id in the path is not a UUID (RFC 9562)."""

    code = "invalid_session_id"
    sentence = "A session id must be a UUID, such as 123e4567-e89b-42d3-a456-426614174000."


class InvalidJsonError(RequestError):
    """A text message is not JSON (RFC 8259)."""

    code = "invalid_json"
    close_code = None
    sentence = "Invalid JSON format"


class UnknownMessageTypeError(RequestError):
    """A JSON message has a type that the protocol does not have, or none."""

    code = "unknown_message_type"
    close_code = None
    sentence = "Unknown message type"


class UnknownActionError(RequestError):
    """A control message has an action that the protocol does not have, or none."""

    code = "unknown_action"
    close_code = None
    sentence = "Unknown control action"


class InvalidMarkerError(RequestError):
    """A marker that came over a WebSocket has no label, or a wrong one."""

    code = "invalid_marker"
    close_code = None
    sentence = "A marker needs a label of 1 to 255 characters without control characters."


class FormatMismatchError(RequestError):
    """The content of a message is not in the format of the session. The message was not stored."""

    code = "format_mismatch"
    close_code = None
    http_status = 415
    sentence = "The content does not match the format of the session."


class MissingHeaderError(RequestError):
    """A stream does not begin with the header without which it cannot be read. The message was not stored."""

    code = "missing_header"
    close_code = None
    http_status = 415
    sentence = "The stream must begin with its header. Send the first slice of the recorder first."


class MessageTooLargeError(RequestError):
    """A message is larger than MAX_MESSAGE_SIZE_BYTES."""

    code = "message_too_large"
    close_code = 1009
    http_status = 413
    sentence = "The message is larger than the server allows."


class NotAllowedError(RequestError):
    """The identity lacks a scope, or the ticket is not valid, was already used, or belongs to another session."""

    code = "not_allowed"
    http_status = 403
    sentence = "You are not allowed to do this."


class NotAuthenticatedError(RequestError):
    """The request has no key, token or login, or an invalid one (RFC 9110 section 15.5.2)."""

    code = "not_authenticated"
    http_status = 401
    sentence = "The request needs an API key, a session token or a login."


class ProjectNotFoundError(RequestError):
    """The caller has no project with this name or id."""

    code = "project_not_found"
    http_status = 404
    sentence = "You have no project with this name or id."


class MemberNotFoundError(RequestError):
    """The project has no member with this id."""

    code = "member_not_found"
    http_status = 404
    sentence = "The project has no member with this id."


class LastManagerError(RequestError):
    """The project would lose its last manager."""

    code = "last_manager"
    http_status = 409
    sentence = "A project needs at least one manager. Make somebody else a manager first."


class KeyNotFoundError(RequestError):
    """The caller's projects have no such API key."""

    code = "key_not_found"
    http_status = 404
    sentence = "No API key has this id."


class TokenNotFoundError(RequestError):
    """The session has no such token."""

    code = "token_not_found"
    http_status = 404
    sentence = "The session has no token with this id."


class PreconditionFailedError(RequestError):
    """The condition of If-Match or If-Unmodified-Since is false (RFC 9110 section 15.5.13)."""

    code = "precondition_failed"
    http_status = 412
    sentence = "The recording does not match the precondition of the request."


class UpgradeRequiredError(RequestError):
    """A plain GET was sent to the path of a WebSocket (RFC 9110 section 15.5.22)."""

    code = "upgrade_required"
    http_status = 426
    sentence = "This path is for WebSockets. Connect with ws:// or wss://, and let every proxy pass the upgrade on."


class RangeNotSatisfiableError(RequestError):
    """A Range lies outside the recording (RFC 9110 section 15.5.17). The details contain its `size_bytes`."""

    code = "range_not_satisfiable"
    http_status = 416
    sentence = "The range is outside the recording."


class SessionError(AudioError):
    """The state of the session does not allow the request."""

    code = "session_state"
    close_code: ClassVar[int | None] = 1008
    http_status = 409
    sentence = "The state of the session does not allow this."


class SessionNotFoundError(SessionError):
    """No session has this id."""

    code = "session_not_found"
    http_status = 404
    sentence = "No session has this id."


class SessionClosedError(SessionError):
    """The session is closed and accepts no more chunks."""

    code = "session_closed"
    sentence = "The session is closed and accepts no more audio."


class SessionPausedError(SessionError):
    """A chunk arrived while the session was paused. The chunk was not stored."""

    code = "session_paused"
    close_code = None
    sentence = "The session is paused, and the chunk was not stored. Send resume first."


class OneSourceOnlyError(SessionError):
    """A second source tried to write to a continuous compressed stream."""

    code = "one_source_only"
    retryable = True
    sentence = "A continuous compressed stream accepts one source at a time."


class TooManyConnectionsError(SessionError):
    """The session has MAX_CONNECTIONS_PER_SESSION connections already."""

    code = "too_many_connections"
    http_status = 429
    retryable = True
    sentence = "The session has reached its limit of connections."


class SessionBusyError(SessionError):
    """Another process is working on the session's recording."""

    code = "session_busy"
    retryable = True
    sentence = "Another process is working on the recording. Try again in a moment."


class LegalHoldError(SessionError):
    """The session is to be deleted, and is under a legal hold."""

    code = "legal_hold"
    close_code = None
    sentence = "The session is under a legal hold. Nobody can delete it until the hold is lifted."


class TooManyMarkersError(SessionError):
    """The session already has as many markers as it may have."""

    code = "too_many_markers"
    close_code = None
    sentence = "The session has reached its limit of markers."


class MarkerNotFoundError(SessionError):
    """The session has no marker with this id."""

    code = "marker_not_found"
    close_code = None
    http_status = 404
    sentence = "The session has no marker with this id."


class ChunkNotFoundError(SessionError):
    """The session has no chunk with this sequence."""

    code = "chunk_not_found"
    close_code = None
    http_status = 404
    sentence = "The session has no chunk with this sequence."


class ConnectionEndedError(AudioError):
    """The connection has ended. The session stays open."""

    code = "connection_ended"
    http_status = 409
    sentence = "The connection has ended."


class IdleTimeoutError(ConnectionEndedError):
    """No message arrived for CONNECTION_TIMEOUT_SECONDS."""

    code = "idle_timeout"
    close_code = 4408
    http_status = 408
    retryable = True
    sentence = "The connection was idle for too long."


class SupersededError(ConnectionEndedError):
    """A newer connection has taken over this source."""

    code = "superseded"
    close_code = 4409
    sentence = "A newer connection has taken over this source."


class ServiceError(AudioError):
    """The server cannot serve the request now. The same request may succeed later (RFC 6455 close code 1013)."""

    code = "service_unavailable"
    close_code = 1013
    http_status = 503
    retryable = True
    sentence = "The server cannot handle the request now. Try again later."


class OverloadedError(ServiceError):
    """The server is at the limit of its capacity, or it is stopping."""

    code = "overloaded"
    sentence = "The server is overloaded. Try again later."


class TooManySessionsError(ServiceError):
    """The server has MAX_CONCURRENT_SESSIONS open sessions already."""

    code = "too_many_sessions"
    sentence = "The server has reached its limit of open sessions. Try again later."


class LimitReachedError(ServiceError):
    """A limit of the project is reached. The details contain the limit and `retry_after_seconds`."""

    code = "limit_reached"
    http_status = 429
    sentence = "The project has reached a limit. Try again later."


class StorageFullError(ServiceError):
    """The disk is full, or its quota is used up. The rejected chunk was not acknowledged."""

    code = "storage_full"
    http_status = 507
    sentence = "The storage of the server is full. Try again later."


class DatabaseUnavailableError(ServiceError):
    """The database does not respond. The rejected chunk was not acknowledged."""

    code = "database_unavailable"
    sentence = "The database of the server does not respond. Try again later."


class JournalFailedError(ServiceError):
    """The journal could not be written or synced. The rejected chunk was not acknowledged."""

    code = "journal_failed"
    close_code = 1011
    http_status = 500
    sentence = "The server could not store the chunk. Reconnect and send it again."


class StorageUnavailableError(ServiceError):
    """The storage of finished recordings does not respond, or rejects the request. No audio is lost."""

    code = "storage_unavailable"
    sentence = "The storage that holds the recording does not respond. Try again later."


class RecordingError(AudioError):
    """The recording cannot be downloaded in its current state."""

    code = "recording_state"
    close_code = None
    http_status = 409
    sentence = "The recording cannot be downloaded in its current state."


class RecordingEmptyError(RecordingError):
    """Nothing has been recorded, or no audio has been processed yet."""

    code = "recording_empty"
    http_status = 404
    sentence = "The session has no recording yet."


class RecordingBuildingError(RecordingError):
    """The session is closed, and its recording is being made. The details contain the `progress` from 0 to 1."""

    code = "recording_building"
    http_status = 202
    retryable = True
    sentence = "The recording is being made. Try again in a moment."


class RecordingFailedError(RecordingError):
    """The recording could not be made.

    The details contain the `reason` and, if one chunk is the cause, its `sequence`.
    """

    code = "recording_failed"
    sentence = "The recording could not be made."


class RecordingNotReadyError(RecordingError):
    """The request needs a finished recording, and the session is still open."""

    code = "recording_not_ready"
    sentence = "The recording is not finished. Close the session first."


class TaskError(AudioError):
    """The state of a background task does not allow the request."""

    code = "task_state"
    close_code = None
    http_status = 409
    sentence = "The state of the task does not allow this."


class TaskNotFoundError(TaskError):
    """No background task has this id."""

    code = "task_not_found"
    http_status = 404
    sentence = "No task has this id."


class TaskRunningError(TaskError):
    """The requested file is being made. The details contain `task_id`, `status` and the `progress` from 0 to 1."""

    code = "task_running"
    http_status = 202
    retryable = True
    sentence = "The task is not finished. Try again in a moment."


class TaskFailedError(TaskError):
    """The requested file could not be made. The details contain the `reason`. `POST /api/tasks` tries again."""

    code = "task_failed"
    sentence = "The task failed."


class TaskEndedError(TaskError):
    """The task has already ended and cannot be revoked."""

    code = "task_ended"
    sentence = "The task has already ended."


class WebhookError(AudioError):
    """The state of a webhook does not allow the request."""

    code = "webhook_state"
    close_code = None
    http_status = 409
    sentence = "The state of the webhook does not allow this."


class WebhookNotFoundError(WebhookError):
    """No webhook or delivery has this id."""

    code = "webhook_not_found"
    http_status = 404
    sentence = "No webhook or delivery has this id."


class WebhookDisabledError(WebhookError):
    """The webhook is disabled, so nothing is sent to it."""

    code = "webhook_disabled"
    sentence = "The webhook is disabled. Enable it first."


class MediaError(AudioError):
    """The audio cannot be processed as it is."""

    code = "media_error"
    http_status = 409
    sentence = "The audio could not be processed."


class UndecodableChunkError(MediaError):
    """A chunk cannot be decoded. The details contain its `sequence`."""

    code = "undecodable_chunk"
    sentence = "A chunk could not be decoded."


class ChunkDamagedError(MediaError):
    """A stored chunk is missing from its journal, or its CRC-32 differs."""

    code = "chunk_damaged"
    http_status = 500
    sentence = "A stored chunk is missing or damaged."


class ChunksReleasedError(MediaError):
    """The journals of the chunks were removed after the recording was verified. Only the recording is left."""

    code = "chunks_released"
    sentence = "The chunks were deleted after the recording was verified. The recording cannot be rebuilt."


class UnsupportedMediaError(MediaError):
    """The audio is of a kind that the server does not record."""

    code = "unsupported_media"
    http_status = 415
    sentence = "The server does not record this kind of audio."


class MasterDamagedError(MediaError):
    """The master file is shorter than the database says. It is never padded."""

    code = "master_damaged"
    sentence = "The file of the recording is shorter than it should be. Rebuild the recording from its chunks."


class MediaLimitExceededError(MediaError):
    """FFmpeg exceeded a limit on time, memory or output."""

    code = "media_limit_exceeded"
    sentence = "Processing the audio exceeded a limit on time, memory or disk space."


class FfmpegMissingError(MediaError):
    """No usable FFmpeg program was found."""

    code = "ffmpeg_missing"
    http_status = 503
    retryable = True
    sentence = "FFmpeg was not found. Set FFMPEG_BINARY, or install the requirements."


class FfmpegFailedError(MediaError):
    """FFmpeg ended with an error. The sentence contains the first line of its message."""

    code = "ffmpeg_failed"
    sentence = "FFmpeg could not process the audio."


class FfmpegStoppedError(MediaError):
    """FFmpeg was stopped from outside. The audio is not the cause."""

    code = "ffmpeg_stopped"
    http_status = 503
    retryable = True
    sentence = "FFmpeg was stopped before it finished."


class ObjectDamagedError(MediaError):
    """The object in the storage differs from the uploaded file in its size or its SHA-256."""

    code = "object_damaged"
    sentence = "The uploaded recording differs from the original."


def _codes(kind: type[AudioError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


CODES = tuple(_codes(AudioError))
