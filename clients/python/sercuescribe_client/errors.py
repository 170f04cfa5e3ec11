"""The errors of the client.

ScribeError
├── ServerError                  the server rejected a request; the error has its stable `code`
│   ├── InvalidRequestError      the request is wrong
│   ├── NotAuthenticatedError    there is no key, or it is no longer valid
│   ├── NotAllowedError          the scopes of the key do not allow the request
│   ├── NotFoundError            the requested object does not exist, or is not yours
│   ├── ConflictError            the state of the session, recording or task does not allow the request
│   ├── NotReadyError            the recording or file is being made
│   ├── LimitReachedError        a limit is reached
│   └── ServiceUnavailableError  the server cannot handle the request now
├── ServerUnreachableError       the server did not respond
├── IncompleteError              a session was closed before all its chunks were stored
├── DownloadDamagedError         the downloaded file differs from the recording
└── UsageError                   the arguments are wrong

The protocol of the server lists the codes.
"""

from collections.abc import Mapping
from typing import Any


class ScribeError(Exception):
    """Base of all errors of the client."""


class ServerError(ScribeError):
    """An error of the server.

    Attributes:
        code: The stable code of the error.
        detail: A sentence for people. It may be reworded at any time.
        is_retryable: Whether the same may succeed later.
        retry_after_seconds: When to try again, if the server says so.
        details: The other keys of the error, such as `valid_values` and `limit`.
    """

    def __init__(
        self,
        detail: str,
        code: str,
        *,
        is_retryable: bool = False,
        retry_after_seconds: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.is_retryable = is_retryable
        self.retry_after_seconds = retry_after_seconds
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


class InvalidRequestError(ServerError):
    """The request is wrong. `details` say what would be right."""


class NotAuthenticatedError(ServerError):
    """There is no API key or token, or it is no longer valid."""


class NotAllowedError(ServerError):
    """The scopes of the key or token do not allow the request."""


class NotFoundError(ServerError):
    """The session, recording, key or task does not exist, or is not yours."""


class ConflictError(ServerError):
    """The state of the session, the recording or the task does not allow the request."""


class NotReadyError(ServerError):
    """The recording or the result of the task is being made."""


class LimitReachedError(ServerError):
    """The project or the session has reached a limit."""


class ServiceUnavailableError(ServerError):
    """The server cannot handle the request now, because it is overloaded, full, stopping or broken."""


class ServerUnreachableError(ScribeError):
    """The server did not answer, or is not a SercueScribe server."""


class IncompleteError(ScribeError):
    """A session was closed before all its chunks were known to be stored.

    Attributes:
        session_id: The id of the session.
        unconfirmed_chunk_count: The number of chunks that may be missing.
    """

    def __init__(self, session_id: str, unconfirmed_chunk_count: int) -> None:
        super().__init__(
            f"Session {session_id} was closed before {unconfirmed_chunk_count} chunks of this client were acknowledged."
        )
        self.session_id = session_id
        self.unconfirmed_chunk_count = unconfirmed_chunk_count


class DownloadDamagedError(ScribeError):
    """The SHA-256 or the length of a download is not that of the recording."""


class UsageError(ScribeError):
    """An argument or a file is wrong."""


_BY_STATUS: dict[int, type[ServerError]] = {
    202: NotReadyError,
    401: NotAuthenticatedError,
    403: NotAllowedError,
    404: NotFoundError,
    408: ServiceUnavailableError,
    409: ConflictError,
    429: LimitReachedError,
}
# A WebSocket has no status. These codes have this one over HTTP, and those that end with _NOT_FOUND have 404.
_STATUS_OF_CODE = {
    "connection_ended": 409,
    "idle_timeout": 408,
    "last_manager": 409,
    "legal_hold": 409,
    "limit_reached": 429,
    "not_allowed": 403,
    "not_authenticated": 401,
    "one_source_only": 409,
    "parameter_conflict": 409,
    "session_busy": 409,
    "session_closed": 409,
    "session_paused": 409,
    "session_state": 409,
    "superseded": 409,
    "too_many_connections": 429,
    "too_many_markers": 409,
}
_NOT_FOUND = "_not_found"
_KNOWN_KEYS = ("error", "detail", "code", "retryable", "retry_after_seconds")


def kind_of(status: int) -> type[ServerError]:
    """Return the class of an error with this HTTP status."""
    return _BY_STATUS.get(status, ServiceUnavailableError if status >= 500 else InvalidRequestError)


def error_of(message: Mapping[str, Any], status: int | None = None, retry_after: str | None = None) -> ServerError:
    """Return the error in a JSON message of the server.

    Args:
        message: The error over HTTP, or a message of the WebSocket.
        status: The HTTP status, if there is one.
        retry_after: The value of the header Retry-After, if there is one.
    """
    code = str(message.get("code") or "internal_error")
    is_retryable = bool(message.get("retryable", retry_after is not None))
    if status is None:
        status = _status_of(code, is_retryable)
    seconds = message.get("retry_after_seconds", retry_after)
    return kind_of(status)(
        str(message.get("error") or message.get("detail") or "The server gave no reason."),
        code,
        is_retryable=is_retryable,
        retry_after_seconds=_seconds(seconds),
        details={key: value for key, value in message.items() if key not in _KNOWN_KEYS},
    )


def _status_of(code: str, is_retryable: bool) -> int:
    if code.endswith(_NOT_FOUND):
        return 404
    return _STATUS_OF_CODE.get(code, 503 if is_retryable or code == "internal_error" else 400)


def _seconds(value: object) -> float | None:
    """Return a number of seconds; None if it is none. Proxies may send a date as Retry-After."""
    try:
        return max(0.0, float(str(value)))
    except ValueError:
        return None
