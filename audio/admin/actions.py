"""The actions of operators on sessions. Each stores a request in the database and enqueues a task.

The work is done in the background, and the sweep enqueues lost tasks again. Users who may change sessions may close,
rebuild, verify and transcode them; users who may delete sessions may delete them and set and lift legal holds. Each
action is in the admin's log.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import structlog
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from audio import access, dispatch, ingest, upkeep
from audio.admin.lists import StoredStateAdmin
from audio.admin.scope import is_staff
from audio.assembly.rebuild import rebuild as request_rebuild
from audio.errors import (
    AudioError,
    InvalidParameterError,
    RecordingEmptyError,
    RecordingNotReadyError,
    SessionBusyError,
    SessionClosedError,
)
from audio.jobs import rows
from audio.media.plan import TARGETS
from audio.models import AudioSession, RecordingState, TaskKind

logger = structlog.stdlib.get_logger(__name__)

ACTION_LIMIT = 500
_SHOWN_FOR_DELETION = 20
# Instead of an entry for the audit: the action writes its own, in the transaction of the change.
_ITSELF = ""


class FormatActionForm(ActionForm):
    """The choice of an action, and of the format that `transcode` needs."""

    format = forms.ChoiceField(
        label="as", choices=[("", "(format)"), *((name, name) for name in TARGETS)], required=False
    )


def close(session: AudioSession) -> None:
    """Close a session, even if it has open connections.

    Raises:
        SessionClosedError: The session is closed.
    """
    if not ingest.close_if(session.pk, Q()):
        raise SessionClosedError


def rebuild(session: AudioSession) -> None:
    """Enqueue the rebuild of a session's recording.

    Raises:
        RecordingNotReadyError: The session is open.
        RecordingEmptyError: The session has no chunks.
    """
    if session.is_open:
        raise RecordingNotReadyError
    if not session.total_chunks:
        raise RecordingEmptyError
    request_rebuild(session.pk)
    dispatch.concatenate(session.pk)


def verify(session: AudioSession) -> None:
    """Enqueue the verification of a session.

    Raises:
        AudioError: As `rows.enqueue` does.
    """
    rows.enqueue(session, TaskKind.VERIFY, again=True)


def transcode(audio_format: str, session: AudioSession) -> None:
    """Enqueue the transcode of a session's recording to another format.

    Raises:
        InvalidParameterError: There is no such format. Other errors are those of `rows.enqueue`.
    """
    if audio_format not in TARGETS:
        raise InvalidParameterError("Choose a format.", valid_values=list(TARGETS))
    rows.enqueue(session, TaskKind.TRANSCODE, audio_format, again=True)


def delete(session: AudioSession) -> None:
    """Enqueue the deletion of a session with all its data.

    Raises:
        LegalHoldError: The session is under a legal hold.
        SessionBusyError: The deletion was requested before.
        SessionNotFoundError: The session was deleted meanwhile.
    """
    if not upkeep.enqueue_deletion(session.pk):
        raise SessionBusyError("The session is already being deleted.")


def hold(is_held: bool, request: HttpRequest, session: AudioSession) -> None:
    """Set a session's legal hold, or lift it.

    Raises:
        SessionNotFoundError: The session was deleted meanwhile, or is being deleted.
    """
    identity = access.by_user(request.user)
    ingest.change_details(session.pk, {"legal_hold": is_held}, identity, request.META.get("REMOTE_ADDR"))


def actions_for(session: AudioSession) -> set[str]:
    """Return the names of the actions that make sense for a session. Deletion has a button of Django's own."""
    if session.delete_requested_at:
        return set()
    always = {"lift_selected" if session.legal_hold else "hold_selected"}
    if session.is_open:
        return {"close_selected"} | always
    if not session.total_chunks:
        return always
    recording = session.recording if hasattr(session, "recording") else None
    is_ready = recording is not None and recording.state == RecordingState.READY
    return {"rebuild_selected", "verify_selected"} | ({"transcode_selected"} if is_ready else set()) | always


