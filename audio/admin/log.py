"""The admin's own log of actions, which outlives the sessions that it names."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry

from audio.admin.lists import ReadOnlyAdmin


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnlyAdmin):
    """The log of actions in the admin, newest first."""

    list_display = ["action_time", "user", "object_repr", "content_type", "action_flag", "message"]
    list_select_related = ["user", "content_type"]
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description="action")
    def message(self, entry: LogEntry) -> str:
        """Return a description of the action."""
        return entry.get_change_message()
