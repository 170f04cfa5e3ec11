"""The REST API of webhooks: create, change, test and delete them, and list their deliveries."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from audio import access, ingest
from audio.api import described
from audio.api.access import MANAGE, address_of
from audio.api.paging import DeliveryPages, WebhookPages
from audio.api.serializers import ClosedSerializer
from audio.api.views import CheckedView
from audio.errors import InvalidParameterError, WebhookNotFoundError
from audio.models import DeliveryState, EventType, WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookEvent
from audio.models.webhooks import URL_MAX_LENGTH
from audio.webhooks import endpoints

_SHOWN_ATTEMPTS = 20
_TYPES_HELP = "The types of events that are sent. An empty list, which is the default, means all."


class WebhookSerializer(serializers.ModelSerializer[WebhookEndpoint]):
    """A webhook, without its secret."""

    project = serializers.CharField(source="project.name", read_only=True)
    event_types = serializers.ListField(child=serializers.ChoiceField(EventType.choices), help_text=_TYPES_HELP)
    disabled_reason = serializers.CharField(help_text="Why the server has disabled it. Empty if a person has.")
    failing_since = serializers.DateTimeField(help_text="The first failed attempt since the last success, or null.")

    class Meta:
        model = WebhookEndpoint
        fields = [
            *("id", "project", "url", "event_types", "description", "is_enabled", "disabled_reason"),
            *("failing_since", "created_at"),
        ]
        read_only_fields = fields


class WebhookWithSecretSerializer(WebhookSerializer):
    """A webhook with its newest secret."""

    secret = serializers.SerializerMethodField(help_text="The secret that signs deliveries. It is not shown again.")

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "secret"]
        read_only_fields = fields

    def get_secret(self, webhook: WebhookEndpoint) -> str:
        """Return the secret."""
        return str(self.context["secret"])


class EventTypesField(serializers.ListField):
    """Types of events. A form repeats the field."""

    child = serializers.ChoiceField(EventType.choices)

    def get_value(self, dictionary: Any) -> Any:
        """Return the value of a request.

        Raises:
            InvalidParameterError: A form numbers the field, with more digits than Python reads.
        """
        try:
            return super().get_value(dictionary)
        except ValueError as error:
            sentence = "A form must repeat event_types for each type, without a number."
            raise InvalidParameterError(sentence, parameter="event_types") from error


class NewWebhookSerializer(ClosedSerializer):
    """A new webhook."""

    url = serializers.CharField(
        max_length=URL_MAX_LENGTH, help_text="Where events are sent, such as https://host/hook."
    )
    event_types = EventTypesField(required=False, help_text=_TYPES_HELP)
    description = serializers.CharField(required=False, max_length=200, allow_blank=True)
    project = serializers.CharField(
        required=False, max_length=50, help_text="The name of the project. If absent, it is the caller's."
    )


class NewWebhookSettingsSerializer(ClosedSerializer):
    """The changes to a webhook. Absent fields do not change."""

    url = serializers.CharField(required=False, max_length=URL_MAX_LENGTH)
    event_types = EventTypesField(required=False, help_text=_TYPES_HELP)
    description = serializers.CharField(required=False, max_length=200, allow_blank=True)
    is_enabled = serializers.BooleanField(required=False)


class AttemptSerializer(serializers.ModelSerializer[WebhookAttempt]):
    """An attempt of a delivery."""

    class Meta:
        model = WebhookAttempt
        fields = ["at", "duration_ms", "status_code", "error", "answer"]
        read_only_fields = fields


class DeliverySerializer(serializers.ModelSerializer[WebhookDelivery]):
    """An event that is, or was, sent to a webhook."""

    event_id = serializers.CharField(source="event.message_id", read_only=True, help_text="The header `webhook-id`.")
    event_type = serializers.CharField(source="event.type", read_only=True)
    session_id = serializers.UUIDField(source="event.session_id", read_only=True, allow_null=True)
    status = serializers.ChoiceField(DeliveryState.choices, source="state", read_only=True)
    next_attempt_at = serializers.SerializerMethodField(help_text="Null if there will be none.")
    attempts = serializers.SerializerMethodField(help_text=f"The last {_SHOWN_ATTEMPTS}, the oldest first.")

    class Meta:
        model = WebhookDelivery
        fields = [
            *("id", "event_id", "event_type", "session_id", "status", "next_attempt_at", "created_at", "ended_at"),
            "attempts",
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "format": "date-time", "nullable": True})
    def get_next_attempt_at(self, sent: WebhookDelivery) -> str | None:
        """Return the time of the next attempt."""
        return sent.due_at.isoformat() if sent.state == DeliveryState.PENDING else None

    @extend_schema_field(AttemptSerializer(many=True))
    def get_attempts(self, sent: WebhookDelivery) -> list[Any]:
        """Return the last attempts."""
        return list(AttemptSerializer(list(sent.attempts.all())[-_SHOWN_ATTEMPTS:], many=True).data)


_WEBHOOK_ID = OpenApiParameter("webhook_id", OpenApiTypes.UUID, OpenApiParameter.PATH)
_ERRORS = (401, 403, 404, 503)


class WebhookView(CheckedView):
    """A view of the webhook whose id is in the path."""

    def webhook(self) -> WebhookEndpoint:
        """Return the webhook.

        Raises:
            NotAllowedError: The caller may not manage its project.
            WebhookNotFoundError: There is no such webhook, or not for the caller.
        """
        key = _uuid(self.kwargs["webhook_id"])
        found = WebhookEndpoint.objects.select_related("project").filter(pk=key).first()
        if found is None or not self.identity.sees(found.project_id):
            raise WebhookNotFoundError(received=str(key))
        self.identity.require(MANAGE, found.project_id)
        return found

    def note_webhook(self, action: str, webhook: WebhookEndpoint, **details: Any) -> None:
        """Store an action on a webhook in the audit."""
        address = address_of(self.request)
        access.audit.record(
            action, self.identity, webhook.project_id, None, address, webhook=str(webhook.pk), **details
        )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise WebhookNotFoundError(received=text[:64]) from None


def _with_secret(webhook: WebhookEndpoint, secret: str, status_code: int, **headers: str) -> Response:
    shown = WebhookWithSecretSerializer(webhook, context={"secret": secret}).data
    return Response(shown, status=status_code, headers={"Cache-Control": "no-store", **headers})


@extend_schema_view(
    get=extend_schema(
        summary="List webhooks, newest first",
        tags=["webhooks"],
        parameters=[OpenApiParameter("project", OpenApiTypes.STR, description="List only those of this project.")],
        responses={200: WebhookSerializer(many=True), **described.answers(400, *_ERRORS)},
    ),
    post=extend_schema(
        summary="Create a webhook",
        tags=["webhooks"],
        request=NewWebhookSerializer,
        responses={201: WebhookWithSecretSerializer, **described.answers(400, *_ERRORS, 413, 415)},
    ),
)
class WebhookList(WebhookView, generics.ListAPIView[WebhookEndpoint]):
    """The webhooks of the projects that the caller manages. A new webhook's secret is shown once."""

    scopes = {"GET": MANAGE, "POST": MANAGE}
    queryset = WebhookEndpoint.objects.select_related("project")
    serializer_class = WebhookSerializer
    pagination_class = WebhookPages
    filter_backends = []
    query_parameters = ("cursor", "page_size", "project")

    def get_queryset(self) -> QuerySet[WebhookEndpoint]:
        """Return the webhooks of the projects that the caller manages, or of one of them."""
        return self.managed(super().get_queryset())

    def post(self, request: Request) -> Response:
        """Create a webhook. The response contains the secret, which is not shown again."""
        requested = NewWebhookSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        wanted = dict(requested.validated_data)
        project_id = access.project_for(self.identity, wanted.pop("project", None))
        self.identity.require(MANAGE, project_id)
        webhook, secret = endpoints.create(project_id, **wanted)
        self.note_webhook("webhook.created", webhook, url=webhook.url)
        location = reverse("webhook-detail", [webhook.pk], request=request)
        return _with_secret(webhook, secret, status.HTTP_201_CREATED, Location=location)


