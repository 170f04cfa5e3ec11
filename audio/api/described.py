"""What the OpenAPI document says of answers that are not a serializer's: errors and files."""

from collections.abc import Callable, Sequence
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

_SENTENCES = {
    202: "Not ready yet: `recording_building`, `task_running`. Try again after Retry-After seconds.",
    400: "A parameter, a field or the id is invalid: `invalid_parameter`, `invalid_session_id`, `parse_error`.",
    404: "The session, chunk, task or recording does not exist: `session_not_found`, `chunk_not_found`, "
    "`task_not_found`, `recording_empty`.",
    409: "The state of the session, the recording or the task does not allow this. The code says why.",
    412: "If-Match or If-Unmodified-Since does not match: `precondition_failed`.",
    413: "The request body is too large: `message_too_large`.",
    415: "The body is neither JSON nor a form: `unsupported_media_type`.",
    416: "The range is outside the recording: `range_not_satisfiable`.",
    500: "A stored chunk is missing or damaged: `chunk_damaged`.",
    503: "The server cannot do this now. Try again after Retry-After seconds.",
}
_AUDIO_TYPES = ("audio/wav", "audio/mpeg", "audio/flac", "audio/aac", "audio/webm", "audio/ogg", "audio/mp4")


class ErrorSerializer(serializers.Serializer[Any]):
    """An error. More keys may say what would be right: `parameter`, `valid_values`, `limit`."""

    detail = serializers.CharField(help_text="A sentence for people. It may be reworded.")
    code = serializers.CharField(help_text="A stable code for programs.")


def answers(*statuses: int) -> dict[int, OpenApiResponse]:
    """Takes statuses; returns their descriptions, each with a body of the shape of an error."""
    return {status: OpenApiResponse(ErrorSerializer, description=_SENTENCES[status]) for status in statuses}


def download() -> dict[Any, OpenApiResponse]:
    """Returns the descriptions of a file's answers: whole, a range of it, unchanged."""
    whole = OpenApiResponse(OpenApiTypes.BINARY, description="The recording.")
    part = OpenApiResponse(OpenApiTypes.BINARY, description="The requested range.")
    described: dict[Any, OpenApiResponse] = {(200, media_type): whole for media_type in _AUDIO_TYPES}
    described |= {(206, media_type): part for media_type in _AUDIO_TYPES}
    described[304] = OpenApiResponse(description="Not modified, according to If-None-Match or If-Modified-Since.")
    return described


def refuse_unknown_fields(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A postprocessing hook of drf-spectacular: says of what a client asks for (`New...`) that no field may be added,
    which the views refuse."""
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
    """Returns the decorator that describes an operation on the session in the path, with the errors it may meet."""
    session_id = OpenApiParameter("session_id", OpenApiTypes.UUID, OpenApiParameter.PATH)
    decorate: Callable[[Any], Any] = extend_schema(
        summary=summary,
        tags=["sessions"],
        parameters=[session_id, *parameters],
        responses={**responses, **answers(*errors)},
        **options,
    )
    return decorate
