"""The landing page: the health of the server, and the newest sessions that its reader may see."""

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import get_script_prefix
from django.views.decorators.http import require_safe

from audio import access, health
from audio.models import AudioSession

logger = structlog.stdlib.get_logger(__name__)

SHOWN_SESSIONS = 10


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Show the health of the server and the newest sessions, with status 503 if the database does not answer.

    Where authentication is required, a stranger is sent to the login.
    """
    down = health.failures()
    is_away = "database" in down
    person = None if is_away else _person(request)
    if person is not None and settings.REQUIRE_AUTH and not person.is_authenticated:
        return redirect_to_login(request.get_full_path())
    scheme = "wss" if request.is_secure() else "ws"
    is_open = not settings.REQUIRE_AUTH
    context = {
        "websocket_url": f"{scheme}://{request.get_host()}{get_script_prefix()}api/ws/audio",
        "checks": {name: down.get(name, "") for name in health.CHECKS},
        "is_well": not down,
        "person": person,
        "may_manage": is_open or (person is not None and admin.site.has_permission(request)),
        "may_operate": is_open or (person is not None and person.is_staff),
        "sessions": _newest_sessions(person) if person is not None else None,
    }
    return render(request, "console/home.html", context, status=503 if context["sessions"] is None else 200)


def _person(request: HttpRequest) -> User | AnonymousUser | None:
    """Return who reads the page; None if the database does not answer."""
    try:
        # The user is loaded when it is first looked at.
        return request.user if request.user.is_authenticated else AnonymousUser()
    except DatabaseError as error:
        logger.error("database_failed", error=str(error))
        return None


def _newest_sessions(person: User | AnonymousUser) -> list[AudioSession] | None:
    """Return the newest sessions with their recordings; None if the database does not answer."""
    try:
        sessions = access.visible(access.by_user(person), AudioSession.objects.select_related("recording"))
        return list(sessions[:SHOWN_SESSIONS])
    except DatabaseError as error:
        logger.error("database_failed", error=str(error))
        return None
