"""The filters of the list of sessions."""

from datetime import UTC, datetime
from typing import Any

import django_filters
from django import forms
from django_filters.fields import IsoDateTimeField

from audio.models import AudioSession, SessionStatus
from audio.wire.parameters import FORMATS


class MomentField(IsoDateTimeField):  # type: ignore[misc]
    """A time (ISO 8601) that both databases can store. A time without an offset is in UTC."""

    def to_python(self, value: Any) -> datetime | None:
        """Return the time in UTC; raise ValidationError if that is out of range."""
        moment: datetime | None = super().to_python(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise forms.ValidationError("Enter a valid date and time.", code="invalid") from None


class MomentFilter(django_filters.IsoDateTimeFilter):  # type: ignore[misc]
    """A filter by time."""

    field_class = MomentField


class SessionFilter(django_filters.FilterSet):  # type: ignore[misc]
    """Filters by status, user, format and start time."""

    status = django_filters.ChoiceFilter(choices=SessionStatus.choices)
    user_id = django_filters.CharFilter(strip=False, help_text="Exactly this label.")
    format = django_filters.ChoiceFilter(choices=[(name, name) for name in FORMATS])
    started_after = MomentFilter("start_time", "gte", help_text="At this moment (ISO 8601) or later.")
    started_before = MomentFilter("start_time", "lt", help_text="Before this moment (ISO 8601).")

    class Meta:
        model = AudioSession
        fields: list[str] = []
