"""The login by OpenID Connect: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636).

Authlib reads the provider's addresses and keys from its discovery document, and checks the ID token: its signature, its
issuer, its audience, its nonce and its age.
"""

import functools
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.django_client import OAuth
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.views import RedirectURLMixin
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views.generic import View
from joserfc.errors import JoseError
from requests import RequestException
from rest_framework import status

from audio.console import people
from audio.console.login import ID_TOKEN, note_login

logger = structlog.stdlib.get_logger(__name__)

BACKEND = "django.contrib.auth.backends.ModelBackend"
NEXT = "openid_next"
TIMEOUT_SECONDS = 10


class LoginRejectedError(Exception):
    """The provider or this server has rejected a login."""


@functools.lru_cache(maxsize=1)
def _provider(issuer: str) -> Any:
    """Return the client of the provider. It reads the discovery document at its first use, and keeps it."""
    oauth = OAuth()
    oauth.register(
        "provider",
        client_id=settings.OIDC_CLIENT_ID,
        client_secret=settings.OIDC_CLIENT_SECRET,
        server_metadata_url=f"{issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": "openid profile email",
            "code_challenge_method": "S256",
            "default_timeout": TIMEOUT_SECONDS,
        },
    )
    return oauth.create_client("provider")


class OpenIdView(RedirectURLMixin, View):
    """A step of the login. It is available only if a provider is configured."""

    http_method_names = ["get", "head"]
    next_page = "home"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer a request, with a page that says what went wrong if the provider can't be used."""
        if not settings.OIDC_ISSUER:
            raise Http404
        try:
            return super().dispatch(request, *args, **kwargs)
        except (LoginRejectedError, AuthlibBaseError, JoseError) as error:
            logger.warning("login_rejected", error=str(error), address=request.META.get("REMOTE_ADDR"))
            return self._failed(status.HTTP_403_FORBIDDEN)
        except RequestException as error:
            logger.error("provider_away", error=str(error))
            return self._failed(status.HTTP_502_BAD_GATEWAY)

    def _failed(self, code: int) -> HttpResponse:
        context = {"provider_name": settings.OIDC_NAME, "is_away": code == status.HTTP_502_BAD_GATEWAY}
        return render(self.request, "console/openid_failed.html", context, status=code)


class Start(OpenIdView):
    """The redirect to the provider. The session keeps the page that the person wanted."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Redirect to the provider."""
        request.session[NEXT] = self.get_redirect_url()
        callback = request.build_absolute_uri(reverse("openid-callback"))
        answer: HttpResponse = _provider(settings.OIDC_ISSUER).authorize_redirect(request, callback)
        return answer


class Callback(OpenIdView):
    """The return from the provider."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Log the person in, and redirect to the page that they wanted.

        Raises:
            LoginRejectedError: Their account is inactive.
        """
        options = {"iss": {"essential": True, "value": settings.OIDC_ISSUER}, "sub": {"essential": True}}
        token = _provider(settings.OIDC_ISSUER).authorize_access_token(request, claims_options=options)
        if "userinfo" not in token:
            raise LoginRejectedError("The provider sent no ID token.")
        user = people.user_of(settings.OIDC_ISSUER, token["userinfo"])
        if not user.is_active:
            raise LoginRejectedError(f"The account of {user.get_username()} is inactive.")
        wanted = request.session.pop(NEXT, "")
        login(request, user, backend=BACKEND)
        request.session[ID_TOKEN] = token.get("id_token", "")
        note_login(request, "openid")
        return HttpResponseRedirect(wanted or self.get_default_redirect_url())


def logout_url(request: HttpRequest, id_token: str) -> str | None:
    """Return the URL of the logout at the provider (OpenID Connect RP-Initiated Logout 1.0).

    Args:
        request: The request of the logout.
        id_token: The ID token of the login, by which the provider knows who logs out.

    Returns:
        The URL; None if the provider announces none, or does not answer.
    """
    try:
        found = _provider(settings.OIDC_ISSUER).load_server_metadata()
    except (AuthlibBaseError, RequestException) as error:
        logger.warning("provider_away", error=str(error))
        return None
    endpoint = found.get("end_session_endpoint")
    if not isinstance(endpoint, str) or urlsplit(endpoint).scheme not in ("http", "https"):
        return None
    query = {
        "id_token_hint": id_token,
        "client_id": settings.OIDC_CLIENT_ID,
        "post_logout_redirect_uri": request.build_absolute_uri(reverse("home")),
    }
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
