"""The admin's list of sessions, and the page of a session."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join

from audio.admin.actions import actions_for
from audio.admin.lists import COUNT_LIMIT, searched_session, searched_span
from audio.admin.markers import MarkedSessions
from audio.admin.scope import ProjectFilter
from audio.media.plan import TARGETS
from audio.models import AudioSession, BackgroundTask, Recording, RecordingState, TaskKind, TaskState
from audio.narrowing import OnColumn, narrowed
from audio.storage import downloads

_SHOWN_TASKS = 10
NOTHING = "-"
_NOT_PLAYED: dict[str, str] = {
    RecordingState.BUILDING: "The recording is being made.",
    RecordingState.FAILED: "The recording failed, and no part of it can be played.",
}
SEARCH_LIMIT = 100_000
MATCH_LIMIT = 500


class RecordingFilter(admin.SimpleListFilter):
    """A filter by the state of the recording.

    It finds the newest sessions in that state, as many as the list counts.
    """

    title = "recording"
    parameter_name = "recording"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the states."""
        return [(str(state.value), str(state.label)) for state in RecordingState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> QuerySet[AudioSession]:
        """Filter by the keys of the recordings, which are found through an index of their own."""
        if self.value() is None:
            return queryset
        found = Recording.objects.filter(state=self.value()).order_by("-updated_at", "-session_id")
        return queryset.filter(pk__in=found.values("pk")[:COUNT_LIMIT])


def _matching(term: str, visible: QuerySet[AudioSession]) -> set[UUID]:
    """Find the newest visible sessions whose id or name begins with the term, or whose user_id contains it.

    Only the newest SEARCH_LIMIT sessions are searched for a part of the user_id, because no index finds it. A user_id
    that equals the term is found in all sessions.
    """
    newest = visible.select_related(None).order_by("-start_time", "-id")
    span = searched_span(term)
    searches = narrowed(newest, [OnColumn("pk", "range", span)]).parts if span else []
    beginning = newest.values_list("start_time", flat=True)[SEARCH_LIMIT : SEARCH_LIMIT + 1].first()
    among = newest.filter(start_time__gt=beginning) if beginning else newest
    searches += [
        newest.filter(user_id=term),
        *narrowed(newest, [OnColumn("name", "begins", term)]).parts,
        among.filter(user_id__icontains=term),
    ]
    return {found for search in searches for found in search.values_list("pk", flat=True)[:MATCH_LIMIT]}


@admin.register(AudioSession)
class AudioSessionAdmin(MarkedSessions):
    """Sessions, newest first."""

    session_field = "pk"
    project_path = "project"
    search_help_text = "Search for a session id or a name, the beginning of one, or a part of a user_id."
    list_display = [
        *("short_id", "name", "user_id", "state", "recording_state", "format", "total_chunks", "size", "start_time"),
    ]
    list_filter = ["status", ProjectFilter, RecordingFilter, "format", "recovered", "start_time"]
    list_select_related = ["recording", "project"]
    ordering = ["-start_time", "-id"]
    sortable_by = ()
    change_form_template = "admin/audio/audiosession/page.html"
    fieldsets = [
        ("Recording", {"fields": ["recording_state", "recording_error", "listen", "waveform", "downloads"]}),
        ("Session", {"fields": ["id", "name", "project", "user_id", "state", "start_time", "end_time"]}),
        ("Details", {"fields": ["described", "retention_days", "legal_hold"]}),
        ("Audio", {"fields": ["sample_rate", "channels", "format", "encoding", "chunk_mode", "undecided"]}),
        ("Chunks", {"fields": ["chunks", "size", "sources", "connections", "last_chunk_at", "dropped_at"]}),
        ("Background tasks", {"fields": ["tasks"]}),
    ]
    readonly_fields = [
        *("recording_state", "recording_error", "listen", "waveform", "downloads"),
        *("state", "described", "chunks", "size", "sources", "connections", "tasks"),
    ]

    def of_projects(self, rows: QuerySet[Any], project_ids: frozenset[int]) -> QuerySet[Any]:
        """Return the sessions of some projects. A plain query of several would sort all of them."""
        if len(project_ids) == 1:
            return super().of_projects(rows, project_ids)
        (found,) = narrowed(rows, [OnColumn("project_id", "in", sorted(project_ids))]).parts
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find sessions by the beginning of their id or name, or by a part of their user_id."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if searched_session(term):
            return super().get_search_results(request, queryset, term)
        return queryset.filter(pk__in=_matching(term, self.get_queryset(request))), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Whether a condition in the URL is allowed: the filters of this list may add conditions of their own."""
        own = ("status__exact", ProjectFilter.parameter_name, RecordingFilter.parameter_name)
        return lookup in own or super().lookup_allowed(lookup, value, request)

    # The page.

    def get_urls(self) -> list[URLPattern]:
        """Add the URL of the buttons on a session's page."""
        act = self.admin_site.admin_view(self.act_view)
        return [path("<path:object_id>/act/", act, name="audio_audiosession_act"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the page of a session, with a button for each action that the user may take.

        Deletion has Django's own button.
        """
        session = self.get_object(request, unquote(object_id))
        sensible = actions_for(session) if session else set()
        actions: Any = self.get_actions(request).values()
        buttons = {name: text for _, name, text in actions if name in sensible}
        context = {"session_actions": buttons, "formats": list(TARGETS), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def act_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Run the action of a button on a session's page, then return to that page."""
        actions: Any = self.get_actions(request)
        name = request.POST.get("action", "")
        if name not in actions:
            raise PermissionDenied
        answer: HttpResponse | None = actions[name][0](self, request, self._one(request, object_id))
        return answer or HttpResponseRedirect(reverse("admin:audio_audiosession_change", args=[object_id]))

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show a page for confirmation, then delete the session in the background.

        Django's own view would load every row that belongs to the session.
        """
        if not self.has_delete_permission(request):
            raise PermissionDenied
        answer = self.delete_selected(request, self._one(request, object_id))
        return answer or HttpResponseRedirect(reverse("admin:audio_audiosession_changelist"))

    def _one(self, request: HttpRequest, object_id: str) -> QuerySet[AudioSession]:
        """Return the session of a page as a query for an action.

        Raises:
            Http404: There is no such session.
        """
        session = self.get_object(request, unquote(object_id))
        if session is None:
            raise Http404
        return self.get_queryset(request).filter(pk=session.pk)

    # Columns of the list and fields of the page.

    @admin.display(description="status")
    def state(self, session: AudioSession) -> str:
        """Return the status, or that the session is being deleted."""
        return "being deleted" if session.delete_requested_at else session.status

    @admin.display(description="recording")
    def recording_state(self, session: AudioSession) -> str:
        """Return the state of the recording, with its progress and its duration."""
        recording = _recording(session)
        shown = recording.state
        if recording.state == RecordingState.BUILDING:
            shown = f"{shown}, {recording.progress:.0%}"
        if recording.duration_seconds is not None:
            shown = f"{shown}, {recording.duration_seconds:.3f}\N{NO-BREAK SPACE}s"
        return shown

    @admin.display(description="error of the recording")
    def recording_error(self, session: AudioSession) -> str:
        """Return why the recording failed, with the chunk that is at fault if that is known."""
        recording = _recording(session)
        if not recording.error_code:
            return NOTHING
        chunk = f" (chunk {recording.failed_sequence})" if recording.failed_sequence else ""
        return f"{recording.error_code}: {recording.error_detail}{chunk}"

    @admin.display(description="metadata")
    def described(self, session: AudioSession) -> str:
        """Return the metadata."""
        rows = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", session.metadata.items())
        return format_html("<table>{}</table>", rows) if rows else NOTHING

    @admin.display(description="size", empty_value=NOTHING)
    def size(self, session: AudioSession) -> str:
        """Return the number of bytes of the chunks, as they were sent."""
        return filesizeformat(session.byte_count)

    @admin.display(description="listen")
    def listen(self, session: AudioSession) -> str:
        """Return a player of the recording, of the audio so far, or of the incomplete recording if it failed."""
        url = _path(session, "audio")
        if downloads.has_part(_recording(session)):
            url = f"{url}?{urlencode({'partial': 'true'})}"
        elif not _can_be_played(session):
            return _NOT_PLAYED.get(_recording(session).state, "Nothing has been recorded yet.")
        return format_html('<audio controls preload="none" src="{}"></audio>', url)

    @admin.display(description="waveform")
    def waveform(self, session: AudioSession) -> str:
        """Return the picture of the waveform. Its first request makes the waveform."""
        if not _can_be_played(session):
            return NOTHING
        return format_html(
            '<img class="waveform" src="{}?format=svg" alt="The waveform is not ready. Reload the page in a moment."'
            ' width="800" height="120">',
            _path(session, "waveform"),
        )

    @admin.display(description="downloads")
    def downloads(self, session: AudioSession) -> str:
        """Return links to the recording and its transcodes."""
        recording = _recording(session)
        if downloads.has_part(recording):
            url = f"{_path(session, 'audio')}?{urlencode({'partial': 'true'})}"
            size = filesizeformat(recording.size_bytes or recording.master_bytes)
            return format_html('<a class="file" href="{}" download>incomplete <small>{}</small></a>', url, size)
        if recording.state != RecordingState.READY:
            return NOTHING
        made = BackgroundTask.objects.filter(
            session=session, kind=TaskKind.TRANSCODE, is_current=True, state=TaskState.COMPLETED
        )
        files = [(_path(session, "audio"), recording.format, recording.size_bytes)]
        files += [
            (f"{_path(session, 'audio')}?{urlencode({'format': task.format})}", task.format, task.size_bytes)
            for task in made.order_by("format")
        ]
        named = ((path, audio_format, filesizeformat(size or 0)) for path, audio_format, size in files)
        return format_html_join(" ", '<a class="file" href="{}" download>{} <small>{}</small></a>', named)

    @admin.display(description="chunks")
    def chunks(self, session: AudioSession) -> str:
        """Return the number of chunks, as a link to them."""
        return _listed("audiochunk", session, session.total_chunks)

    @admin.display(description="sources")
    def sources(self, session: AudioSession) -> str:
        """Return a link to the sources."""
        return _listed("audiosource", session, "show")

    @admin.display(description="connections")
    def connections(self, session: AudioSession) -> int:
        """Return the number of open WebSockets that may write to the session."""
        return session.open_connections.count()

    @admin.display(description="newest tasks")
    def tasks(self, session: AudioSession) -> str:
        """Return the newest background tasks, with a link to all of them."""
        tasks = list(BackgroundTask.objects.filter(session=session).order_by("-created_at", "-id")[:_SHOWN_TASKS])
        if not tasks:
            return NOTHING
        rows = format_html_join("", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", map(_task_cells, tasks))
        return format_html('<table class="tasks">{}</table>{}', rows, _listed("backgroundtask", session, "all tasks"))


def _recording(session: AudioSession) -> Recording:
    return session.recording if hasattr(session, "recording") else Recording(session=session)


def _can_be_played(session: AudioSession) -> bool:
    recording = _recording(session)
    return recording.state == RecordingState.READY or (
        recording.state == RecordingState.LIVE and recording.master_bytes > 0
    )


def _path(session: AudioSession, what: str) -> str:
    return reverse(f"session-{what}", args=[session.pk])


def _listed(model_name: str, session: AudioSession, text: str | int) -> str:
    """Return a link to the session's rows in another list."""
    url = reverse(f"admin:audio_{model_name}_changelist")
    return format_html('<a href="{}?{}">{}</a>', url, urlencode({"q": str(session.pk)}), text)


def _task_cells(task: BackgroundTask) -> Sequence[str]:
    link = format_html(
        '<a href="{}">{} {}</a>', reverse("admin:audio_backgroundtask_change", args=[task.pk]), task.kind, task.format
    )
    found = f"{task.report['problem_count']} problems" if task.report else ""
    return link, task.state, f"{task.progress:.0%}", task.error_detail or found