@extend_schema_view(
    get=extend_schema(
        summary="Show a webhook",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID],
        responses={200: WebhookSerializer, **described.answers(*_ERRORS)},
    ),
    patch=extend_schema(
        summary="Change, enable or disable a webhook",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID],
        request=NewWebhookSettingsSerializer,
        responses={200: WebhookSerializer, **described.answers(400, *_ERRORS, 413, 415)},
    ),
    delete=extend_schema(
        summary="Delete a webhook with its deliveries",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID],
        responses={204: None, **described.answers(*_ERRORS)},
    ),
)
class WebhookDetail(WebhookView):
    """A webhook."""

    scopes = {"GET": MANAGE, "PATCH": MANAGE, "DELETE": MANAGE}
    serializer_class = WebhookSerializer

    def get(self, request: Request, webhook_id: str) -> Response:
        """Return a webhook."""
        return Response(WebhookSerializer(self.webhook()).data)

    def patch(self, request: Request, webhook_id: str) -> Response:
        """Change a webhook. If it is disabled, its pending deliveries fail; they can be replayed later."""
        webhook = self.webhook()
        requested = NewWebhookSettingsSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        endpoints.change(webhook, **requested.validated_data)
        self.note_webhook("webhook.changed", webhook, **requested.validated_data)
        return Response(WebhookSerializer(self.webhook()).data)

    def delete(self, request: Request, webhook_id: str) -> Response:
        """Delete a webhook with its deliveries."""
        webhook = self.webhook()
        self.note_webhook("webhook.deleted", webhook, url=webhook.url)
        webhook.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


