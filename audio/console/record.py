"""The page that records a microphone or files. It uses the JavaScript client."""

import structlog
from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe
from rest_framework import status

from audio import access, health
from audio.access import Identity, Kind
from audio.console import shell
from audio.models import Project, Scope

logger = structlog.stdlib.get_logger(__name__)


@require_safe
@ensure_csrf_cookie
def record(request: HttpRequest) -> HttpResponse:
    """Show the page. Where authentication is required, a stranger is sent to the login.

    If the database does not answer, the page is shown nevertheless: what it records waits in the browser.
    """
    down, template = health.failures(), "console/record.html"
    try:
        identity = access.by_user(request.user)
        if identity.kind is Kind.STRANGER:
            return redirect_to_login(request.get_full_path())
        projects = _projects(identity)
        return shell.show(request, template, identity, down, place="record", projects=projects)
    except DatabaseError as error:
        logger.error("database_failed", error=str(error))
        return shell.without_database(request, down, template, status.HTTP_200_OK, place="record", may_record=True)


def _projects(identity: Identity) -> list[str]:
    """Return the names of the projects in which the reader may record, their home first."""
    rows = Project.objects.order_by("name").values_list("pk", "name")
    names = [(pk != identity.home, name) for pk, name in rows if identity.may(Scope.RECORD, pk)]
    return [name for _, name in sorted(names)]
