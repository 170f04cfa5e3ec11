"""Who did what: the admin's own log, which outlives the sessions that it names."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry

from audio.admin.lists import ReadOnlyAdmin


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnlyAdmin):
    """What was done in the admin, the latest first."""

    list_display = ["action_time", "user", "object_repr", "content_type", "action_flag", "message"]
    list_select_related = ["user", "content_type"]
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description="action")
    def message(self, entry: LogEntry) -> str:
        """What was done, in words."""
        return entry.get_change_message()
