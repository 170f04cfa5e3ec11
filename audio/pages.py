"""Large tables, page by page. Each page begins after the last key of the previous one, so all pages cost the same."""

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

ROWS_PER_PAGE = 1000


def in_pages(
    rows: QuerySet[Any, Any], key: str, *columns: str, size: int | None = None
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield pages of rows, each row as its key and some of its columns, in the order of the keys.

    Each page is a separate query. So no cursor stays open, the caller may change rows meanwhile, and rows that are
    added after the last key are found too.

    Args:
        rows: The rows, in any order.
        key: A column whose values are unique among these rows, with an index.
        columns: The other columns.
        size: The number of rows in a page; ROWS_PER_PAGE if it is None.
    """
    size = size or ROWS_PER_PAGE
    ordered = rows.order_by(key).values_list(key, *columns)
    page = list(ordered[:size])
    while page:
        yield page
        page = list(ordered.filter(**{f"{key}__gt": page[-1][0]})[:size])
