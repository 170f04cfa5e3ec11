"""Cursor pagination: the cost of a page depends on its size, and not on the number of rows before it or in total."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

from audio.errors import InvalidParameterError


class CheckedCursorPagination(CursorPagination):
    """REST framework's cursor pagination, which also rejects invalid sizes and cursors.

    Attributes:
        position: A field of the type of the first field of `ordering`.
    """

    page_size_query_param = "page_size"
    position: "models.Field[Any, Any]" = models.BigIntegerField()

    def get_page_size(self, request: Request) -> int:
        """Return the requested page size, or the default.

        Raises:
            InvalidParameterError: The size is out of range.
        """
        text = request.query_params.get("page_size", str(self.page_size))
        limit = self.max_page_size or 1
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= limit):
            raise InvalidParameterError(
                f"page_size must be a whole number from 1 to {limit}.",
                parameter="page_size",
                received=text[:64],
                limit=limit,
            )
        return int(text)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Return the cursor of the request, if it has one.

        Raises:
            InvalidParameterError: The cursor does not belong to this list.
        """
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                self._check(str(cursor.position))
        except (NotFound, ValidationError, OverflowError) as error:
            raise InvalidParameterError(
                "The cursor does not belong to this list. Follow `next` and `previous`.", parameter="cursor"
            ) from error
        return cursor

    def _check(self, text: str) -> None:
        value = self.position.clean(text, None)
        if isinstance(value, datetime):
            # The database needs a time between the years 1 and 9999 in UTC.
            value.astimezone(UTC)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the parameters for the OpenAPI document, with the limits of the page size."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        parameters[1]["schema"] |= {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return parameters


class NewestFirst(CheckedCursorPagination):
    """Pages of rows, newest first by a time."""

    page_size = 50
    max_page_size = 500
    position = models.DateTimeField()


class PartedPages(NewestFirst):
    """Pages of rows that several queries find together."""

    def paginate_parts(
        self, parts: Sequence[QuerySet[Any]], everything: QuerySet[Any], request: Request, *, are_few: bool = False
    ) -> list[Any] | None:
        """Return the page of the request from several queries, whose results do not overlap.

        The first rows of each are enough. The rows of a single query of all of them would be sorted as a whole.

        Args:
            parts: The queries.
            everything: The query of all rows, with what is read of each.
            request: The request.
            are_few: Whether there are so few rows that they are sorted here.
        """
        if len(parts) == 1 and not are_few:
            return self.paginate_queryset(parts[0], request)
        keys = [key for part in parts for key in self._first_keys(part, request, are_few)]
        return self.paginate_queryset(everything.filter(pk__in=keys), request)

    def _first_keys(self, part: QuerySet[Any], request: Request, are_few: bool) -> Sequence[Any]:
        cursor = self.decode_cursor(request) or Cursor(offset=0, reverse=False, position=None)
        moment, key = (name.removeprefix("-") for name in self.ordering)
        if cursor.position is not None:
            part = part.filter(**{f"{moment}__{'gt' if cursor.reverse else 'lt'}": cursor.position})
        last = cursor.offset + self.get_page_size(request) + 1
        if are_few:
            rows = part.order_by().values_list(moment, key)
            return [found for _, found in sorted(rows, reverse=not cursor.reverse)[:last]]
        ordering = (moment, key) if cursor.reverse else self.ordering
        return list(part.order_by(*ordering).values_list("pk", flat=True)[:last])


class SessionPages(PartedPages):
    """Pages of sessions."""

    ordering = ("-start_time", "-id")


class TaskPages(PartedPages):
    """Pages of tasks."""

    ordering = ("-created_at", "-id")


class KeyPages(NewestFirst):
    """Pages of API keys and of session tokens."""

    ordering = ("-created_at", "-id")


class WebhookPages(NewestFirst):
    """Pages of webhooks."""

    ordering = ("-created_at", "-id")


class DeliveryPages(NewestFirst):
    """Pages of deliveries."""

    ordering = ("-created_at", "-id")


class ChunkPages(CheckedCursorPagination):
    """Pages of chunks, in their order."""

    page_size = 500
    max_page_size = 5000
    ordering = ("sequence",)


class MemberPages(CheckedCursorPagination):
    """Pages of the members of a project, in the order in which they were added."""

    page_size = 500
    max_page_size = 5000
    ordering = ("id",)


class MarkerPages(CheckedCursorPagination):
    """Pages of markers, in the order in which they were added."""

    page_size = 500
    max_page_size = 5000
    ordering = ("created_at", "id")
    position = models.DateTimeField()
