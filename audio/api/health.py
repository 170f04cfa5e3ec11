"""Whether this server is alive, and whether it can do its work."""

import tempfile
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from drf_spectacular.utils import OpenApiResponse, extend_schema, inline_serializer
from redis import Redis, RedisError
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audio.errors import FfmpegMissing
from audio.media import ffmpeg

SERVICE = "SercueScribe"
ANSWER_SECONDS = 1.0


class Down(Exception):
    """What was asked does not answer as it should; the sentence names no address and no path."""


def check_database() -> None:
    """Raises Down unless the database answers a query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        raise Down("The database does not answer.") from error


def check_redis() -> None:
    """Raises Down unless Redis answers within ANSWER_SECONDS."""
    url = settings.CACHES["default"]["LOCATION"]
    try:
        with Redis.from_url(url, socket_connect_timeout=ANSWER_SECONDS, socket_timeout=ANSWER_SECONDS) as client:
            client.ping()
    except RedisError as error:
        raise Down("Redis does not answer.") from error


def check_storage() -> None:
    """Raises Down unless a file can be written under AUDIO_STORAGE_PATH."""
    try:
        settings.AUDIO_STORAGE_PATH.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.AUDIO_STORAGE_PATH) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise Down(f"The storage can't be written: {error.strerror}.") from error


def check_ffmpeg() -> None:
    """Raises Down unless there is a program to run."""
    try:
        ffmpeg.find()
    except FfmpegMissing as error:
        raise Down(error.detail) from error


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "redis": check_redis,
    "storage": check_storage,
    "ffmpeg": check_ffmpeg,
}


def failures() -> dict[str, str]:
    """Returns what is down, by name, each with a sentence; nothing if all is well."""
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Down as error:
            found[name] = str(error)
    return found


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
