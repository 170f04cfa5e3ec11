"""The filters of the list of sessions."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import django_filters
from django import forms
from django.db.models import QuerySet
from django_filters.constants import EMPTY_VALUES
from django_filters.fields import IsoDateTimeField

from audio.models import AudioSession, Project, SessionStatus, metadata_digest
from audio.narrowing import Condition, Narrowed, OnColumn, OnMetadata, equal, narrowed, one_of
from audio.wire.parameters import FORMATS, METADATA_PREFIX, parse_metadata

_TIMES = ("started_after", "started_before")


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
    """Filters by status, user, format, start time, project, name and metadata.

    A filter by metadata has the key in its name: `metadata.KEY=VALUE`.
    """

    status = django_filters.ChoiceFilter(choices=SessionStatus.choices)
    user_id = django_filters.CharFilter(strip=False, help_text="Exactly this label.")
    format = django_filters.ChoiceFilter(choices=[(name, name) for name in FORMATS])
    started_after = MomentFilter("start_time", "gte", help_text="At this moment (ISO 8601) or later.")
    started_before = MomentFilter("start_time", "lt", help_text="Before this moment (ISO 8601).")
    project = django_filters.CharFilter("project__name", strip=False, help_text="The name of the project.")
    name = django_filters.CharFilter("name", "begins", strip=False, help_text="The beginning of the name.")

    class Meta:
        model = AudioSession
        fields: list[str] = []

    def filter_queryset(self, queryset: QuerySet[AudioSession]) -> QuerySet[AudioSession]:
        """Apply the filters.

        Raises:
            InvalidParameterError: A key or a value is no metadata.
        """
        (found,) = self.narrow(queryset).parts
        return found

    def narrow(self, queryset: QuerySet[AudioSession], conditions: Sequence[Condition] = ()) -> Narrowed:
        """Apply the filters, which are valid, and other conditions (`narrowing.narrowed`).

        Raises:
            InvalidParameterError: A key or a value is no metadata.
        """
        found = queryset
        for name in _TIMES:
            found = self.filters[name].filter(found, self.form.cleaned_data[name])
        return narrowed(found, [*self._metadata(), *self._columns(), *conditions])

    def _metadata(self) -> Iterator[Condition]:
        named = {name.removeprefix(METADATA_PREFIX): self.data[name] for name in self.data if is_metadata(name)}
        return (OnMetadata(metadata_digest(key, value)) for key, value in parse_metadata(named).items())

    def _columns(self) -> Iterator[Condition]:
        """Yield the conditions on columns. Those come first that find the fewest sessions as a rule."""
        values = {name: value for name, value in self.form.cleaned_data.items() if value not in EMPTY_VALUES}
        if "name" in values:
            yield OnColumn("name", "begins", values["name"])
        for column in ("user_id", "format", "status"):
            if column in values:
                yield equal(column, values[column])
        if "project" in values:
            projects = list(Project.objects.filter(name=values["project"]).values_list("pk", flat=True))
            yield one_of("project_id", projects)


def is_metadata(parameter: str) -> bool:
    """Return whether a parameter of a query is a filter by metadata."""
    return parameter.startswith(METADATA_PREFIX)
