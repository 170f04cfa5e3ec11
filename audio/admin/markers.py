"""The markers on the page of a session. Users who may change sessions may add, change and delete markers."""

from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest

from audio import access, ingest
from audio.admin.actions import SessionActions
from audio.errors import AudioError, InvalidParameterError
from audio.models import AudioSession, Marker
from audio.wire.parameters import parse_label

if TYPE_CHECKING:  # the class itself takes no type parameters
    _TabularInline = admin.TabularInline[Any, Any]
else:
    _TabularInline = admin.TabularInline

# A form of more would have more fields than Django accepts (DATA_UPLOAD_MAX_NUMBER_FIELDS).
MAX_EDITABLE = 200


class MarkerForm(forms.ModelForm):  # type: ignore[type-arg]  # the class itself takes no type parameters
    """A marker. Without a position it is at the end of the audio so far."""

    label = forms.CharField(widget=forms.TextInput(attrs={"aria-label": "label", "size": 60}), strip=False)
    position_seconds = forms.FloatField(
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs={"aria-label": "position in seconds", "step": "any"}),
    )

    class Meta:
        model = Marker
        fields = ["label", "position_seconds"]

    def clean_label(self) -> str:
        """Check the label as the other doors do."""
        try:
            return parse_label("label", self.cleaned_data["label"])
        except InvalidParameterError as error:
            raise forms.ValidationError(error.detail) from error


class MarkerInline(_TabularInline):
    """The markers of a session, in the order in which they were added. More than MAX_EDITABLE are read-only."""

    model = Marker
    form = MarkerForm
    extra = 1

    def _may(self, request: HttpRequest, session: AudioSession | None) -> bool:
        if session is None or session.delete_requested_at is not None:
            return False
        sessions: Any = self.admin_site.get_model_admin(AudioSession)
        return sessions.has_operate_permission(request) and session.markers.count() <= MAX_EDITABLE

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may see the markers: those who may see the session do."""
        return True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may add a marker."""
        return self._may(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may change a marker."""
        return self._may(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may delete a marker."""
        return self._may(request, obj)


class MarkedSessions(SessionActions):
    """The page of a session, on which only the markers can be edited."""

    inlines = [MarkerInline]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may save the page of a session."""
        return obj is not None and self.has_operate_permission(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return all fields: the page has none of the session that can be changed."""
        fieldsets: Any = self.fieldsets
        return [name for _, options in fieldsets for name in options["fields"]]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save nothing of the session. Others change its row meanwhile."""

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Save the markers. If a marker cannot be saved, the user gets a message, and the others are saved."""
        formset.save(commit=False)
        changes: list[partial[None]] = [partial(_delete, request, marker) for marker in formset.deleted_objects]
        changes += [partial(_change, marker, fields) for marker, fields in formset.changed_objects]
        changes += [partial(_add, marker) for marker in formset.new_objects]
        for act in changes:
            try:
                act()
            except AudioError as error:
                self.message_user(request, f"The marker was not saved: {error.detail}", messages.WARNING)


def _add(marker: Marker) -> None:
    marker.pk = ingest.add_marker(marker.session_id, marker.label, marker.position_seconds).pk


def _change(marker: Marker, fields: list[str]) -> None:
    ingest.change_marker(marker, {name: getattr(marker, name) for name in fields})


def _delete(request: HttpRequest, marker: Marker) -> None:
    ingest.delete_marker(marker)
    identity, address = access.by_user(request.user), request.META.get("REMOTE_ADDR")
    details = {"marker_id": str(marker.pk), "label": marker.label}
    access.audit.note("marker.deleted", identity, marker.session, address, **details)
