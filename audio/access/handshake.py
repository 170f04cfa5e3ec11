"""Find the identity of a client in the handshake of a WebSocket: by a key, a token, a ticket or a login cookie.

Browsers cannot set headers on a WebSocket. They send a token as a subprotocol (`bearer, TOKEN`) or in the query.
"""

import uuid
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest

from audio.access import doors
from audio.access.identity import Identity
from audio.access.tickets import spend_ticket

SUBPROTOCOL = "bearer"
SCHEMES = ("bearer", "token")


class Handshake(NamedTuple):
    """The parts of a WebSocket handshake (RFC 6455 section 4.1) that identify its client."""

    headers: Mapping[bytes, bytes]
    subprotocols: Sequence[str]
    address: str | None

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "Handshake":
        """Return the handshake of an ASGI scope."""
        client = scope.get("client")
        return cls(dict(scope["headers"]), scope.get("subprotocols") or (), client[0] if client else None)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol with which the server answers."""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols else None

    def header(self, name: bytes) -> str:
        """Return a header; an empty text if it is absent."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def secret(self) -> str | None:
        """The API key or token in a header; None if there is none."""
        scheme, _, text = self.header(b"authorization").partition(" ")
        if scheme.lower() in SCHEMES:
            return text.strip()
        if self.subprotocol is not None:
            return next((offered for offered in self.subprotocols if offered != SUBPROTOCOL), "")
        return None

    @property
    def shows_nothing(self) -> bool:
        """Whether the headers have neither a secret nor a cookie."""
        return self.secret is None and b"cookie" not in self.headers

    def opener(self, token: str | None) -> tuple[str | None, bytes | None, str | None]:
        """Return what tells one client from another: its secret and its cookies, or its address if it shows neither.

        Args:
            token: The token or ticket in the query.
        """
        secret, cookie = self.secret if self.secret is not None else token, self.headers.get(b"cookie")
        return secret, cookie, self.address if secret is None and cookie is None else None

    @property
    def is_same_origin(self) -> bool:
        """Whether a page of this server opens the WebSocket. Only such a page may use the login cookie."""
        origin = self.header(b"origin")
        return origin in settings.CSRF_TRUSTED_ORIGINS or urlsplit(origin).netloc == self.header(b"host") != ""


def identify(handshake: Handshake, token: str | None, ticket: str | None, session_id: uuid.UUID | None) -> Identity:
    """Return the identity of the client that opens a WebSocket.

    Args:
        handshake: The handshake.
        token: The token in the query of the URL.
        ticket: The ticket in the query. It is spent by this call.
        session_id: The session in the path, None for a new one.

    Raises:
        NotAllowedError: The ticket is not valid for this session.
        NotAuthenticatedError: The key or token is not valid, or the ticket's maker may not record any more.
        ServiceError: Tickets can't be checked, because Redis is away.
    """
    secret = handshake.secret if handshake.secret is not None else token
    maker = None if ticket is None else spend_ticket(ticket, session_id)
    if secret is not None:
        return doors.by_secret(secret)
    if maker is not None and session_id is not None:
        return doors.by_ticket(session_id, maker)
    return _by_cookie(handshake)


def _by_cookie(handshake: Handshake) -> Identity:
    try:
        cookie = SimpleCookie(handshake.header(b"cookie")).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        cookie = None
    if cookie is None or not handshake.is_same_origin:
        return doors.without_identity()
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(cookie.value)
    return doors.by_user(get_user(request))
