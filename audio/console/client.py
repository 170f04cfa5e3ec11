"""The JavaScript client: the files of clients/javascript, for pages of this server and of allowed origins.

Its modules import each other. Browsers revalidate each of them, so that they never mix the modules of two versions.
"""

import hashlib
from pathlib import Path

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import condition, require_safe

_MEDIA_TYPES = {".js": "text/javascript", ".ts": "text/plain"}


def _path(name: str) -> Path | None:
    """Return the file of this name; None if the client has no such file."""
    return {path.name: path for path in settings.JAVASCRIPT_CLIENT_DIR.iterdir()}.get(name)


def _etag(request: HttpRequest, name: str) -> str | None:
    path = _path(name)
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"' if path else None


@require_safe
@cache_control(public=True, no_cache=True)
@condition(etag_func=_etag)
def client_file(request: HttpRequest, name: str) -> HttpResponse:
    """Return a module of the client, or its types.

    Raises:
        Http404: The client has no such file.
    """
    path = _path(name)
    if path is None:
        raise Http404
    return HttpResponse(path.read_bytes(), content_type=f"{_MEDIA_TYPES[path.suffix]}; charset=utf-8")
