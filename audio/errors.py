"""Every error that a client, an operator or a task can meet, in one table.

AudioError
├── RequestError            the client can put it right
│   ├── InvalidParameter    ├── ParameterConflict   ├── InvalidSessionId
│   ├── InvalidJson         ├── UnknownMessageType  ├── UnknownAction
│   ├── FormatMismatch      ├── MissingHeader       ├── MessageTooLarge
│   ├── NotAuthenticated    ├── NotAllowed          ├── ProjectNotFound
│   ├── KeyNotFound         ├── TokenNotFound       ├── PreconditionFailed
│   ├── RangeNotSatisfiable └── UpgradeRequired
├── SessionError            the session's state forbids it
│   ├── SessionNotFound     ├── SessionClosed       ├── SessionPaused
│   ├── OneSourceOnly       ├── TooManyConnections  ├── SessionBusy
│   └── ChunkNotFound
├── ConnectionEnded         this connection is over, the session is not
│   ├── IdleTimeout         └── Superseded
├── ServiceError            our side; the same request may succeed later
│   ├── Overloaded          ├── TooManySessions     ├── LimitReached
│   ├── StorageFull         ├── DatabaseUnavailable ├── JournalFailed
│   └── StorageUnavailable
├── RecordingError          the recording can't be fetched in this state
│   ├── RecordingEmpty      ├── RecordingBuilding   ├── RecordingFailed
│   └── RecordingNotReady
├── TaskError               the state of a background task forbids it
│   ├── TaskNotFound        ├── TaskRunning         ├── TaskFailed
│   └── TaskEnded
└── MediaError              the audio can't become the recording that it should
    ├── UndecodableChunk    ├── UnsupportedMedia    ├── MasterDamaged
    ├── ChunkDamaged        ├── ChunksReleased      ├── MediaLimitExceeded
    ├── FfmpegMissing       ├── FfmpegFailed        ├── FfmpegStopped
    └── ObjectDamaged

`code` is stable and meant for programs; the sentence is meant for people and may be reworded. `close_code` is the
WebSocket close code that follows the error (RFC 6455 section 7.4; codes from 4000 on are our own), or None if the
connection stays open. `http_status` is the status of a REST answer. `details` are extra keys that say what would have
been right (`valid_values`, `limit`, `received`).
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class AudioError(Exception):
    """Base of all errors above.

    Args:
        sentence: The sentence for people; each class has a default.
        details: Any number of JSON-serialisable details.
    """

    code: ClassVar[str] = "internal_error"
    close_code: ClassVar[int | None] = 1011
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    sentence: ClassVar[str] = "The server failed because of a bug or a fault of its own."

    def __init__(self, sentence: str | None = None, **details: Any) -> None:
        self.detail = sentence or self.sentence
        self.details = details
        super().__init__(self.detail)


class RequestError(AudioError):
    """The request was wrong; the same request will be wrong again."""

    code = "bad_request"
    close_code: ClassVar[int | None] = 1008
    http_status = 400
    sentence = "The request could not be understood."


class InvalidParameter(RequestError):
    """A query parameter or field has a value outside its range; details name it and the valid values."""

    code = "invalid_parameter"
    sentence = "A parameter has an invalid value."


class ParameterConflict(RequestError):
    """A connection names parameters that are not those of the session that it continues."""

    code = "parameter_conflict"
    http_status = 409
    sentence = "The parameters differ from those of the session."


class InvalidSessionId(RequestError):
    """The session id in the path is not a UUID (RFC 9562)."""

    code = "invalid_session_id"
    sentence = "A session id must be a UUID, such as 123e4567-e89b-42d3-a456-426614174000."


class InvalidJson(RequestError):
    """A text message was not JSON (RFC 8259)."""

    code = "invalid_json"
    close_code = None
    sentence = "Invalid JSON format"


class UnknownMessageType(RequestError):
    """A JSON message has no type that the protocol knows."""

    code = "unknown_message_type"
    close_code = None
    sentence = "Unknown message type"


class UnknownAction(RequestError):
    """A control message has an action that the protocol does not know."""

    code = "unknown_action"
    close_code = None
    sentence = "Unknown control action"


class FormatMismatch(RequestError):
    """The content has another format than the session. The message was not stored."""

    code = "format_mismatch"
    close_code = None
    http_status = 415
    sentence = "The content does not match the format of the session."


class MissingHeader(RequestError):
    """The first message of a stream lacks the header that is needed to read the rest. The message was not stored."""

    code = "missing_header"
    close_code = None
    http_status = 415
    sentence = "The stream must begin with its header. Send the first slice of the recorder first."


class MessageTooLarge(RequestError):
    """A message is larger than MAX_MESSAGE_SIZE_BYTES."""

    code = "message_too_large"
    close_code = 1009
    http_status = 413
    sentence = "The message is larger than the server allows."


class NotAllowed(RequestError):
    """The caller may not do this: the ticket is missing, was already used, or belongs to another session."""

    code = "not_allowed"
    http_status = 403
    sentence = "You are not allowed to do this."


class NotAuthenticated(RequestError):
    """Nobody has said who asks, or what they presented is not valid (RFC 9110 section 15.5.2)."""

    code = "not_authenticated"
    http_status = 401
    sentence = "This needs an API key, a session token or a login."


class ProjectNotFound(RequestError):
    """The caller has no project with this name."""

    code = "project_not_found"
    http_status = 404
    sentence = "You have no project with this name."


class KeyNotFound(RequestError):
    """The caller's projects have no such API key."""

    code = "key_not_found"
    http_status = 404
    sentence = "No API key has this id."


