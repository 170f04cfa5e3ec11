"""The origins of pages that may use this server: one rule for WebSockets and for the HTTP API."""

from urllib.parse import SplitResult, urlparse

from channels.security.websocket import OriginValidator
from corsheaders.middleware import CorsMiddleware
from django.conf import settings


def allows(origin: str) -> bool:
    """Tell whether pages of an origin (the value of an `Origin` header) are in ALLOWED_ORIGINS.

    A value that is no URL, or has an invalid port, matches no origin.
    """
    try:
        parsed = urlparse(origin)
        return parsed.port != 0 and bool(OriginValidator(None, settings.ALLOWED_ORIGINS).valid_origin(parsed))
    except ValueError:
        return False


class CrossOrigin(CorsMiddleware):
    """A middleware that lets pages of allowed origins use the API (CORS, as the Fetch standard describes it)."""

    def origin_found_in_white_lists(self, origin: str, url: SplitResult) -> bool:
        """Tell whether pages of an origin may read a response."""
        return allows(origin)
