"""Authentication and permissions of the REST API.

Each view declares `scopes`: the scope that each of its methods needs. A method without an entry is closed to everybody.
`ANY` needs only an identity, and `OPEN` needs nothing. `STAFF` is for identities that have all scopes everywhere.
"""

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from audio import access
from audio.access.handshake import SCHEMES
from audio.access.identity import Identity, Kind
from audio.models import Scope

# REST framework loads the classes of this module while it loads its views.
if TYPE_CHECKING:
    from rest_framework.views import APIView

ANY, OPEN, STAFF = "", "open", "staff"
READ, RECORD, MANAGE = Scope.READ.value, Scope.RECORD.value, Scope.MANAGE.value
_SAFE = ("GET", "HEAD")


class SecretAuthentication(BaseAuthentication):
    """Authentication by an API key or a session token.

    The secret is in the Authorization header (`Bearer` or `Token`, RFC 6750 section 2.1). Players and `EventSource`
    cannot set headers, so views that declare `takes_token` accept `?token=` too.
    """

    def authenticate(self, request: Request) -> tuple[AnonymousUser, Identity] | None:
        """Return the identity; None if there is no key or token.

        Raises:
            NotAuthenticatedError: The key or token is not valid.
        """
        secret = _secret(request)
        return None if secret is None else (AnonymousUser(), access.by_secret(secret))

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401 response (RFC 9110 section 11.6.1)."""
        return 'Bearer realm="SercueScribe"'


class CookieAuthentication(SessionAuthentication):
    """Authentication by a login. Methods that change something need the CSRF token of a page."""

    def authenticate(self, request: Request) -> tuple[Any, Identity] | None:
        """Return the person and their identity; None if nobody has logged in."""
        found = super().authenticate(request)
        return None if found is None else (found[0], access.by_user(found[0]))


def _secret(request: Request) -> str | None:
    scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
    if scheme.lower() in SCHEMES:
        return text.strip()
    view = request.parser_context["view"] if request.parser_context else None
    if getattr(view, "takes_token", False) and request.method in _SAFE:
        return request.query_params.get("token")
    return None


def identity_of(request: Request) -> Identity:
    """Return the identity of the caller.

    Raises:
        NotAuthenticatedError: The key or token is not valid.
    """
    return request.auth if isinstance(request.auth, Identity) else access.without_identity()


def address_of(request: Request) -> str | None:
    """Return the IP address of the client."""
    address: str | None = request.META.get("REMOTE_ADDR")
    return address


class Known(BasePermission):
    """Permission for everybody who has an identity."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Whether the request has an identity, or authentication is off."""
        return identity_of(request).kind is not Kind.STRANGER


class Door(BasePermission):
    """Permission for identities that may use the method in at least one project. The view then checks the project."""

    message = "The scopes of your API key, token or role do not allow this."
    code = "not_allowed"

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Whether the identity may use the method."""
        scope = scope_of(request, view)
        if scope == OPEN:
            return True
        identity = identity_of(request)
        if scope is None or identity.kind is Kind.STRANGER:
            return False
        if scope == STAFF:
            return identity.is_unlimited
        granted = identity.everywhere.union(*identity.scopes.values())
        return scope == ANY or scope in granted


def scope_of(request: Request, view: "APIView") -> str | None:
    """Return the scope that the request needs; None if the view does not say."""
    scopes: dict[str, str] = getattr(view, "scopes", {})
    method = "GET" if request.method == "HEAD" else str(request.method)
    # A method that the view does not have is answered with 405.
    is_served = hasattr(view, method.lower()) and method != "OPTIONS"
    unserved = OPEN if OPEN in scopes.values() else ANY
    return scopes.get(method, None if is_served else unserved)


class RequestRate(BaseThrottle):
    """A limit on the requests per second of an identity, if its project has one."""

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Return True.

        Raises:
            LimitReachedError: The limit is reached.
        """
        access.limits.check_rate(identity_of(request))
        return True
