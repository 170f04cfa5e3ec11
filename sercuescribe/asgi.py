"""The ASGI application: HTTP to Django, WebSockets to the recorder's consumers."""

import os
from urllib.parse import ParseResult

from channels.routing import ProtocolTypeRouter
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
_http = get_asgi_application()

from audio.routing import application as _websocket  # noqa: E402 - models load only after Django is set up


class BrowserOriginValidator(OriginValidator):  # type: ignore[misc]  # Channels is not typed
    """Refuses pages of other origins. A client that sends no Origin (RFC 6454) is no browser and is let through."""

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Whether a connection with this Origin may be opened."""
        return parsed_origin is None or bool(super().valid_origin(parsed_origin))


application = ProtocolTypeRouter(
    {"http": _http, "websocket": BrowserOriginValidator(_websocket, settings.ALLOWED_ORIGINS)},
)
