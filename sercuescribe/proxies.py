"""Support for trusted proxies, for a public host, and for a path below which the server is published."""

from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import BadRequest, DisallowedHost
from django.http import HttpRequest, HttpResponsePermanentRedirect
from django.http.request import split_domain_port
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from audio import metrics

logger = structlog.stdlib.get_logger("sercuescribe.proxies")

Application = Callable[..., Any]

_SHOWN_CHARACTERS = 200
_MAX_REJECTED = 100

# Requested by machines that use the server's address as the host.
PROBES = ("/health", "/health/ready", "/metrics")
_PROTOCOL = b"x-forwarded-proto"


class TrustedProxies(ProxyHeadersMiddleware):
    """A middleware that applies the client address and the protocol that trusted proxies report.

    If there are several proxies, the first one decides.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, with only the first of the protocols that the proxies report."""
        if scope["type"] != "lifespan":
            told = [value for name, value in scope["headers"] if name == _PROTOCOL]
            if b"," in b",".join(told):
                others = [(name, value) for name, value in scope["headers"] if name != _PROTOCOL]
                first = (_PROTOCOL, told[0].partition(b",")[0].strip())
                scope = {**scope, "headers": [*others, first]}
        await super().__call__(scope, receive, send)


class BelowPath:
    """A middleware that serves an application below the path of PUBLIC_URL.

    A proxy may pass this path on or remove it.
    """

    def __init__(self, application: Application, prefix: str) -> None:
        self._application = application
        self._prefix = prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on with the path that clients use, which begins with Django's FORCE_SCRIPT_NAME."""
        if self._prefix and scope["type"] in ("http", "websocket"):
            scope = {**scope, **self._paths(scope)}
        await self._application(scope, receive, send)

    def _paths(self, scope: Any) -> dict[str, str]:
        path = scope["path"]
        if path != self._prefix and not path.startswith(f"{self._prefix}/"):
            path = self._prefix + path
        elif path == self._prefix:
            path += "/"
        return {"path": path, "root_path": self._prefix}


def host_advice(host: str) -> str:
    """Return advice for the operator on how to allow a rejected host."""
    if split_domain_port(host)[0]:
        return "Add its name to ALLOWED_HOSTS if clients reach this server by it."
    return "A host name consists of letters, digits, dots and hyphens. Make the clients or the proxy send such a name."


class Rejected:
    """The rejected hosts or origins. Each is logged only once, because rejected clients may try again without end."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def shown(self, value: str) -> str:
        """Return the value to log; empty if it was logged before, or if too many others were."""
        shown = value[:_SHOWN_CHARACTERS]
        if shown in self._values or len(self._values) >= _MAX_REJECTED:
            return ""
        self._values.add(shown)
        return shown or "(none)"


class PublicHost(CommonMiddleware):
    """A middleware that rejects hosts that are not in ALLOWED_HOSTS.

    In other requests it replaces the host by that of PUBLIC_URL, if that is set.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        super().__init__(get_response)
        self._rejected = Rejected()

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        """Check the host, except for health checks and scrapes, which do not use the public name."""
        if request.path_info.rstrip("/") in PROBES:
            return None
        try:
            answer = super().process_request(request)
        except DisallowedHost:
            self._note(request.META.get("HTTP_HOST", ""))
            raise BadRequest("This server does not answer for the host of the request.") from None
        if settings.PUBLIC_URL:
            request.META["HTTP_HOST"] = settings.PUBLIC_URL.netloc
            request.META["wsgi.url_scheme"] = settings.PUBLIC_URL.scheme
            getattr(request, "scope", {})["scheme"] = settings.PUBLIC_URL.scheme
        return answer

    def _note(self, host: str) -> None:
        metrics.requests_rejected.labels("host").inc()
        if shown := self._rejected.shown(host):
            logger.warning("request_rejected", reason="host", received=shown, advice=host_advice(host))
