"""The health of this server: whether it is alive, and whether it can record."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audio import versions
from audio.api.access import OPEN
from audio.health import CHECKS, LATE, NEEDED, failures

SERVICE = "SercueScribe"


class _HealthView(APIView):
    """A view that monitoring calls often. It has no authentication and no page for people."""

    authentication_classes = []
    scopes = {"GET": OPEN}
    renderer_classes = [JSONRenderer]


class Health(_HealthView):
    """Report that the process is alive. This does not check what the server depends on."""

    @extend_schema(
        summary="Whether the server is alive",
        responses=inline_serializer(
            "Health",
            {
                "status": serializers.CharField(),
                "service": serializers.CharField(),
                "version": serializers.CharField(),
                "versions": serializers.DictField(
                    child=serializers.CharField(),
                    help_text="Versions of `python`, `django`, `ffmpeg` and the `database`.",
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        """Report that the process is alive. This does not check what the server depends on."""
        known = versions.known()
        return Response(
            {"status": "healthy", "service": SERVICE, "version": known.pop("sercuescribe"), "versions": known}
        )


_ready = inline_serializer(
    "Ready",
    {
        "status": serializers.CharField(),
        "service": serializers.CharField(),
        "late": serializers.ListField(
            child=serializers.CharField(), help_text="The parts that are down and only delay recordings."
        ),
        "checks": serializers.DictField(
            child=serializers.CharField(), help_text="`ok`, or a description of the problem."
        ),
    },
)
_not_ready = inline_serializer(
    "NotReady",
    {
        "detail": serializers.CharField(),
        "code": serializers.CharField(),
        "status": serializers.CharField(),
        "service": serializers.CharField(),
        "down": serializers.ListField(
            child=serializers.CharField(), help_text="The parts that are down and prevent recording."
        ),
        "late": serializers.ListField(child=serializers.CharField()),
        "checks": serializers.DictField(
            child=serializers.CharField(), help_text="`ok`, or a description of the problem."
        ),
    },
)


class Ready(_HealthView):
    """Report whether the server can record. It needs the database and the storage."""

    @extend_schema(
        summary="Whether the server can record",
        responses={
            200: _ready,
            503: OpenApiResponse(_not_ready, description="The server cannot record. `down` lists what is down."),
        },
    )
    def get(self, request: Request) -> Response:
        """Report whether the server can record. It needs the database and the storage."""
        failed = failures()
        down = [name for name in NEEDED if name in failed]
        late = [name for name in LATE if name in failed]
        answer: dict[str, Any] = {
            "status": "unavailable" if down else "degraded" if late else "ready",
            "service": SERVICE,
            "late": late,
            "checks": {name: failed.get(name, "ok") for name in CHECKS},
        }
        if not down:
            return Response(answer)
        sentence = f"The server cannot record. Down: {', '.join(down)}."
        return Response({"detail": sentence, "code": "not_ready", "down": down, **answer}, status=503)
