"""`/metrics` for Prometheus, in its text format or in OpenMetrics.

The numbers are about all projects, so only staff and programs with METRICS_TOKEN may read them.
"""

from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from audio import access, gauges, metrics
from audio.api import described
from audio.api.access import CookieAuthentication, SecretAuthentication, identity_of


class TokenAuthentication(BaseAuthentication):
    """Authentication by METRICS_TOKEN in the Authorization header."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, access.Identity] | None:
        """Return anyone who has the token; None if there is another one, or none."""
        text = get_authorization_header(request)
        expected = f"Bearer {settings.METRICS_TOKEN}".encode()
        return (AnonymousUser(), access.ANYONE) if settings.METRICS_TOKEN and compare_digest(text, expected) else None

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge of a 401 response (RFC 9110 section 11.6.1)."""
        return 'Bearer realm="SercueScribe"'


class MetricsReader(BasePermission):
    """Let those pass who may see all projects."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether the identity sees all projects."""
        return identity_of(request).is_unlimited


class Metrics(APIView):
    """The metrics of all web processes of this host, and of the database."""

    authentication_classes = [TokenAuthentication, SecretAuthentication, CookieAuthentication]
    permission_classes = [MetricsReader]
    renderer_classes = [JSONRenderer]  # of errors

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Accept any Accept header; a response in another format is allowed (RFC 9110 section 12.4.1)."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(
        summary="Numbers for Prometheus",
        responses={
            (200, "text/plain"): OpenApiTypes.STR,
            (200, "application/openmetrics-text"): OpenApiTypes.STR,
            **described.answers(),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """Return the metrics of all web processes of this host, and of the database."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = CollectorRegistry()
        registry.register(metrics.instruments(settings.METRICS_DIR))
        registry.register(gauges.reading)
        return HttpResponse(encode(registry), content_type=content_type)
