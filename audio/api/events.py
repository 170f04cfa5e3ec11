"""The view of the event stream: it checks the identity and the parameters. `audio.streams` does the rest."""

from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request

from audio import ingest
from audio.api import described
from audio.api.access import READ
from audio.api.queries import find_session
from audio.api.views import AnythingAccepted, CheckedView
from audio.errors import InvalidParameterError
from audio.webhooks.subscriptions import SCOPE_KEY, Subscription

MEDIA_TYPE = "text/event-stream"
MAX_SESSIONS = 50
_POSITION_DIGITS = 18
# After the loss of its connection a browser waits so long before it connects again.
_BEGINNING = "retry: 2000\n\n"


_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["event", "data"],
}


class EventStream(CheckedView):
    """The events of sessions as they happen, and the progress of open sessions."""

    scopes = {"GET": READ}
    takes_token = True
    content_negotiation_class = AnythingAccepted
    query_parameters = ("session_id", "last_event_id")

    @extend_schema(
        summary="Listen to events",
        tags=["events"],
        parameters=[
            OpenApiParameter(
                "session_id",
                OpenApiTypes.UUID,
                many=True,
                description=f"Listen only to these sessions, at most {MAX_SESSIONS}. Repeat the parameter.",
            ),
            OpenApiParameter("last_event_id", OpenApiTypes.INT, description="As the header `Last-Event-ID`."),
            OpenApiParameter(
                "Last-Event-ID",
                OpenApiTypes.INT,
                OpenApiParameter.HEADER,
                description="The `id` of the last event that was received. The stream continues after it.",
            ),
        ],
        responses={
            (200, MEDIA_TYPE): OpenApiResponse(_EVENT, description="Server-sent events, without an end."),
            **described.answers(400, 404, 503),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        """Return the events of sessions as they happen, and the progress of open sessions, as server-sent events."""
        texts = request.query_params.getlist("session_id")
        if len(texts) > MAX_SESSIONS:
            raise InvalidParameterError(
                f"At most {MAX_SESSIONS} sessions can be named.", parameter="session_id", limit=MAX_SESSIONS
            )
        named = [find_session(ingest.parse_session_id(text), self.identity, READ).pk for text in texts]
        scope: dict[str, Any] = getattr(request._request, "scope", {})
        scope[SCOPE_KEY] = Subscription(self.identity, frozenset(named), _position(request))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return HttpResponse(_BEGINNING, content_type=MEDIA_TYPE, headers=headers)


def _position(request: Request) -> int | None:
    text = request.headers.get("Last-Event-ID") or request.query_params.get("last_event_id")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _POSITION_DIGITS):
        raise InvalidParameterError(
            "Last-Event-ID must be the id of an event of this stream.", parameter="last_event_id", received=text[:64]
        )
    return int(text)
