"""The REST API of markers: list, add, change and delete them."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from audio import ingest
from audio.api import described
from audio.api.access import READ, RECORD
from audio.api.paging import MarkerPages
from audio.api.queries import require_open_for_token
from audio.api.serializers import LabelField, without_unknown
from audio.api.views import SessionView
from audio.errors import InvalidParameterError, MarkerNotFoundError
from audio.models import Marker
from audio.wire.parameters import LABEL_MAX_LENGTH

# A year. No recording is longer.
_MOST_SECONDS = 366 * 86400


@extend_schema_field({"type": "number", "minimum": 0, "maximum": _MOST_SECONDS, "nullable": True})
class SecondsField(serializers.Field[Any, Any, Any, Any]):
    """A moment in seconds. It raises InvalidParameterError for anything else."""

    def to_internal_value(self, data: Any) -> float:
        """Return the seconds. Forms have them as text."""
        try:
            seconds = float("nan") if isinstance(data, bool) else float(data)
        except (TypeError, ValueError, OverflowError):
            seconds = float("nan")
        if not 0 <= seconds <= _MOST_SECONDS:
            raise InvalidParameterError(
                f"{self.field_name} must be a number of seconds from 0 to {_MOST_SECONDS}, or null.",
                parameter=self.field_name,
                received=str(data)[:64],
                limit=_MOST_SECONDS,
            )
        return seconds

    def to_representation(self, value: Any) -> Any:
        """Return the seconds."""
        return value


_POSITION_HELP = "Where the marker is in the recording. Null or absent: at the end of the audio so far."


class MarkerChangesSerializer(serializers.Serializer[Marker]):
    """Changes of a marker. Absent fields do not change."""

    label = LabelField(  # type: ignore[assignment]  # REST framework's own attribute is replaced in the class
        required=False, max_length=LABEL_MAX_LENGTH, trim_whitespace=False
    )
    position_seconds = SecondsField(
        required=False, allow_null=True, help_text="Where it is to be. Null: at the end of the audio so far."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Reject unknown fields."""
        without_unknown(self)
        return attrs


class NewMarkerSerializer(MarkerChangesSerializer):
    """A new marker."""

    label = LabelField(max_length=LABEL_MAX_LENGTH, trim_whitespace=False)
    position_seconds = SecondsField(required=False, allow_null=True, help_text=_POSITION_HELP)


class MarkerSerializer(serializers.ModelSerializer[Marker]):
    """A marker."""

    marker_id = serializers.UUIDField(source="id", read_only=True)
    position_seconds = serializers.FloatField(
        read_only=True,
        allow_null=True,
        help_text="Where it is in the recording. Null until the audio before it has been processed, or for a stream in "
        "WebM, Ogg or MP4 until the recording is ready.",
    )
    sequence = serializers.IntegerField(
        source="after_sequence",
        read_only=True,
        allow_null=True,
        help_text="The last chunk before it. Null if it was placed by its seconds.",
    )

    class Meta:
        model = Marker
        fields = ["marker_id", "label", "position_seconds", "sequence", "created_at"]
        read_only_fields = fields


@extend_schema_view(
    get=described.session_operation("List a session's markers", {200: MarkerSerializer(many=True)}, 400, 404, 503),
    post=described.session_operation(
        "Add a marker", {201: MarkerSerializer}, *(400, 404, 409, 413, 415, 503), request=NewMarkerSerializer
    ),
)
class MarkerList(SessionView, generics.ListAPIView[Marker]):
    """The markers of a session, in the order in which they were added."""

    scopes = {"GET": READ, "POST": RECORD}
    queryset = Marker.objects.none()
    pagination_class = MarkerPages
    filter_backends = []
    query_parameters = ("cursor", "page_size")

    def get_serializer_class(self) -> type[Any]:
        """Return the serializer of the request or of the response."""
        return NewMarkerSerializer if self.request.method == "POST" else MarkerSerializer

    def get_queryset(self) -> QuerySet[Marker]:
        """Return the markers of the session."""
        return Marker.objects.filter(session=self.session_so_far())

    def post(self, request: Request, session_id: str) -> Response:
        """Add a marker, at a number of seconds or at the end of the audio so far."""
        session = self.session()
        require_open_for_token(session, self.identity)
        requested = NewMarkerSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        wanted = requested.validated_data
        marker = ingest.add_marker(session.pk, wanted["label"], wanted.get("position_seconds"))
        return Response(MarkerSerializer(marker).data, status=status.HTTP_201_CREATED)


_MARKER_ID = OpenApiParameter("marker_id", OpenApiTypes.UUID, OpenApiParameter.PATH)


@extend_schema_view(
    patch=described.session_operation(
        "Change a marker",
        {200: MarkerSerializer},
        *(400, 404, 409, 413, 415, 503),
        request=MarkerChangesSerializer,
        parameters=[_MARKER_ID],
    ),
    delete=described.session_operation("Delete a marker", {204: None}, 400, 404, 503, parameters=[_MARKER_ID]),
)
class MarkerDetail(SessionView):
    """One marker."""

    scopes = {"PATCH": RECORD, "DELETE": RECORD}
    serializer_class = MarkerSerializer

    def _marker(self) -> Marker:
        text = self.kwargs["marker_id"]
        session = self.session()
        require_open_for_token(session, self.identity)
        try:
            marker = Marker.objects.filter(pk=UUID(text), session=session).first()
        except ValueError:
            marker = None
        if marker is None:
            raise MarkerNotFoundError(received=text[:64])
        return marker

    def patch(self, request: Request, session_id: str, marker_id: str) -> Response:
        """Change the label or the position of a marker."""
        marker = self._marker()
        requested = MarkerChangesSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        ingest.change_marker(marker, requested.validated_data)
        return Response(MarkerSerializer(self._marker()).data)

    def delete(self, request: Request, session_id: str, marker_id: str) -> Response:
        """Delete a marker."""
        session = self.session()
        marker = self._marker()
        ingest.delete_marker(marker)
        self.note("marker.deleted", session, marker_id=marker_id, label=marker.label)
        return Response(status=status.HTTP_204_NO_CONTENT)
