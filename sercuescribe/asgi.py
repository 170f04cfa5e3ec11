"""The ASGI application: HTTP to Django, WebSockets to the recorder's consumers."""

import os

from channels.routing import ProtocolTypeRouter
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
_http = get_asgi_application()

from audio.routing import application as _websocket  # noqa: E402 - models load only after Django is set up

application = ProtocolTypeRouter(
    {"http": _http, "websocket": OriginValidator(_websocket, settings.ALLOWED_ORIGINS)},
)
