"""The landing page: what this server is, that it runs, and what it records now."""

import logging

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from audio.models import AudioSession

logger = logging.getLogger(__name__)

SHOWN_SESSIONS = 10


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Shows the newest sessions; a database that is away is said on the page, with status 503."""
    scheme = "wss" if request.is_secure() else "ws"
    context = {"websocket_url": f"{scheme}://{request.get_host()}/api/ws/audio", "sessions_known": True}
    try:
        context["sessions"] = list(AudioSession.objects.select_related("recording")[:SHOWN_SESSIONS])
    except DatabaseError as error:
        logger.error("database away: %s", error)
        context["sessions_known"] = False
    return render(request, "console/home.html", context, status=200 if context["sessions_known"] else 503)
