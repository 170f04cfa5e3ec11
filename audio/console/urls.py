"""The paths of the pages for people."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from audio.console import client, record, views
from audio.console.login import Login, Logout


def _openid(view: str) -> Callable[[HttpRequest], HttpResponseBase]:
    """Return a view of `openid`, which is imported at the first request: its libraries are many."""

    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        from audio.console import openid

        shown: Callable[..., HttpResponseBase] = getattr(openid, view).as_view()
        return shown(request, *args, **kwargs)

    return answer


# Browsers request it for pages that name no icon.
_icon = RedirectView.as_view(url=static("console/icon.svg"))

urlpatterns = [
    path("", views.home, name="home"),
    path("record", record.record, name="record"),
    path("sessions/<str:session_id>", views.session, name="session"),
    path("projects", views.projects, name="projects"),
    path("projects/<str:project_id>", views.project, name="project"),
    path("client/<str:name>", client.client_file, name="client-file"),
    path("favicon.ico", _icon),
    path("login", Login.as_view(), name="login"),
    path("login/openid", _openid("Start"), name="openid"),
    path("login/openid/callback", _openid("Callback"), name="openid-callback"),
    path("logout", Logout.as_view(), name="logout"),
]
