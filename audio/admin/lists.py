"""Admin lists that stay fast: no page counts or sorts a whole table, or reads it to find the choices of a filter.

Tables may have millions of rows. Only the first COUNT_LIMIT of them are counted and can be paged through. Other rows
are found by the id of the session or by a filter, each of which has an index in the order of the list (`audio.models`).
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

from audio.admin.scope import ScopedAdmin, is_staff, managed_projects
from audio.models import AudioSession

if TYPE_CHECKING:  # the class itself takes no type parameters
    _Paginator = Paginator[Any]
else:
    _Paginator = Paginator

COUNT_LIMIT = 10_000
_DIGITS = 32
_LOOKUPS = ("exact", "gte", "lt")


class BoundedPaginator(_Paginator):
    """A paginator of the first COUNT_LIMIT rows."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most COUNT_LIMIT."""
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows[:COUNT_LIMIT].count()


class ReadOnlyAdmin(ScopedAdmin):
    """A list of rows that can only be read."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Whether the user may add rows: never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether the user may change a row: never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether the user may delete a row: never. A session is deleted as a whole, with its bytes."""
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Whether a condition in the URL is allowed.

        Only the conditions of the list's filters are, because others could read a whole table.
        """
        name, _, kind = lookup.partition("__")
        return name in self.list_filter and kind in _LOOKUPS


class StoredStateAdmin(ReadOnlyAdmin):
    """A list of rows that belong to sessions. The search is by the id of the session."""

    # The admin shows its search box only if fields are named. The search itself is in get_search_results.
    search_fields = ["pk"]
    search_help_text = "Search for a session id, or the beginning of one."
    session_field = "session"
    project_path = "session__project"
    newest_sessions = 1000

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows of the sessions whose ids begin with the search term, through an index.

        Without a search, managers see the rows of their newest sessions: no index leads from a project to all its rows.
        """
        if not search_term.strip():
            return (queryset if is_staff(request) else self._of_newest_sessions(request, queryset)), False
        span = searched_span(search_term)
        if span is None:
            return queryset.none(), False
        first, last = span
        if first == last:
            return queryset.filter(**{self.session_field: first}), False
        return queryset.filter(**{f"{self.session_field}__gte": first, f"{self.session_field}__lte": last}), False

    def _of_newest_sessions(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        sessions = AudioSession.objects.filter(project__in=managed_projects(request)).order_by("-start_time", "-id")
        return queryset.filter(**{f"{self.session_field}__in": sessions.values("pk")[: self.newest_sessions]})

    @admin.display(description="id")
    def short_id(self, row: Any) -> str:
        """Return the beginning of the row's id, with the whole id as a tooltip."""
        return format_html('<span title="{}">{}</span>', row.pk, short_id(row.pk))

    @admin.display(description="session")
    def session_link(self, row: Any) -> str:
        """Return a link to the session's page."""
        return session_link(row.session_id)


def searched_span(search_term: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """Return the first and the last session id that begin with the search term; None if there can be no such id."""
    digits = search_term.strip().replace("-", "").lower()
    if len(digits) > _DIGITS or not set(digits) <= set("0123456789abcdef"):
        return None
    return uuid.UUID(digits.ljust(_DIGITS, "0")), uuid.UUID(digits.ljust(_DIGITS, "f"))


def searched_session(search_term: str) -> uuid.UUID | None:
    """Return the session id that the search term is; None if it is not a complete id."""
    try:
        return uuid.UUID(search_term.strip())
    except ValueError:
        return None


def session_link(session_id: uuid.UUID) -> str:
    """Return a link to a session's page, with the beginning of its id as the text."""
    url = reverse("admin:audio_audiosession_change", args=[session_id])
    return format_html('<a href="{}" title="{}">{}</a>', url, session_id, short_id(session_id))


def short_id(session_id: uuid.UUID) -> str:
    """Return the beginning of an id, which is enough for the search."""
    return str(session_id)[:13]