class WebhookRotate(WebhookView):
    """Give a webhook a new secret. For a day events are also signed with the previous secret."""

    scopes = {"POST": MANAGE}

    @extend_schema(
        summary="Rotate a webhook's secret",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID],
        request=None,
        responses={200: WebhookWithSecretSerializer, **described.answers(*_ERRORS)},
    )
    def post(self, request: Request, webhook_id: str) -> Response:
        """Give a webhook a new secret, which is shown once. For a day events are also signed with the previous one."""
        webhook = self.webhook()
        secret = endpoints.rotate(webhook)
        self.note_webhook("webhook.rotated", webhook)
        return _with_secret(webhook, secret, status.HTTP_200_OK)


class WebhookTest(WebhookView):
    """Send an event of the type `webhook.test`."""

    scopes = {"POST": MANAGE}

    @extend_schema(
        summary="Test a webhook",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID],
        request=None,
        responses={202: DeliverySerializer, **described.answers(*_ERRORS, 409)},
    )
    def post(self, request: Request, webhook_id: str) -> Response:
        """Send an event of the type `webhook.test`. The list of deliveries shows how it went."""
        webhook = self.webhook()
        sent = endpoints.test(webhook)
        self.note_webhook("webhook.tested", webhook)
        return Response(DeliverySerializer(sent).data, status=status.HTTP_202_ACCEPTED)


@extend_schema_view(
    get=extend_schema(
        summary="List a webhook's deliveries, newest first",
        tags=["webhooks"],
        parameters=[
            _WEBHOOK_ID,
            OpenApiParameter("session_id", OpenApiTypes.UUID, description="List only events of this session."),
        ],
        responses={200: DeliverySerializer(many=True), **described.answers(400, *_ERRORS)},
    )
)
class DeliveryList(WebhookView, generics.ListAPIView[WebhookDelivery]):
    """The deliveries of a webhook, with their attempts."""

    scopes = {"GET": MANAGE}
    queryset = WebhookDelivery.objects.none()
    serializer_class = DeliverySerializer
    pagination_class = DeliveryPages
    filter_backends = []
    query_parameters = ("cursor", "page_size", "session_id")

    def get_queryset(self) -> QuerySet[WebhookDelivery]:
        """Return the deliveries of the webhook, of one session if the request names it."""
        sent = WebhookDelivery.objects.filter(endpoint=self.webhook())
        if "session_id" in self.request.query_params:
            named = ingest.parse_session_id(self.request.query_params["session_id"])
            # With a subquery, SQLite would read all deliveries of the webhook.
            sent = sent.filter(
                event__in=list(WebhookEvent.objects.filter(session_id=named).values_list("pk", flat=True))
            )
        return sent.select_related("event").prefetch_related("attempts")


class DeliveryReplay(WebhookView):
    """Send an event to a webhook again, with the same id."""

    scopes = {"POST": MANAGE}

    @extend_schema(
        summary="Replay a delivery",
        tags=["webhooks"],
        parameters=[_WEBHOOK_ID, OpenApiParameter("delivery_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
        request=None,
        responses={202: DeliverySerializer, **described.answers(*_ERRORS, 409)},
    )
    def post(self, request: Request, webhook_id: str, delivery_id: str) -> Response:
        """Send an event to a webhook again, with the same id, whether it was delivered or not."""
        webhook = self.webhook()
        mine = WebhookDelivery.objects.filter(endpoint=webhook).select_related("event", "endpoint")
        sent = mine.filter(pk=_uuid(delivery_id)).first()
        if sent is None:
            raise WebhookNotFoundError(received=delivery_id[:64])
        endpoints.replay(sent)
        self.note_webhook("webhook.replayed", webhook, event=sent.event.message_id)
        return Response(DeliverySerializer(mine.get(pk=sent.pk)).data, status=status.HTTP_202_ACCEPTED)
