"""Requests for a session's audio as an ASGI server passes them on."""

from typing import Any

from asgiref.sync import async_to_sync
from django.test import AsyncClient


@async_to_sync
async def fetch(session, query="", method="GET", **headers):
    """Answers as an ASGI server would get them; `body` is the whole of what was streamed."""
    path = f"/api/audio/sessions/{session if isinstance(session, str) else session.pk}/audio{query}"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    response: Any = await AsyncClient().generic(method, path, headers=headers)
    response.body = b"".join([part async for part in response]) if response.streaming else response.content
    return response
