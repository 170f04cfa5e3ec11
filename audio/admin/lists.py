"""Lists that stay fast: no page counts a table, sorts it or reads it for the choices of a filter.

Tables may hold millions of rows. COUNT_LIMIT of them are counted and can be paged through, the rest is found by the
id of its session or by a filter; for each filter there is an index in the list's order (`audio.models`).
"""

import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

if TYPE_CHECKING:  # the classes themselves take no type parameters
    _Paginator = Paginator[Any]
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _Paginator = Paginator
    _ModelAdmin = admin.ModelAdmin

COUNT_LIMIT = 10_000
_DIGITS = 32
_LOOKUPS = ("exact", "gte", "lt")


class BoundedPaginator(_Paginator):
    """Pages through the first COUNT_LIMIT rows and counts no further."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows[:COUNT_LIMIT].count()


class ReadOnlyAdmin(_ModelAdmin):
    """Rows to read, a page at a time."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Rows alone would go, and their bytes stay: a session is deleted as a whole.
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the filters of the list ask for: any other condition in the address could read a whole table."""
        name, _, kind = lookup.partition("__")
        return name in self.list_filter and kind in _LOOKUPS


class StoredStateAdmin(ReadOnlyAdmin):
    """Rows of sessions, found by the session's id."""

    # The search itself is in get_search_results; the admin shows its box only where fields are named.
    search_fields = ["pk"]
    search_help_text = "Search for a session id, or the beginning of one."
    session_field = "session"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows of the sessions whose ids begin so, through an index."""
        if not search_term.strip():
            return queryset, False
        span = searched_span(search_term)
        if span is None:
            return queryset.none(), False
        first, last = span
        if first == last:
            return queryset.filter(**{self.session_field: first}), False
        return queryset.filter(**{f"{self.session_field}__gte": first, f"{self.session_field}__lte": last}), False

    @admin.display(description="session")
    def session_link(self, row: Any) -> str:
        """The session's id, leading to its page."""
        return session_link(row.session_id)


def searched_span(search_term: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """Return the first and the last id that begin with what was searched for; None if no id does."""
    digits = search_term.strip().replace("-", "").lower()
    if len(digits) > _DIGITS or not set(digits) <= set("0123456789abcdef"):
        return None
    return uuid.UUID(digits.ljust(_DIGITS, "0")), uuid.UUID(digits.ljust(_DIGITS, "f"))


def searched_session(search_term: str) -> uuid.UUID | None:
    """Takes what was searched for; returns the session id that it is, if it is one."""
    try:
        return uuid.UUID(search_term.strip())
    except ValueError:
        return None


def session_link(session_id: uuid.UUID) -> str:
    """Return a link to the page of a session, by the beginning of its id."""
    url = reverse("admin:audio_audiosession_change", args=[session_id])
    return format_html('<a href="{}" title="{}">{}</a>', url, session_id, short_id(session_id))


def short_id(session_id: uuid.UUID) -> str:
    """Return the beginning of an id, by which the search finds it."""
    return str(session_id)[:13]
