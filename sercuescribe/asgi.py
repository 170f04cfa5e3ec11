"""The ASGI application. HTTP requests go to Django, WebSockets to the consumers."""

import os
from typing import Any

import structlog
from channels.routing import ProtocolTypeRouter
from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http.request import split_domain_port, validate_host

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
_django = get_asgi_application()

from audio import metrics  # noqa: E402 - as below
from audio.routing import application as _websocket  # noqa: E402 - models load only after Django is set up
from audio.streams import EventStreams  # noqa: E402
from sercuescribe import origins  # noqa: E402
from sercuescribe.proxies import BelowPath, Rejected, TrustedProxies, host_advice  # noqa: E402

logger = structlog.stdlib.get_logger("sercuescribe.asgi")


class HandshakeValidator:
    """A filter of handshakes by their host and their origin.

    It rejects hosts that are not in ALLOWED_HOSTS, and pages of origins that are not allowed. A client that sends no
    Origin header (RFC 6454) is not a browser, and passes. Rejected handshakes are counted, and logged once for each
    value, because a page whose origin is not allowed tries again and again.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._denier = WebsocketDenier.as_asgi()
        self._rejected = Rejected()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass an accepted handshake to the application, and deny any other."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
            self._note("host", host, host_advice(host))
        elif origin is not None and not origins.allows(origin):
            self._note("origin", origin, "Add it to ALLOWED_ORIGINS if its pages may record.")
        else:
            await self._application(scope, receive, send)
            return
        await self._denier(scope, receive, send)

    def _note(self, reason: str, value: str, advice: str) -> None:
        metrics.handshakes_rejected.labels(reason).inc()
        if shown := self._rejected.shown(value):
            logger.warning("handshake_rejected", reason=reason, received=shown, advice=advice)


# The server ends its streams before it stops.
event_streams = EventStreams(_django)
_routed = ProtocolTypeRouter({"http": event_streams, "websocket": HandshakeValidator(_websocket)})
application = TrustedProxies(BelowPath(_routed, settings.PUBLIC_PATH), settings.FORWARDED_ALLOW_IPS)
