"""The lists of recordings, background tasks, sources and chunks, and of Celery's results."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django_celery_results import admin as _registers_them  # noqa: F401 - before they are unregistered below
from django_celery_results.models import GroupResult, TaskResult

from audio.admin.lists import ReadOnlyAdmin, StoredStateAdmin, searched_session
from audio.models import AudioChunk, AudioSource, BackgroundTask, Recording


@admin.register(Recording)
class RecordingAdmin(StoredStateAdmin):
    """Recordings, the latest change first."""

    list_display = [
        *("state", "session_link", "format", "duration_seconds", "size_bytes", "progress", "error_code", "updated_at")
    ]
    list_filter = ["state"]
    ordering = ["-updated_at", "-session_id"]
    sortable_by = ()


@admin.register(BackgroundTask)
class BackgroundTaskAdmin(StoredStateAdmin):
    """Background tasks, newest first."""

    list_display = [
        *("short_id", "session_link", "kind", "format", "state", "progress", "error_code", "created_at", "ended_at")
    ]
    list_filter = ["state", "kind"]
    ordering = ["-created_at", "-id"]
    sortable_by = ()


@admin.register(AudioSource)
class AudioSourceAdmin(StoredStateAdmin):
    """Sources, newest first."""

    list_display = ["id", "session_link", "name", "epoch", "chunk_count"]
    ordering = ["-id"]
    sortable_by = ()


@admin.register(AudioChunk)
class AudioChunkAdmin(StoredStateAdmin):
    """Chunks, newest first; those of one session in their order."""

    list_display = ["id", "session_link", "sequence", "size_bytes", "received_at", "source", "journal", "offset"]
    list_select_related = ["source", "journal"]
    # A session has thousands of chunks.
    newest_sessions = 1
    sortable_by = ()

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        """Order the chunks of one session by their sequence, and all chunks by their age."""
        return ["session_id", "sequence"] if searched_session(request.GET.get("q", "")) else ["-id"]


# The lists of django-celery-results read whole tables for the choices of their filters.
admin.site.unregister([GroupResult, TaskResult])


@admin.register(TaskResult)
class TaskResultAdmin(ReadOnlyAdmin):
    """The results of Celery tasks, newest first."""

    list_display = ["task_id", "task_name", "status", "worker", "date_done"]
    ordering = ["-id"]
    sortable_by = ()