class TokenNotFound(RequestError):
    """The session has no such token."""

    code = "token_not_found"
    http_status = 404
    sentence = "The session has no token with this id."


class PreconditionFailed(RequestError):
    """If-Match or If-Unmodified-Since does not hold (RFC 9110 section 15.5.13)."""

    code = "precondition_failed"
    http_status = 412
    sentence = "The recording does not match the precondition of the request."


class UpgradeRequired(RequestError):
    """A plain GET was sent to the path of a WebSocket (RFC 9110 section 15.5.22)."""

    code = "upgrade_required"
    http_status = 426
    sentence = "This path is a WebSocket. Open it with ws:// or wss://, and through a proxy that passes the upgrade."


class RangeNotSatisfiable(RequestError):
    """A Range asks for bytes that are not there (RFC 9110 section 15.5.17); details have the `size_bytes`."""

    code = "range_not_satisfiable"
    http_status = 416
    sentence = "The range is outside the recording."


class SessionError(AudioError):
    """The session's state does not allow it."""

    code = "session_state"
    close_code: ClassVar[int | None] = 1008
    http_status = 409
    sentence = "The state of the session does not allow this."


class SessionNotFound(SessionError):
    """No session has this id."""

    code = "session_not_found"
    http_status = 404
    sentence = "No session has this id."


class SessionClosed(SessionError):
    """The session takes no more chunks."""

    code = "session_closed"
    sentence = "The session is closed and accepts no more audio."


class SessionPaused(SessionError):
    """A chunk arrived while the session was paused; it was not stored."""

    code = "session_paused"
    close_code = None
    sentence = "The session is paused, and the chunk was not stored. Send resume first."


class OneSourceOnly(SessionError):
    """A second source tried to write to a continuous compressed stream."""

    code = "one_source_only"
    retryable = True
    sentence = "A continuous compressed stream accepts one source at a time."


class TooManyConnections(SessionError):
    """The session already has as many connections as MAX_CONNECTIONS_PER_SESSION allows."""

    code = "too_many_connections"
    http_status = 429
    retryable = True
    sentence = "The session has reached its limit of connections."


class SessionBusy(SessionError):
    """Another process is working on the session's recording."""

    code = "session_busy"
    retryable = True
    sentence = "Another process is working on the recording. Try again in a moment."


class ChunkNotFound(SessionError):
    """The session has no chunk with this sequence."""

    code = "chunk_not_found"
    close_code = None
    http_status = 404
    sentence = "The session has no chunk with this sequence."


class ConnectionEnded(AudioError):
    """This connection is over; the session goes on."""

    code = "connection_ended"
    http_status = 409
    sentence = "The connection has ended."


class IdleTimeout(ConnectionEnded):
    """Nothing arrived for CONNECTION_TIMEOUT_SECONDS."""

    code = "idle_timeout"
    close_code = 4408
    http_status = 408
    retryable = True
    sentence = "The connection was idle for too long."


class Superseded(ConnectionEnded):
    """A newer connection has taken over this source."""

    code = "superseded"
    close_code = 4409
    sentence = "A newer connection has taken over this source."


class ServiceError(AudioError):
    """The server can't do it now; the same request may succeed later (RFC 6455 close code 1013)."""

    code = "service_unavailable"
    close_code = 1013
    http_status = 503
    retryable = True
    sentence = "The server cannot do this now. Try again later."


class Overloaded(ServiceError):
    """More bytes are in flight than the server accepts."""

    code = "overloaded"
    sentence = "The server is overloaded. Try again later."


class TooManySessions(ServiceError):
    """MAX_CONCURRENT_SESSIONS are open."""

    code = "too_many_sessions"
    sentence = "The server has reached its limit of open sessions. Try again later."


class LimitReached(ServiceError):
    """A limit of the project; details name it, and say after how many seconds another attempt makes sense."""

    code = "limit_reached"
    http_status = 429
    sentence = "The project has reached a limit. Try again later."


class StorageFull(ServiceError):
    """The disk is full or the quota is used up; nothing of the rejected chunk was acknowledged."""

    code = "storage_full"
    http_status = 507
    sentence = "The storage of the server is full. Try again later."


