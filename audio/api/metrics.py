"""`/metrics`: for Prometheus, in its text format or, if that is asked for, in OpenMetrics.

Nobody is asked who they are, because Prometheus seldom can say: keep the path away from the
public (docs/operations.md).
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
    """The numbers of all web processes of this host, and of the database."""

    authentication_classes = []
    renderer_classes = [JSONRenderer]  # of errors

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Whatever is asked for gets an answer (RFC 9110 section 12.4.1)."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(
        summary="Numbers for Prometheus",
        responses={(200, "text/plain"): OpenApiTypes.STR, (200, "application/openmetrics-text"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> HttpResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        asked = CollectorRegistry()
        asked.register(metrics.instruments(settings.METRICS_DIR))
        asked.register(gauges.reading)
        return HttpResponse(encode(asked), content_type=content_type)
