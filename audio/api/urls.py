"""The paths of the REST API, of health checks and of their documentation, each with and without a trailing slash."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.views import APIView

from audio.api import events, health, keys, markers, metrics, pages, projects, protocol, tasks, views, webhooks


def both(route: str, view: type[APIView], name: str, **options: Any) -> list[URLPattern]:
    """Return the paths of a route (given without a trailing slash) without and with one.

    The OpenAPI document contains only the path without the slash.
    """
    return [
        path(route, view.as_view(**options), name=name),
        path(f"{route}/", view.as_view(**options | {"schema": None}), name=f"{name}-slash"),
    ]


def generated(route: str, view: str, name: str, **options: Any) -> list[URLPattern]:
    """Return the two paths of a view of drf-spectacular, which is imported at the first request.

    Args:
        route: The path without a trailing slash.
        view: The name of the view.
        name: The name of the path.
        options: Options of the view.
    """

    @csrf_exempt
    def answer(request: HttpRequest) -> HttpResponseBase:
        from drf_spectacular import views

        shown: Callable[[HttpRequest], HttpResponseBase] = getattr(views, view).as_view(**options)
        return shown(request)

    return [path(route, answer, name=name), path(f"{route}/", answer, name=f"{name}-slash")]


_WEBHOOK = "api/webhooks/<str:webhook_id>"
_PROJECT = "api/projects/<str:project_id>"
_SESSION = "api/audio/sessions/<str:session_id>"

urlpatterns = [
    *both("api/audio/sessions", views.SessionList, "session-list"),
    *both(_SESSION, views.SessionDetail, "session-detail"),
    *both(f"{_SESSION}/close", views.SessionClose, "session-close"),
    *both(f"{_SESSION}/chunks", views.ChunkList, "session-chunks"),
    *both(f"{_SESSION}/chunks/<str:sequence>", views.ChunkPayload, "session-chunk"),
    *both(f"{_SESSION}/markers", markers.MarkerList, "session-markers"),
    *both(f"{_SESSION}/markers/<str:marker_id>", markers.MarkerDetail, "session-marker"),
    *both(f"{_SESSION}/audio", views.SessionAudio, "session-audio"),
    *both(f"{_SESSION}/waveform", views.SessionWaveform, "session-waveform"),
    *both(f"{_SESSION}/tokens", keys.TokenList, "session-tokens"),
    *both(f"{_SESSION}/tokens/<str:token_id>", keys.TokenDetail, "session-token"),
    *both("api/projects", projects.ProjectList, "project-list"),
    *both(_PROJECT, projects.ProjectDetail, "project-detail"),
    *both(f"{_PROJECT}/members", projects.MemberList, "project-members"),
    *both(f"{_PROJECT}/members/<str:member_id>", projects.MemberDetail, "project-member"),
    *both("api/keys", keys.KeyList, "key-list"),
    *both("api/keys/<str:key_id>", keys.KeyDetail, "key-detail"),
    *both("api/tasks", tasks.TaskList, "task-list"),
    *both("api/tasks/<str:task_id>", tasks.TaskDetail, "task-detail"),
    *both("api/events", events.EventStream, "events"),
    *both("api/webhooks", webhooks.WebhookList, "webhook-list"),
    *both(_WEBHOOK, webhooks.WebhookDetail, "webhook-detail"),
    *both(f"{_WEBHOOK}/rotate", webhooks.WebhookRotate, "webhook-rotate"),
    *both(f"{_WEBHOOK}/test", webhooks.WebhookTest, "webhook-test"),
    *both(f"{_WEBHOOK}/deliveries", webhooks.DeliveryList, "webhook-deliveries"),
    *both(f"{_WEBHOOK}/deliveries/<str:delivery_id>/replay", webhooks.DeliveryReplay, "webhook-replay"),
    *both("api/ws/audio", protocol.WebSocketPath, "websocket", schema=None),
    *both("api/ws/audio/<str:session_id>", protocol.WebSocketPath, "websocket-session", schema=None),
    *both("health", health.Health, "health"),
    *both("health/ready", health.Ready, "health-ready"),
    *both("metrics", metrics.Metrics, "metrics"),
    *generated("api/schema", "SpectacularAPIView", "schema"),
    *both("api/asyncapi", protocol.Protocol, "asyncapi"),
    *both("api/asyncapi.<str:format>", protocol.Protocol, "asyncapi-file"),
    *generated("docs", "SpectacularSwaggerSplitView", "docs", template_name="api/swagger.html"),
    *generated("redoc", "SpectacularRedocView", "redoc", template_name="api/redoc.html"),
    path("redoc.js", pages.redoc_script, name="redoc-script"),
]
