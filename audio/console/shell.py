"""The frame of the console's pages: the navigation, the person, the state of the server, and data for scripts."""

import functools
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import get_script_prefix
from django.views.decorators.http import require_safe
from rest_framework import status

from audio import access, health
from audio.access import Identity, Kind
from audio.console.security import CONSOLE_POLICY
from audio.models import Scope

logger = structlog.stdlib.get_logger(__name__)

# The most projects whose names are in a page. Somebody who has more, such as staff, may see the others too.
MAX_PROJECTS = 500

Page = Callable[..., HttpResponse]


def page(view: Page) -> Page:
    """Make a view a page of the console. The view is called with the identity of the reader as `identity`.

    A stranger is sent to the login. If the database does not answer, the page says so, with the status 503.
    """

    @require_safe
    @functools.wraps(view)
    def answer(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        down = health.failures()
        if "database" in down:
            return without_database(request, down)
        try:
            identity = access.by_user(request.user)
            if identity.kind is Kind.STRANGER:
                return redirect_to_login(request.get_full_path())
            return view(request, identity=identity, down=down, **kwargs)
        except DatabaseError as error:
            logger.error("database_failed", error=str(error))
            return without_database(request, down)

    return answer


def show(
    request: HttpRequest,
    template: str,
    identity: Identity,
    down: dict[str, str],
    for_scripts: dict[str, Any] | None = None,
    status_code: int = status.HTTP_200_OK,
    **context: Any,
) -> HttpResponse:
    """Return a page of the console.

    Args:
        request: The request.
        template: The name of a template that extends `console/shell.html`.
        identity: The reader.
        down: What is down (`health.failures`).
        for_scripts: What the scripts of the page need besides the projects of the reader.
        status_code: The status of the response.
        context: Variables of the template.
    """
    projects = projects_of(identity)
    is_open = not settings.REQUIRE_AUTH
    is_staff = bool(getattr(request.user, "is_staff", False))
    scripts = {
        "root": get_script_prefix(),
        "person": identity.name if identity.kind is Kind.USER else None,
        "everywhere": sorted(identity.everywhere),
        "projects": projects,
        **(for_scripts or {}),
    }
    manages = any(Scope.MANAGE in project["scopes"] for project in projects)
    frame = {
        "person": request.user,
        "for_scripts": scripts,
        "manages": manages,
        "may_record": any(Scope.RECORD in project["scopes"] for project in projects),
        "may_administer": is_open or admin.site.has_permission(request),
        "may_operate": is_open or is_staff,
    }
    return _rendered(request, template, down, {**frame, **context}, status_code)


def projects_of(identity: Identity) -> list[dict[str, Any]]:
    """Return the projects of the reader, with what they may do there."""
    rows = access.projects_of(identity).order_by("name").values_list("pk", "name")[:MAX_PROJECTS]
    return [
        {"id": pk, "name": name, "scopes": [scope for scope in Scope.values if identity.may(scope, pk)]}
        for pk, name in rows
    ]


def without_database(
    request: HttpRequest,
    down: dict[str, str],
    template: str = "console/away.html",
    status_code: int = status.HTTP_503_SERVICE_UNAVAILABLE,
    **context: Any,
) -> HttpResponse:
    """Return a page that reads nothing from the database. By default it says that the database does not answer."""
    scripts = {"root": get_script_prefix(), "projects": [], "everywhere": []}
    return _rendered(request, template, down, {"for_scripts": scripts, **context}, status_code)


def _rendered(
    request: HttpRequest, template: str, down: dict[str, str], context: dict[str, Any], status_code: int
) -> HttpResponse:
    checks = {name: down.get(name, "") for name in health.CHECKS}
    state = {"checks": checks, "is_well": not down, "has_guide": settings.WHITENOISE_ROOT is not None}
    answer = render(request, template, {**state, **context}, status=status_code)
    answer.headers["Content-Security-Policy"] = CONSOLE_POLICY
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer
