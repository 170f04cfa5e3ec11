"""The WebSocket paths. Like the HTTP paths they work with and without a trailing slash."""

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from channels.routing import URLRouter
from django.urls import re_path

from audio.consumers import AudioConsumer


async def reject_unknown_path(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Reject the handshake of an unknown path. The server answers it with 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": "unknown path"})


_audio = AudioConsumer.as_asgi()

application = URLRouter(
    [
        re_path(r"^api/ws/audio/?$", _audio),
        re_path(r"^api/ws/audio/(?P<session_id>[^/]+)/?$", _audio),
        re_path(r"", reject_unknown_path),  # type: ignore[arg-type]  # Django's type knows views only
    ]
)
