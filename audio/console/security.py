"""The Content-Security-Policy of every page (CSP level 3). Pages load from this server only, and send to it only.

Inline styles are allowed because the pages of REST framework, Swagger UI and ReDoc use them. ReDoc searches in a worker
that it creates from a blob. The pages of the console need neither.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware


def _policy(*directives: str) -> str:
    everywhere = (
        "default-src 'self'",
        "img-src 'self' data:",
        "media-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
    return "; ".join((*everywhere, *directives))


POLICY = _policy("style-src 'self' 'unsafe-inline'", "worker-src 'self' blob:")
CONSOLE_POLICY = _policy("style-src 'self'", "worker-src 'self'")


@sync_and_async_middleware
def secure_cookies(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Mark the cookies of requests over TLS as secure. This is a middleware."""

    def marked(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.is_secure():
            for cookie in response.cookies.values():
                cookie["secure"] = True
        return response

    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> HttpResponseBase:
            awaited: Awaitable[HttpResponseBase] = get_response(request)
            return marked(request, await awaited)

        return in_loop

    def in_thread(request: HttpRequest) -> HttpResponseBase:
        return marked(request, get_response(request))

    return in_thread


@sync_and_async_middleware
def content_security_policy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set POLICY on each response, unless its view set another policy. This is a middleware."""

    def marked(response: HttpResponseBase) -> HttpResponseBase:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> HttpResponseBase:
            awaited: Awaitable[HttpResponseBase] = get_response(request)
            return marked(await awaited)

        return in_loop

    def in_thread(request: HttpRequest) -> HttpResponseBase:
        return marked(get_response(request))

    return in_thread
