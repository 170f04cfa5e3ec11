"""Pages by cursor: the cost of a page depends on its size, not on how many rows come before it or in all."""

from datetime import UTC
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

from audio.errors import InvalidParameter


class CheckedCursorPagination(CursorPagination):
    """REST framework's cursor pages, which refuse what they would otherwise overlook or stumble over.

    `check_position` raises ValidationError or OverflowError for a text that the first field of `ordering` can't have.
    """

    page_size_query_param = "page_size"

    def check_position(self, text: str) -> None:
        raise NotImplementedError

    def get_page_size(self, request: Request) -> int:
        """Returns the size asked for, else the default; raises InvalidParameter for one out of range."""
        text = request.query_params.get("page_size", str(self.page_size))
        limit = self.max_page_size or 1
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= limit):
            raise InvalidParameter(
                f"page_size must be a whole number from 1 to {limit}.",
                parameter="page_size",
                received=text[:64],
                limit=limit,
            )
        return int(text)

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Returns the cursor of the request, if it has one; raises InvalidParameter for one that we never gave."""
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None and cursor.position is not None:
                self.check_position(str(cursor.position))
        except (NotFound, ValidationError, OverflowError) as error:
            raise InvalidParameter(
                "The cursor does not belong to this list. Follow `next` and `previous`.", parameter="cursor"
            ) from error
        return cursor

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        parameters[1]["schema"] |= {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return parameters


class SessionPages(CheckedCursorPagination):
    """Sessions, newest first."""

    page_size = 50
    max_page_size = 500
    ordering = ("-start_time", "-id")

    def check_position(self, text: str) -> None:
        models.DateTimeField().clean(text, None).astimezone(UTC)


class ChunkPages(CheckedCursorPagination):
    """Chunks, in their order."""

    page_size = 500
    max_page_size = 5000
    ordering = ("sequence",)

    def check_position(self, text: str) -> None:
        models.BigIntegerField().clean(text, None)
