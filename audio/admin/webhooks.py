"""The admin's lists of webhooks, deliveries and events."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from audio.admin.access import audit
from audio.admin.lists import ReadOnlyAdmin
from audio.admin.scope import is_staff
from audio.errors import AudioError
from audio.models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from audio.webhooks import endpoints

_SHOWN = 20


class ActingAdmin(ReadOnlyAdmin):
    """A list of rows that can be read, and acted on by users who may change webhooks."""

    manager_may = frozenset(["operate"])

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may act on webhooks: managers, and staff with Django's permission to change them."""
        may_change = is_staff(request) and request.user.has_perm("audio.change_webhookendpoint")
        return self.manages(request, "operate") or bool(may_change)

    def act(
        self, request: HttpRequest, rows: QuerySet[Any], action: Callable[[Any], object], done: str, audited: str
    ) -> None:
        """Apply an action to each row, show the result to the user, and store the action in the audit."""
        for row in rows:
            try:
                action(row)
            except AudioError as error:
                self.message_user(request, f"{row}: {error.detail}", messages.WARNING)
            else:
                endpoint = row if isinstance(row, WebhookEndpoint) else row.endpoint
                audit(request, audited, endpoint.project_id, webhook=str(endpoint.pk))
                self.log_change(request, row, done)
                self.message_user(request, f"{row}: {done}")


def _enable(endpoint: WebhookEndpoint) -> None:
    endpoints.change(endpoint, is_enabled=True)


def _disable(endpoint: WebhookEndpoint) -> None:
    endpoints.change(endpoint, is_enabled=False)


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ActingAdmin):
    """Webhooks, newest first. They are created by REST or `manage.py webhooks`, which show the secret once."""

    project_path = "project"
    list_display = ["url", "project", "is_enabled", "failing_since", "disabled_reason", "created_at"]
    list_filter = ["is_enabled"]
    list_select_related = ["project"]
    ordering = ["-created_at", "-id"]
    sortable_by = ()
    actions = ["test_selected", "enable_selected", "disable_selected"]
    fields = [
        *("id", "project", "url", "description", "event_types", "is_enabled", "disabled_reason", "failing_since"),
        *("created_at", "newest_deliveries"),
    ]
    readonly_fields = ["newest_deliveries"]

    @admin.display(description="newest deliveries")
    def newest_deliveries(self, endpoint: WebhookEndpoint) -> str:
        """Return the newest deliveries, as links."""
        sent = endpoint.deliveries.select_related("event").order_by("-created_at", "-id")[:_SHOWN]
        cells = (
            (reverse("admin:audio_webhookdelivery_change", args=[each.pk]), each.event.type, each.state)
            for each in sent
        )
        return format_html_join("", '<p><a href="{}">{}</a> {}</p>', cells) or "-"

    @admin.action(description="Send a test event", permissions=["operate"])
    def test_selected(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        """Send an event of the type `webhook.test` to each webhook."""
        self.act(request, queryset, endpoints.test, "A test event was sent.", "webhook.tested")

    @admin.action(description="Enable", permissions=["operate"])
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        """Enable the webhooks."""
        self.act(request, queryset, _enable, "Enabled.", "webhook.changed")

    @admin.action(description="Disable", permissions=["operate"])
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        """Disable the webhooks. Their pending deliveries fail."""
        self.act(
            request, queryset, lambda each: endpoints.change(each, is_enabled=False), "Disabled.", "webhook.changed"
        )


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ActingAdmin):
    """Deliveries, newest first, with their attempts."""

    project_path = "endpoint__project"
    list_display = ["id", "event_type", "endpoint", "state", "attempt_count", "due_at", "created_at", "ended_at"]
    list_select_related = ["event", "endpoint"]
    ordering = ["-created_at", "-id"]
    sortable_by = ()
    actions = ["replay_selected"]
    fields = ["id", "event", "endpoint", "state", "due_at", "created_at", "ended_at", "tried"]
    readonly_fields = ["tried"]

    def of_projects(self, rows: QuerySet[Any], project_ids: frozenset[int]) -> QuerySet[Any]:
        """Return the deliveries of some projects. Through a join PostgreSQL would read those of all others too."""
        endpoints = WebhookEndpoint.objects.filter(project__in=project_ids)
        return rows.filter(endpoint__in=list(endpoints.values_list("pk", flat=True)))

    @admin.display(description="event")
    def event_type(self, sent: WebhookDelivery) -> str:
        """Return the type of the event."""
        return sent.event.type

    @admin.display(description="attempts")
    def tried(self, sent: WebhookDelivery) -> str:
        """Return the attempts as a table."""
        rows = (
            (
                each.at.isoformat(" ", "seconds"),
                f"{each.duration_ms} ms",
                each.status_code or "-",
                each.error or each.answer,
            )
            for each in sent.attempts.order_by("-id")[:_SHOWN]
        )
        cells = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", rows)
        return format_html("<table>{}</table>", cells) if cells else "-"

    @admin.action(description="Send again", permissions=["operate"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        """Send the events again, with the same ids."""
        rows = queryset.select_related("endpoint")
        self.act(request, rows, endpoints.replay, "The event is being sent again.", "webhook.replayed")


@admin.register(WebhookEvent)
class WebhookEventAdmin(ReadOnlyAdmin):
    """Events, newest first."""

    project_path = "project"
    list_display = ["message_id", "type", "project", "session_id", "at"]
    list_select_related = ["project"]
    ordering = ["-id"]
    sortable_by = ()
