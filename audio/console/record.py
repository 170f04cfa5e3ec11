"""The page that records: a microphone or files, over the JavaScript client."""

import structlog
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from audio import access
from audio.models import Project, Scope

logger = structlog.stdlib.get_logger(__name__)


@require_safe
@ensure_csrf_cookie
def record(request: HttpRequest) -> HttpResponse:
    """Show the page. Where authentication is required, a stranger is sent to the login.

    If the database does not answer, the page is shown nevertheless: what it records waits in the browser.
    """
    try:
        if settings.REQUIRE_AUTH and not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        projects = _projects(request)
    except DatabaseError as error:
        logger.error("database_failed", error=str(error))
        projects = None
    context = {"projects": projects or [], "may_record": projects is None or bool(projects)}
    return render(request, "console/record.html", context)


def _projects(request: HttpRequest) -> list[str]:
    """Return the names of the projects in which the reader may record, their home first."""
    identity = access.by_user(request.user)
    rows = Project.objects.order_by("name").values_list("pk", "name")
    names = [(pk != identity.home, name) for pk, name in rows if identity.may(Scope.RECORD, pk)]
    return [name for _, name in sorted(names)]
