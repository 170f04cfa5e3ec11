"""What operators see of the stored state: all of it to read, nothing to change by hand.

Tables may hold millions of rows, so that no page counts them all: COUNT_LIMIT rows are counted and can be paged
through, the rest is found by the id of its session.
"""

import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from audio.models import AudioChunk, AudioSession, AudioSource, BackgroundTask, Recording

if TYPE_CHECKING:  # the classes themselves take no type parameters
    _Paginator = Paginator[Any]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _Paginator = Paginator
    _ModelAdmin = admin.ModelAdmin

COUNT_LIMIT = 10_000


class BoundedPaginator(_Paginator):
    """Pages through the first COUNT_LIMIT rows and counts no further."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows[:COUNT_LIMIT].count()


class StoredStateAdmin(_ModelAdmin):
    """Reads, never writes. `session_field` leads to the session whose id or user is searched for."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50
    # The search itself is in get_search_results; the admin shows its box only where fields are named.
    search_fields = ["pk"]
    search_help_text = "The id of a session, or the beginning of a user_id"
    session_field = "session"

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Rows alone would go, and their bytes stay: DELETE of the API removes both.
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Finds a session by its id, through an index, else by the beginning of its user_id."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(**{self.session_field: uuid.UUID(term)}), False
        except ValueError:
            return queryset.filter(self._of_user(term)), False

    def _of_user(self, term: str) -> Q:
        name = "user_id" if self.session_field == "pk" else f"{self.session_field}__user_id"
        return Q(**{f"{name}__startswith": term})


@admin.register(AudioSession)
class AudioSessionAdmin(StoredStateAdmin):
    session_field = "pk"
    list_display = ["id", "user_id", "status", "recording_state", "format", "total_chunks", "byte_count", "start_time"]
    list_filter = ["status", "recording__state", "format", "recovered", "start_time"]
    list_select_related = ["recording"]
    ordering = ["-start_time"]
    sortable_by = ["start_time"]

    readonly_fields = ["listen", "waveform"]

    @admin.display(description="listen")
    def listen(self, session: AudioSession) -> str:
        """A player of the recording, or of what is recorded so far."""
        return format_html(
            '<audio controls preload="none" src="{}"></audio>', reverse("session-audio", args=[session.pk])
        )

    @admin.display(description="waveform")
    def waveform(self, session: AudioSession) -> str:
        """The picture; asking for it the first time makes it."""
        return format_html(
            '<img src="{}?format=svg" alt="Not there yet: reload the page in a moment." width="800" height="120">',
            reverse("session-waveform", args=[session.pk]),
        )

    @admin.display(description="recording")
    def recording_state(self, session: AudioSession) -> str:
        return session.recording.state if hasattr(session, "recording") else "-"


@admin.register(Recording)
class RecordingAdmin(StoredStateAdmin):
    list_display = ["session_id", "state", "format", "duration_seconds", "size_bytes", "error_code", "updated_at"]
    list_filter = ["state", "format"]
    ordering = ["-updated_at"]
    sortable_by = ["updated_at"]


@admin.register(BackgroundTask)
class BackgroundTaskAdmin(StoredStateAdmin):
    list_display = ["id", "session_id", "kind", "format", "state", "progress", "error_code", "created_at", "ended_at"]
    list_filter = ["state", "kind", "format"]
    ordering = ["-created_at", "-id"]
    sortable_by = ["created_at"]


@admin.register(AudioSource)
class AudioSourceAdmin(StoredStateAdmin):
    list_display = ["session_id", "name", "epoch", "chunk_count"]
    ordering = ["-id"]
    sortable_by = ()


@admin.register(AudioChunk)
class AudioChunkAdmin(StoredStateAdmin):
    list_display = ["session_id", "sequence", "size_bytes", "received_at", "source", "journal", "offset"]
    list_select_related = ["source", "journal"]
    ordering = ["-id"]
    sortable_by = ()