class SessionActions(StoredStateAdmin):
    """The actions of the list and the page of sessions."""

    action_form = FormatActionForm
    actions = [
        *("close_selected", "rebuild_selected", "verify_selected", "transcode_selected"),
        *("hold_selected", "lift_selected", "delete_selected"),
    ]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may act on sessions.

        For staff it is Django's permission to change sessions, which is used for nothing else.
        """
        return self.manages(request) or (is_staff(request) and request.user.has_perm("audio.change_audiosession"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the user may delete sessions."""
        return self.manages(request) or (is_staff(request) and request.user.has_perm("audio.delete_audiosession"))

    @admin.action(description="Close the session", permissions=["operate"])
    def close_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Close the sessions. Their recordings are finished in the background."""
        self._act(request, queryset, close, "Closed.", "session.closed")

    @admin.action(description="Rebuild the recording", permissions=["operate"])
    def rebuild_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Rebuild the recordings from the chunks."""
        self._act(request, queryset, rebuild, "The rebuild of the recording was requested.", "recording.rebuilt")

    @admin.action(description="Verify", permissions=["operate"])
    def verify_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Verify the sessions. The result is on the page of each session."""
        self._act(request, queryset, verify, "The verification was requested.", "recording.verified")

    @admin.action(description="Transcode", permissions=["operate"])
    def transcode_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Transcode the recordings to another format."""
        audio_format = request.POST.get("format", "")
        message = f"The transcode to {audio_format} was requested."
        self._act(request, queryset, partial(transcode, audio_format), message, "recording.transcoded")

    @admin.action(description="Set a legal hold", permissions=["delete"])
    def hold_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Set a legal hold, so that nobody can delete the sessions."""
        self._act(request, queryset, partial(hold, True, request), "A legal hold was set.", _ITSELF)

    @admin.action(description="Lift the legal hold", permissions=["delete"])
    def lift_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> None:
        """Lift the legal hold."""
        self._act(request, queryset, partial(hold, False, request), "The legal hold was lifted.", _ITSELF)

    @admin.action(description="Delete with all data", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> HttpResponse | None:
        """Show a page for confirmation, then delete the sessions."""
        if request.POST.get("post") != "yes":
            return self._confirm_deletion(request, queryset)
        message = "The deletion of the session with all its data was requested."
        self._act(request, queryset, delete, message, "session.deleted")
        return None

    def _act(
        self,
        request: HttpRequest,
        queryset: QuerySet[AudioSession],
        act: Callable[[AudioSession], None],
        message: str,
        audited: str,
    ) -> None:
        done, rejected = 0, Counter[str]()
        for session in self._selected(request, queryset):
            try:
                act(session)
            except AudioError as error:
                rejected[error.detail] += 1
            else:
                done += 1
                self._log(request, session, message, audited)
        if done:
            self.message_user(request, f"{_counted(done)}: {message}", messages.SUCCESS)
        for sentence, count in rejected.items():
            self.message_user(request, f"{_counted(count)} not changed: {sentence}", messages.WARNING)

    def _selected(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> list[AudioSession]:
        """Return the sessions; none, with a message, if they are too many for one request."""
        sessions = list(queryset[: ACTION_LIMIT + 1])
        if len(sessions) > ACTION_LIMIT:
            sentence = f"You selected more than {ACTION_LIMIT} sessions, the limit of one action. Nothing was changed."
            self.message_user(request, sentence, messages.ERROR)
            return []
        return sessions

    def _log(self, request: HttpRequest, session: AudioSession, message: str, audited: str) -> None:
        user_id: Any = request.user.pk
        flag = DELETION if audited == "session.deleted" else CHANGE
        if audited != _ITSELF:
            access.audit.note(audited, access.by_user(request.user), session, request.META.get("REMOTE_ADDR"))
        LogEntry.objects.log_actions(user_id, [session], action_flag=flag, change_message=message, single_object=True)
        logger.info("admin_acted", session_id=str(session.pk), user=request.user.get_username(), action=message)

    def _confirm_deletion(self, request: HttpRequest, queryset: QuerySet[AudioSession]) -> HttpResponse | None:
        sessions = self._selected(request, queryset)
        if not sessions:
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Delete sessions",
            "opts": self.opts,
            "sessions": sessions,
            "shown": list(islice(sessions, _SHOWN_FOR_DELETION)),
            "hidden_count": max(0, len(sessions) - _SHOWN_FOR_DELETION),
            "chunk_count": sum(session.total_chunks for session in sessions),
            "byte_count": sum(session.byte_count for session in sessions),
        }
        return TemplateResponse(request, "admin/audio/audiosession/confirm_deletion.html", context)


def _counted(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"
