"""The ASGI application: HTTP to Django, WebSockets to the recorder's consumers."""

import os
from typing import Any
from urllib.parse import ParseResult

from channels.routing import ProtocolTypeRouter
from channels.security.websocket import OriginValidator, WebsocketDenier
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http.request import split_domain_port, validate_host

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
_http = get_asgi_application()

from audio.routing import application as _websocket  # noqa: E402 - models load only after Django is set up


class BrowserOriginValidator(OriginValidator):  # type: ignore[misc]  # Channels is not typed
    """Refuses pages of other origins. A client that sends no Origin (RFC 6454) is no browser and is let through."""

    def valid_origin(self, parsed_origin: ParseResult | None) -> bool:
        """Whether a connection with this Origin may be opened."""
        return parsed_origin is None or bool(super().valid_origin(parsed_origin))


class HostValidator:
    """Refuses handshakes for hosts that ALLOWED_HOSTS does not name, as Django refuses requests."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._denier = WebsocketDenier.as_asgi()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        is_known = validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)
        await (self._application if is_known else self._denier)(scope, receive, send)


application = ProtocolTypeRouter(
    {
        "http": _http,
        "websocket": HostValidator(BrowserOriginValidator(_websocket, settings.ALLOWED_ORIGINS)),
    },
)
