"""The pages of the console. A view decides who may see a page, and nothing more."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import get_script_prefix

from audio import access
from audio.access import Identity
from audio.console import shell
from audio.models import AudioSession

SHOWN_SESSIONS = 10


@shell.page
def home(request: HttpRequest, identity: Identity, **frame: Any) -> HttpResponse:
    """Show the newest sessions."""
    scheme = "wss" if request.is_secure() else "ws"
    return shell.show(
        request,
        "console/home.html",
        identity,
        **frame,
        place="sessions",
        websocket_url=f"{scheme}://{request.get_host()}{get_script_prefix()}api/ws/audio",
        sessions=access.visible(identity, AudioSession.objects.select_related("recording"))[:SHOWN_SESSIONS],
    )
