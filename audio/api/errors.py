"""Errors over HTTP, all in one form: `{"detail": sentence, "code": word}`, with further keys that say what is right.

`handle_exception` is REST framework's exception handler. `not_found` and the others are Django's handlers of requests
that reach no view. They answer with JSON for paths below API_FOLDERS, and with Django's own pages for all others.
"""

from typing import Any

import structlog
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views import defaults
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler

from audio.database import AWAY, is_full, rejection
from audio.errors import (
    AudioError,
    NotAuthenticatedError,
    RangeNotSatisfiableError,
    RequestError,
    StorageFullError,
    UpgradeRequiredError,
)

logger = structlog.stdlib.get_logger(__name__)

API_FOLDERS = ("api", "health")
RETRY_AFTER_SECONDS = 2


def handle_exception(exc: Exception, context: dict[str, Any]) -> HttpResponseBase | None:
    """Return the response to an exception of a view; None for an unexpected exception.

    The response to a retryable error has a Retry-After header in seconds (RFC 9110 section 10.2.3). The value is the
    detail `retry_after_seconds` if the error has it.
    """
    if isinstance(exc, AWAY):
        logger.error("database_failed", error=str(exc))
        exc = rejection(exc)
    elif isinstance(exc, OSError) and is_full(exc):
        exc = StorageFullError()
    if isinstance(exc, AudioError):
        return Response(body(exc), status=exc.http_status, headers=_headers(exc))
    response = exception_handler(exc, context)
    if isinstance(exc, exceptions.ValidationError) and isinstance(response, Response):
        response.data = _validation_body(exc.detail)
    elif isinstance(response, Response):
        detail = response.data["detail"]
        sentence = NotAuthenticatedError.sentence if isinstance(exc, exceptions.NotAuthenticated) else str(detail)
        response.data = {"detail": sentence, "code": detail.code}
    return response


def body(error: AudioError) -> dict[str, Any]:
    """Return the JSON of an error: its sentence, its code and its details."""
    return {"detail": error.detail, "code": error.code, **error.details}


def _headers(error: AudioError) -> dict[str, str]:
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(error.details.get("retry_after_seconds", RETRY_AFTER_SECONDS))
    if isinstance(error, NotAuthenticatedError):
        headers["WWW-Authenticate"] = 'Bearer realm="SercueScribe", error="invalid_token"'  # RFC 6750 section 3
    if isinstance(error, RangeNotSatisfiableError):
        headers["Content-Range"] = f"bytes */{error.details['size_bytes']}"
    if isinstance(error, UpgradeRequiredError):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    return headers


def _validation_body(detail: Any) -> dict[str, Any]:
    """Return the first validation error and its field. The others appear when that one is corrected."""
    names = []
    while isinstance(detail, (dict, list)) and detail:
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            names.append(name)
        else:
            detail = detail[0]
    field = ".".join(str(name) for name in names if name != "non_field_errors")
    if not field:
        return {"detail": str(detail), "code": "invalid_parameter"}
    return {"detail": f"{field}: {detail}", "code": "invalid_parameter", "parameter": field}


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.strip("/").split("/")[0] in API_FOLDERS


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that is rejected before a view sees it, for example because of its host (handler400).

    If one of this project's errors is the cause of the exception, the response has its code and details.
    """
    if _is_api(request):
        if isinstance(exception.__cause__, RequestError):
            return JsonResponse(body(exception.__cause__), status=exception.__cause__.http_status)
        detail = str(exception) if isinstance(exception, BadRequest) else "The request could not be understood."
        return JsonResponse({"detail": detail, "code": "bad_request"}, status=400)
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request of an unknown path (handler404)."""
    if _is_api(request):
        return JsonResponse({"detail": "Nothing exists at this path.", "code": "not_found"}, status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer a request that failed because of a bug, without details, which are in the log (handler500)."""
    if _is_api(request):
        return JsonResponse(body(AudioError()), status=500)
    return defaults.server_error(request)