class DatabaseUnavailable(ServiceError):
    """The database did not answer; nothing of the rejected chunk was acknowledged."""

    code = "database_unavailable"
    sentence = "The database of the server does not respond. Try again later."


class JournalFailed(ServiceError):
    """The journal could not be written or synced; nothing of the rejected chunk was acknowledged."""

    code = "journal_failed"
    close_code = 1011
    http_status = 500
    sentence = "The server could not store the chunk. Reconnect and send it again."


class StorageUnavailable(ServiceError):
    """The storage of finished recordings does not answer, or rejects the request. Nothing is lost by that."""

    code = "storage_unavailable"
    sentence = "The storage that holds the recording does not respond. Try again later."


class RecordingError(AudioError):
    """The recording can't be downloaded in its current state."""

    code = "recording_state"
    close_code = None
    http_status = 409
    sentence = "The recording cannot be downloaded in its current state."


class RecordingEmpty(RecordingError):
    """Nothing has been recorded, or no audio has been processed yet."""

    code = "recording_empty"
    http_status = 404
    sentence = "The session has no recording yet."


class RecordingBuilding(RecordingError):
    """The session is closed and its recording is being made; details contain the `progress` from 0 to 1."""

    code = "recording_building"
    http_status = 202
    retryable = True
    sentence = "The recording is being made. Try again in a moment."


class RecordingFailed(RecordingError):
    """The recording could not be made; details contain the `reason` and, if one chunk is at fault, its `sequence`."""

    code = "recording_failed"
    sentence = "The recording could not be made."


class RecordingNotReady(RecordingError):
    """The request needs a finished recording, and the session is not closed yet."""

    code = "recording_not_ready"
    sentence = "The recording is not finished. Close the session first."


class TaskError(AudioError):
    """The state of a background task does not allow it."""

    code = "task_state"
    close_code = None
    http_status = 409
    sentence = "The state of the task does not allow this."


class TaskNotFound(TaskError):
    """No background task has this id."""

    code = "task_not_found"
    http_status = 404
    sentence = "No task has this id."


class TaskRunning(TaskError):
    """The requested result is being made; details contain `task_id`, `status` and the `progress` from 0 to 1."""

    code = "task_running"
    http_status = 202
    retryable = True
    sentence = "The task is not finished. Try again in a moment."


class TaskFailed(TaskError):
    """The requested result could not be made; details contain the `reason`. A `POST /api/tasks` tries again."""

    code = "task_failed"
    sentence = "The task failed."


class TaskEnded(TaskError):
    """The task has ended already and can't be revoked."""

    code = "task_ended"
    sentence = "The task has already ended."


class MediaError(AudioError):
    """The audio can't become the recording that it should."""

    code = "media_error"
    http_status = 409
    sentence = "The audio could not be processed."


class UndecodableChunk(MediaError):
    """A chunk can't be decoded; details contain its `sequence`."""

    code = "undecodable_chunk"
    sentence = "A chunk could not be decoded."


class ChunkDamaged(MediaError):
    """A stored chunk is missing from its journal or fails its CRC-32."""

    code = "chunk_damaged"
    http_status = 500
    sentence = "A stored chunk is missing or damaged."


class ChunksReleased(MediaError):
    """The journal with the chunks was removed after the recording was verified: only the recording is left."""

    code = "chunks_released"
    sentence = "The chunks were deleted after the recording was verified. The recording cannot be rebuilt."


class UnsupportedMedia(MediaError):
    """The content is of a kind that this server does not record."""

    code = "unsupported_media"
    http_status = 415
    sentence = "The server does not record this kind of audio."


class MasterDamaged(MediaError):
    """The master file is shorter than the database says; it is never padded."""

    code = "master_damaged"
    sentence = "The file of the recording is shorter than it should be. Rebuild the recording from its chunks."


class MediaLimitExceeded(MediaError):
    """FFmpeg exceeded a limit on time, memory or output."""

    code = "media_limit_exceeded"
    sentence = "Processing the audio exceeded a limit of time, memory or disk space."


class FfmpegMissing(MediaError):
    """No usable FFmpeg program was found."""

    code = "ffmpeg_missing"
    http_status = 503
    retryable = True
    sentence = "FFmpeg was not found. Set FFMPEG_BINARY, or install the requirements."


class FfmpegFailed(MediaError):
    """FFmpeg ended with an error; the sentence contains the first line of its message."""

    code = "ffmpeg_failed"
    sentence = "FFmpeg could not process the audio."


class FfmpegStopped(MediaError):
    """FFmpeg was stopped from outside; the media are not at fault."""

    code = "ffmpeg_stopped"
    http_status = 503
    retryable = True
    sentence = "FFmpeg was stopped before it finished."


class ObjectDamaged(MediaError):
    """The object in the storage is not what was uploaded: its size or its SHA-256 differs."""

    code = "object_damaged"
    sentence = "The uploaded recording differs from the original."


def _codes(kind: type[AudioError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


CODES = tuple(_codes(AudioError))
