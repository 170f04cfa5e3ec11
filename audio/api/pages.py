"""Corrections of pages from other packages: their language, and links to other hosts."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from rest_framework.renderers import BrowsableAPIRenderer

_REDOC = "drf_spectacular_sidecar/redoc/bundles/redoc.standalone.js"
_LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"


class PageRenderer(BrowsableAPIRenderer):
    """REST framework's page with the attribute `lang`, which its template cannot set."""

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the page, marked as English."""
        page = super().render(data, accepted_media_type, renderer_context)
        return str(page).replace("<html>", '<html lang="en">', 1)


@require_safe
@cache_control(max_age=3600)
def redoc_script(request: HttpRequest) -> HttpResponse:
    """Return ReDoc's script with the product's icon in place of a picture on another host."""
    return HttpResponse(_redoc().replace(_LOGO, static("console/icon.svg")), content_type="text/javascript")


@functools.lru_cache(maxsize=1)
def _redoc() -> str:
    found = finders.find(_REDOC)
    return Path(str(found)).read_text(encoding="utf-8")
