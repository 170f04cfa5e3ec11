"""The landing page: the health of the server, and its newest sessions."""

import structlog
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import get_script_prefix
from django.views.decorators.http import require_safe

from audio import health
from audio.models import AudioSession

logger = structlog.stdlib.get_logger(__name__)

SHOWN_SESSIONS = 10


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Show the health of the server and the newest sessions, with status 503 if the database does not answer."""
    down = health.failures()
    scheme = "wss" if request.is_secure() else "ws"
    context = {
        "websocket_url": f"{scheme}://{request.get_host()}{get_script_prefix()}api/ws/audio",
        "checks": {name: down.get(name, "") for name in health.CHECKS},
        "is_well": not down,
        "sessions": _newest_sessions() if "database" not in down else None,
    }
    return render(request, "console/home.html", context, status=503 if context["sessions"] is None else 200)


def _newest_sessions() -> list[AudioSession] | None:
    """Return the newest sessions with their recordings; None if the database does not answer."""
    try:
        return list(AudioSession.objects.select_related("recording")[:SHOWN_SESSIONS])
    except DatabaseError as error:
        logger.error("database_failed", error=str(error))
        return None
