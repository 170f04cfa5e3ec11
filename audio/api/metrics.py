"""`/metrics` for Prometheus, in its text format or in OpenMetrics.

There is no authentication, because Prometheus is seldom set up for it. The path should not be reachable by the public
(docs/operations.md).
"""

from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from audio import gauges, metrics


class Metrics(APIView):
    """The metrics of all web processes of this host, and of the database."""

    authentication_classes = []
    renderer_classes = [JSONRenderer]  # of errors

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Accept any Accept header; a response in another format is allowed (RFC 9110 section 12.4.1)."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(
        summary="Numbers for Prometheus",
        responses={(200, "text/plain"): OpenApiTypes.STR, (200, "application/openmetrics-text"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return the metrics of all web processes of this host, and of the database."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = CollectorRegistry()
        registry.register(metrics.instruments(settings.METRICS_DIR))
        registry.register(gauges.reading)
        return HttpResponse(encode(registry), content_type=content_type)
