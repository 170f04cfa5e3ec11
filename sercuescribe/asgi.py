"""The ASGI application: HTTP to Django, WebSockets to the recorder's consumers."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")

application = get_asgi_application()
