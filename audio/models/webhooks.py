"""Events, the endpoints that receive them, and their deliveries.

The transaction that changes a state also inserts the event (`audio.webhooks.events`). So no event is lost, and none is
sent for a change that did not happen. It is published and delivered later.
"""

import uuid
from collections.abc import Iterable

from django.db import models
from django.utils import timezone

from audio.models.access import Project
from audio.models.expressions import Literal
from audio.wire.parameters import LABEL_MAX_LENGTH

URL_MAX_LENGTH = 2000
_ANSWER_CHARACTERS = 1000
_DETAIL_CHARACTERS = 500


class EventType(models.TextChoices):
    """The types of events."""

    SESSION_OPENED = "session.opened", "session.opened"
    SESSION_CLOSED = "session.closed", "session.closed"
    SESSION_DELETED = "session.deleted", "session.deleted"
    RECORDING_READY = "recording.ready", "recording.ready"
    RECORDING_FAILED = "recording.failed", "recording.failed"
    TASK_COMPLETED = "task.completed", "task.completed"
    TASK_FAILED = "task.failed", "task.failed"


# The type of the event that a test of an endpoint sends to it alone. No endpoint can subscribe to it.
TEST_TYPE = "webhook.test"


class WebhookEvent(models.Model):
    """An event of a session, its recording or one of its tasks.

    `position` numbers the events in the order in which they became visible. `audio.webhooks.outbox` assigns it, because
    a transaction with a lower `id` may be committed after one with a higher `id`. The row names its session without a
    foreign key, because it outlives the session. The foreign key of the project has no constraint in the database, so
    that an INSERT locks no row.
    """

    id = models.BigAutoField(primary_key=True)
    uid = models.UUIDField(default=uuid.uuid4, editable=False)
    type = models.CharField(max_length=20)
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="events", db_constraint=False, db_index=False, editable=False
    )
    session_id = models.UUIDField(null=True, blank=True)
    user_id = models.CharField(max_length=LABEL_MAX_LENGTH, null=True, blank=True)
    at = models.DateTimeField(default=timezone.now)
    data = models.JSONField(default=dict)
    position = models.BigIntegerField(null=True, blank=True, unique=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["session_id"], name="event_by_session"),
            models.Index(fields=["project", "-id"], name="event_by_project"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"

    @property
    def message_id(self) -> str:
        """The id by which receivers recognise the event, in whatever delivery it comes."""
        return f"msg_{self.uid.hex}"


class WebhookEndpoint(models.Model):
    """A URL to which the events of a project are sent."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=URL_MAX_LENGTH)
    event_types = models.JSONField(default=list, blank=True, help_text="The types that are sent. Empty: all.")
    description = models.CharField(max_length=200, blank=True)
    is_enabled = models.BooleanField(default=True)
    # Why the server has disabled it; empty if a person has.
    disabled_reason = models.CharField(max_length=_DETAIL_CHARACTERS, blank=True, editable=False)
    # The first of the failed attempts since the last success; null if the last attempt succeeded.
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["project", "-created_at", "-id"], name="webhook_by_project")]

    def __str__(self) -> str:
        return self.url

    def wants(self, event_type: str) -> bool:
        """Whether events of a type are sent to it."""
        return not self.event_types or event_type in self.event_types


class WebhookSecret(models.Model):
    """A secret that signs the deliveries to an endpoint. All secrets that have not expired sign each delivery.

    The server signs with the secret itself, so a digest would not be enough.
    """

    endpoint = models.ForeignKey(WebhookEndpoint, models.CASCADE, related_name="secrets")
    secret = models.CharField(max_length=100, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Null for the newest one.
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"secret of {self.endpoint_id}"


class DeliveryState(models.TextChoices):
    """The states of a delivery. The last two are final, until it is replayed."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryQuerySet(models.QuerySet["WebhookDelivery"]):
    """Filters of deliveries."""

    def pending(self) -> "DeliveryQuerySet":
        """Filter deliveries that are to be attempted, now or later."""
        return self.filter(state=Literal("pending"))


class WebhookDelivery(models.Model):
    """An event that is sent to an endpoint until the endpoint answers with 2xx.

    A process that attempts it first moves `due_at` a minute ahead. If the process dies, the delivery is due again then.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    endpoint = models.ForeignKey(WebhookEndpoint, models.CASCADE, related_name="deliveries", db_index=False)
    event = models.ForeignKey(WebhookEvent, models.CASCADE, related_name="deliveries")
    state = models.CharField(max_length=9, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempt_count = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "webhook deliveries"
        constraints = [models.UniqueConstraint(fields=["endpoint", "event"], name="delivery_endpoint_event")]
        indexes = [
            models.Index(fields=["endpoint", "-created_at", "-id"], name="delivery_by_endpoint"),
            models.Index(fields=["-created_at", "-id"], name="delivery_newest"),
            # The state is a column too, although it is in the condition: otherwise SQLite may use another index.
            models.Index(fields=["state", "due_at"], name="delivery_due", condition=models.Q(state="pending")),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"


class WebhookAttempt(models.Model):
    """One attempt of a delivery: the response of the endpoint, or the reason why there was none."""

    delivery = models.ForeignKey(WebhookDelivery, models.CASCADE, related_name="attempts")
    at = models.DateTimeField(default=timezone.now)
    duration_ms = models.PositiveIntegerField()
    # Null if there was no answer.
    status_code = models.PositiveSmallIntegerField(null=True, blank=True)
    error = models.CharField(max_length=_DETAIL_CHARACTERS, blank=True)
    answer = models.CharField(max_length=_ANSWER_CHARACTERS, blank=True, help_text="The beginning of the answer.")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return str(self.status_code or self.error)


def unknown_types(types: Iterable[str]) -> list[str]:
    """Return those of some names that are no types of events."""
    return sorted(set(types) - set(EventType.values))
