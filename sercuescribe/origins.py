"""The origins of pages that may use this server: one rule for WebSockets and for the HTTP API."""

from urllib.parse import SplitResult, urlparse

from channels.security.websocket import OriginValidator
from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from audio.errors import NotAllowedError

_SAFE = ("GET", "HEAD", "OPTIONS")


def allows(origin: str) -> bool:
    """Tell whether pages of an origin (the value of an `Origin` header) are in ALLOWED_ORIGINS.

    A value that is no URL, or has an invalid port, matches no origin.
    """
    try:
        parsed = urlparse(origin)
        return parsed.port != 0 and bool(OriginValidator(None, settings.ALLOWED_ORIGINS).valid_origin(parsed))
    except ValueError:
        return False


def is_foreign(request: HttpRequest) -> bool:
    """Tell whether a page of an origin that is not allowed sends a request.

    Browsers name the origin of a page with each request that is no GET. Browsers send requests that a form could send
    too without asking for permission first.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    own = (f"http://{request.get_host()}", f"https://{request.get_host()}", *settings.CSRF_TRUSTED_ORIGINS)
    return origin not in own and not allows(origin)


class CrossOrigin(CorsMiddleware):
    """A middleware that lets pages of allowed origins use the API (CORS, as the Fetch standard describes it).

    If authentication is off, it also prevents other pages from changing anything. Otherwise these would need a key or
    token, or the CSRF token of a login.
    """

    def check_preflight(self, request: HttpRequest) -> HttpResponseBase | None:
        """Answer a preflight request, or one that a page of another origin may not send."""
        answer: HttpResponseBase | None = super().check_preflight(request)
        is_api = self.is_enabled(request)
        if answer is None and is_api and not settings.REQUIRE_AUTH and request.method not in _SAFE:
            error = NotAllowedError(
                "Pages of this origin may not use the server. The operator can add the origin to ALLOWED_ORIGINS."
            )
            if is_foreign(request):
                return JsonResponse({"detail": error.detail, "code": error.code}, status=error.http_status)
        return answer

    def origin_found_in_white_lists(self, origin: str, url: SplitResult) -> bool:
        """Tell whether pages of an origin may read a response."""
        return allows(origin)
