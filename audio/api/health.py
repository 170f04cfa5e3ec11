"""Whether this server is alive, and whether it can do its work."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audio.health import CHECKS, failures

SERVICE = "SercueScribe"


class _HealthView(APIView):
    """Asked by machines, often: no user, no page."""

    authentication_classes = []
    renderer_classes = [JSONRenderer]


class Health(_HealthView):
    """Alive: the process answers. It says nothing of what it depends on."""

    @extend_schema(
        summary="Whether the server is alive",
        responses=inline_serializer("Health", {"status": serializers.CharField(), "service": serializers.CharField()}),
    )
    def get(self, request: Request) -> Response:
        return Response({"status": "healthy", "service": SERVICE})


_ready = inline_serializer(
    "Ready",
    {
        "status": serializers.CharField(),
        "service": serializers.CharField(),
        "checks": serializers.DictField(child=serializers.CharField(), help_text="`ok` each."),
    },
)
_not_ready = inline_serializer(
    "NotReady",
    {
        "detail": serializers.CharField(),
        "code": serializers.CharField(),
        "status": serializers.CharField(),
        "service": serializers.CharField(),
        "down": serializers.ListField(child=serializers.CharField()),
        "checks": serializers.DictField(child=serializers.CharField(), help_text="`ok`, or what is wrong."),
    },
)


class Ready(_HealthView):
    """Ready: the database, Redis, the storage and FFmpeg are there."""

    @extend_schema(
        summary="Whether the server can do its work",
        responses={200: _ready, 503: OpenApiResponse(_not_ready, description="`down` names what is down.")},
    )
    def get(self, request: Request) -> Response:
        down = failures()
        answer: dict[str, Any] = {
            "status": "unavailable" if down else "ready",
            "service": SERVICE,
            "checks": {name: down.get(name, "ok") for name in CHECKS},
        }
        if not down:
            return Response(answer)
        sentence = f"Down: {', '.join(down)}."
        return Response({"detail": sentence, "code": "not_ready", "down": list(down), **answer}, status=503)
