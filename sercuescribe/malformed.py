"""Requests that contain what is no text. They are rejected before anything of them is stored, looked up or echoed."""

import codecs
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from audio.errors import InvalidParameterError

# Python knows more encodings. Some of them fail for certain texts, or decode to halves of surrogate pairs.
_CHARSETS = frozenset(("utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be"))
# PostgreSQL stores no NUL, and headers have no control characters (RFC 9110 section 5.5). People paste tabs.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SHOWN = 64


def check(request: HttpRequest) -> None:
    """Check the charset and the query of a request.

    Raises:
        BadRequest: The charset is not supported, or the query has a control character.
    """
    if request.encoding is not None and codecs.lookup(request.encoding).name not in _CHARSETS:
        raise BadRequest("The charset of the request is not supported. Send text in UTF-8.")
    query = request.META.get("QUERY_STRING", "")
    if _CONTROL.search(unquote_to_bytes(query)):
        pairs = parse_qsl(query, keep_blank_values=True)
        name = next((name for name, text in pairs if _CONTROL.search(f"{name}{text}".encode())), "")[:_SHOWN]
        sentence = "The query of the URL must not contain control characters."
        raise BadRequest(sentence) from InvalidParameterError(sentence, parameter=name)


@sync_and_async_middleware
def reject_malformed(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Reject malformed requests with 400. This is a middleware."""
    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> Any:
            check(request)
            return await get_response(request)

        return in_loop

    def in_thread(request: HttpRequest) -> Any:
        check(request)
        return get_response(request)

    return in_thread
