"""Descriptions for the OpenAPI document: of the authentication, and of responses that no serializer describes."""

from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

_SENTENCES = {
    202: "Not ready yet: `recording_building`, `task_running`. Try again after Retry-After seconds.",
    400: "A parameter, a field or the id is invalid: `invalid_parameter`, `invalid_session_id`, `parse_error`.",
    401: "No API key, token or login was given, or it is not valid: `not_authenticated`.",
    403: "The scopes of the API key, the token or the role do not allow the request: `not_allowed`.",
    404: "The session, chunk, task or recording does not exist: `session_not_found`, `chunk_not_found`, "
    "`task_not_found`, `recording_empty`, `webhook_not_found`, `project_not_found`, `member_not_found`.",
    409: "The state of the session, the recording, the task, the webhook or the project does not allow this. The code "
    "says why.",
    412: "If-Match or If-Unmodified-Since does not match: `precondition_failed`.",
    413: "The request body is too large: `message_too_large`.",
    415: "The body is neither JSON nor a form: `unsupported_media_type`.",
    416: "The range is outside the recording: `range_not_satisfiable`.",
    429: "The project has reached a limit: `limit_reached`. Try again after Retry-After seconds.",
    500: "A stored chunk is missing or damaged: `chunk_damaged`.",
    503: "The server cannot handle the request now. Try again after Retry-After seconds.",
}
AT_THE_DOOR = (401, 403, 429)
_AUDIO_TYPES = ("audio/wav", "audio/mpeg", "audio/flac", "audio/aac", "audio/webm", "audio/ogg", "audio/mp4")


class SecretScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme of API keys and session tokens."""

    target_class = "audio.api.access.SecretAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "An API key or a session token."}


class MetricsScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme of programs that scrape metrics."""

    target_class = "audio.api.metrics.TokenAuthentication"
    name = "metrics"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "METRICS_TOKEN."}


class CookieScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme of people who have logged in."""

    target_class = "audio.api.access.CookieAuthentication"
    name = "login"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """Return the scheme."""
        cookie = settings.SESSION_COOKIE_NAME
        return {"type": "apiKey", "in": "cookie", "name": cookie, "description": "The cookie of a login."}


class ErrorSerializer(serializers.Serializer[Any]):
    """An error. More keys may say what would be right: `parameter`, `valid_values`, `limit`."""

    detail = serializers.CharField(help_text="A sentence for people. It may be reworded.")
    code = serializers.CharField(help_text="A stable code for programs.")


def answers(*statuses: int) -> dict[int, OpenApiResponse]:
    """Return the descriptions of responses with these statuses, whose bodies are errors.

    Every operation that asks for an identity can also have the statuses AT_THE_DOOR.
    """
    return {
        status: OpenApiResponse(ErrorSerializer, description=_SENTENCES[status])
        for status in sorted({*statuses, *AT_THE_DOOR})
    }


def download() -> dict[Any, OpenApiResponse]:
    """Return the descriptions of the responses to a download: the file, a range of it, and "not modified"."""
    whole = OpenApiResponse(OpenApiTypes.BINARY, description="The recording.")
    part = OpenApiResponse(OpenApiTypes.BINARY, description="The requested range.")
    described: dict[Any, OpenApiResponse] = {(200, media_type): whole for media_type in _AUDIO_TYPES}
    described |= {(206, media_type): part for media_type in _AUDIO_TYPES}
    described[304] = OpenApiResponse(description="Not modified, according to If-None-Match or If-Modified-Since.")
    return described


def reject_unknown_fields(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Mark the request bodies (`New...`) as closed, because the views reject unknown fields.

    This is a postprocessing hook of drf-spectacular.
    """
    for name, schema in result["components"]["schemas"].items():
        if name.startswith("New"):
            schema["additionalProperties"] = False
    return result


def session_operation(
    summary: str,
    responses: dict[Any, Any],
    *errors: int,
    parameters: Sequence[OpenApiParameter] = (),
    **options: Any,
) -> Callable[[Any], Any]:
    """Return a decorator that describes an operation on the session in the path, with its possible errors."""
    session_id = OpenApiParameter("session_id", OpenApiTypes.UUID, OpenApiParameter.PATH)
    decorate: Callable[[Any], Any] = extend_schema(
        summary=summary,
        tags=["sessions"],
        parameters=[session_id, *parameters],
        responses={**responses, **answers(*errors)},
        **options,
    )
    return decorate
