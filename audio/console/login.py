"""The login and the logout of people. The admin uses the same page."""

import structlog
from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm, UsernameField
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from rest_framework import status

from audio import access

logger = structlog.stdlib.get_logger(__name__)

NAME_MAX_LENGTH = 150
# The ID token of a login through the OpenID provider, in the session of the login.
ID_TOKEN = "openid_id_token"  # noqa: S105 - the name of a value, not a password


class LoginForm(AuthenticationForm):
    """The name and the password of a person. A name that is too long for an account is rejected at once."""

    username = UsernameField(max_length=NAME_MAX_LENGTH)


class Login(LoginView):
    """The login page. `next` may only name a page of this server."""

    template_name = "console/login.html"
    form_class = LoginForm

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        """Return what the page shows: the form, and the button of the OpenID provider where one is configured."""
        wanted = self.get_redirect_url()
        return super().get_context_data(
            **kwargs,
            lockout_minutes=settings.LOGIN_LOCKOUT_MINUTES,
            provider_name=settings.OIDC_NAME if settings.OIDC_ISSUER else "",
            provider_url=f"{reverse('openid')}?{urlencode({'next': wanted})}" if wanted else reverse("openid"),
        )

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Log the person in, and redirect to the page that they wanted."""
        answer = super().form_valid(form)
        note_login(self.request, "password")
        return answer

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Show the errors, with 429 and Retry-After if logins are locked (RFC 6585)."""
        is_locked = getattr(self.request, "axes_locked_out", False)
        answer = self.render_to_response(self.get_context_data(form=form, is_locked=is_locked))
        if is_locked:
            answer.status_code = status.HTTP_429_TOO_MANY_REQUESTS
            answer.headers["Retry-After"] = str(60 * settings.LOGIN_LOCKOUT_MINUTES)
        self._note_failure(form.cleaned_data.get("username", ""), is_locked)
        return answer

    def _note_failure(self, name: str, is_locked: bool) -> None:
        """Log a failed login. While logins are locked, a program that tries on adds nothing to the audit."""
        address = self.request.META.get("REMOTE_ADDR")
        if name:
            logger.warning("login_failed", name=name, address=address, locked=is_locked)
        if name and not is_locked:
            access.audit.record("login.failed", access.STRANGER, address=address, name=name)


class Logout(LogoutView):
    """The logout. It also leads people who have logged in through the OpenID provider to the logout of the provider."""

    def post(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        """Log the person out here, and lead them to the provider if it announces a logout."""
        id_token = request.session.get(ID_TOKEN)
        answer: HttpResponse = super().post(request, *args, **kwargs)
        if not id_token or not settings.OIDC_ISSUER:
            return answer
        from audio.console import openid  # its libraries are many

        url = openid.logout_url(request, id_token)
        # A redirect of a form to another site is against the Content-Security-Policy. A page may lead there.
        page = "console/logged_out.html"
        return render(request, page, {"url": url, "provider_name": settings.OIDC_NAME}) if url else answer


def note_login(request: HttpRequest, method: str) -> None:
    """Log that somebody logged in, also in the audit."""
    address = request.META.get("REMOTE_ADDR")
    logger.info("logged_in", user=request.user.get_username(), method=method, address=address)
    access.audit.record("login.succeeded", access.by_user(request.user), address=address, method=method)
