"""Every error over HTTP in one shape: `{"detail": sentence, "code": word}` and what would have been right.

`handle_exception` is REST framework's exception handler; `not_found` and the others are Django's handlers for
what never reaches a view. Below API_FOLDERS they answer JSON, elsewhere Django's own pages.
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

from audio.database import AWAY, is_full, refusal
from audio.errors import AudioError, RangeNotSatisfiable, StorageFull, UpgradeRequired

logger = structlog.stdlib.get_logger(__name__)

API_FOLDERS = ("api", "health")
RETRY_AFTER_SECONDS = 2


def handle_exception(exc: Exception, context: dict[str, Any]) -> HttpResponseBase | None:
    """Takes what a view raised and REST framework's context; returns the answer, or None for a fault of ours.

    A retryable error carries Retry-After in seconds (RFC 9110 section 10.2.3): its detail
    `retry_after_seconds` where it has one.
    """
    if isinstance(exc, AWAY):
        logger.error("database_failed", error=str(exc))
        exc = refusal(exc)
    elif isinstance(exc, OSError) and is_full(exc):
        exc = StorageFull()
    if isinstance(exc, AudioError):
        return Response(body(exc), status=exc.http_status, headers=_headers(exc))
    response = exception_handler(exc, context)
    if isinstance(exc, exceptions.ValidationError) and isinstance(response, Response):
        response.data = _validation_body(exc.detail)
    elif isinstance(response, Response):
        detail = response.data["detail"]
        response.data = {"detail": str(detail), "code": detail.code}
    return response


def body(error: AudioError) -> dict[str, Any]:
    """Returns the JSON of an error: its sentence, its code, its details."""
    return {"detail": error.detail, "code": error.code, **error.details}


def _headers(error: AudioError) -> dict[str, str]:
    headers = {}
    if error.retryable:
        headers["Retry-After"] = str(error.details.get("retry_after_seconds", RETRY_AFTER_SECONDS))
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.details['size_bytes']}"
    if isinstance(error, UpgradeRequired):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    return headers


def _validation_body(detail: Any) -> dict[str, Any]:
    """The first thing that is wrong, and the field that it is about; the rest shows when that is put right."""
    names = []
    while isinstance(detail, (dict, list)) and detail:
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            names.append(name)
        else:
            detail = detail[0]
    field = ".".join(name for name in names if name != "non_field_errors")
    if not field:
        return {"detail": str(detail), "code": "invalid_parameter"}
    return {"detail": f"{field}: {detail}", "code": "invalid_parameter", "parameter": field}


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.strip("/").split("/")[0] in API_FOLDERS


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler400: what Django refuses before a view sees it, such as a host that is not in ALLOWED_HOSTS."""
    if _is_api(request):
        detail = str(exception) if isinstance(exception, BadRequest) else "The request could not be understood."
        return JsonResponse({"detail": detail, "code": "bad_request"}, status=400)
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler404."""
    if _is_api(request):
        return JsonResponse({"detail": "Nothing exists at this path.", "code": "not_found"}, status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """handler500: a fault of ours, told without its particulars; those are in the log."""
    if _is_api(request):
        return JsonResponse(body(AudioError()), status=500)
    return defaults.server_error(request)
