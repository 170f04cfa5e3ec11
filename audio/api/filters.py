"""Which sessions a list shows."""

from datetime import UTC, datetime
from typing import Any

import django_filters
from django import forms
from django_filters.fields import IsoDateTimeField

from audio.models import AudioSession, SessionStatus
from audio.wire.parameters import FORMATS


class MomentField(IsoDateTimeField):  # type: ignore[misc]
    """A moment (ISO 8601) that both databases can hold; one without an offset is in UTC."""

    def to_python(self, value: Any) -> datetime | None:
        moment: datetime | None = super().to_python(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise forms.ValidationError("Enter a valid date and time.", code="invalid") from None


class MomentFilter(django_filters.IsoDateTimeFilter):  # type: ignore[misc]
    field_class = MomentField


class SessionFilter(django_filters.FilterSet):  # type: ignore[misc]
    """By status, user, format and time of start."""

    status = django_filters.ChoiceFilter(choices=SessionStatus.choices)
    user_id = django_filters.CharFilter(strip=False, help_text="Exactly this label.")
    format = django_filters.ChoiceFilter(choices=[(name, name) for name in FORMATS])
    started_after = MomentFilter("start_time", "gte", help_text="At this moment (ISO 8601) or later.")
    started_before = MomentFilter("start_time", "lt", help_text="Before this moment (ISO 8601).")

    class Meta:
        model = AudioSession
        fields: list[str] = []
