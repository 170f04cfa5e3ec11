"""The pages of the console. A view checks who may see the page. The scripts of the page get its data over REST."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import get_script_prefix
from rest_framework import status

from audio import access
from audio.access import Identity
from audio.console import shell
from audio.media.plan import TARGETS
from audio.models import AudioSession, EventType, Role, Scope
from audio.wire.parameters import FORMATS

_ID_DIGITS = 9


@shell.page
def home(request: HttpRequest, identity: Identity, **frame: Any) -> HttpResponse:
    """Show the list of sessions."""
    scheme = "wss" if request.is_secure() else "ws"
    return shell.show(
        request,
        "console/sessions.html",
        identity,
        **frame,
        place="sessions",
        formats=FORMATS,
        websocket_url=f"{scheme}://{request.get_host()}{get_script_prefix()}api/ws/audio",
    )


@shell.page
def session(request: HttpRequest, identity: Identity, session_id: str, **frame: Any) -> HttpResponse:
    """Show a session.

    Raises:
        Http404: There is no such session, or not for the reader.
    """
    try:
        known = AudioSession.objects.filter(pk=UUID(session_id))
    except ValueError:
        raise Http404 from None
    found = access.visible(identity, known).first()
    if found is None:
        raise Http404
    for_scripts = {"session_id": str(found.pk), "formats": list(TARGETS)}
    return shell.show(
        request, "console/session.html", identity, **frame, for_scripts=for_scripts, place="sessions", session=found
    )


@shell.page
def projects(request: HttpRequest, identity: Identity, **frame: Any) -> HttpResponse:
    """Show the projects that the reader manages; the settings at once if it is one."""
    managed = [each for each in shell.projects_of(identity) if Scope.MANAGE in each["scopes"]]
    if len(managed) == 1:
        return redirect("project", managed[0]["id"])
    return shell.show(request, "console/projects.html", identity, **frame, place="settings", managed=managed)


@shell.page
def project(request: HttpRequest, identity: Identity, project_id: str, **frame: Any) -> HttpResponse:
    """Show the settings of a project to its managers.

    Raises:
        Http404: There is no such project, or not for the reader.
    """
    is_id = project_id.isascii() and project_id.isdigit() and len(project_id) <= _ID_DIGITS
    found = access.projects_of(identity).filter(pk=int(project_id)).first() if is_id else None
    if found is None:
        raise Http404
    if not identity.may(Scope.MANAGE, found.pk):
        code = status.HTTP_403_FORBIDDEN
        return shell.show(request, "console/not_manager.html", identity, **frame, status_code=code, project=found)
    for_scripts = {
        "project": {"id": found.pk, "name": found.name},
        "event_types": EventType.values,
        "roles": Role.values,
        "scopes": Scope.values,
        "is_staff": identity.is_unlimited,
    }
    return shell.show(
        request, "console/project.html", identity, **frame, for_scripts=for_scripts, place="settings", project=found
    )
