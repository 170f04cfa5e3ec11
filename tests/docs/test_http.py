"""docs/http.md against the code: every path and method, and no other."""

import re

from drf_spectacular.generators import SchemaGenerator

from tests.docs.text import tables, unquoted
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "http.md"
# Pages and documents, which the OpenAPI document leaves out or shows with variants.
OUTSIDE = {
    *("GET /", "GET /projects", "GET /record", "GET /client/sercuescribe.js", "GET /admin"),
    *("GET /guide", "GET /docs", "GET /redoc", "GET /api/asyncapi", "GET /api/schema"),
}


def documented() -> set[str]:
    """Return what the tables list, as "METHOD /path"."""
    return {unquoted(request) for request, _ in tables(PAGE, "request")}


def served() -> set[str]:
    """Return the operations of the OpenAPI document, with the names of ids shortened as the page has them."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    return {
        f"{method.upper()} {re.sub('{(session|task|webhook|project)_id}', '{id}', path)}"
        for path, operations in paths.items()
        for method in operations
    }


def test_every_operation_is_listed():
    assert served() - OUTSIDE <= documented()


def test_every_listed_request_is_served():
    assert documented() <= served() | OUTSIDE


def test_every_page_outside_of_the_schema_answers(client, db):
    for request in OUTSIDE - {"GET /guide"}:  # tests/docs/test_guide.py asks for it
        assert client.get(request.removeprefix("GET ")).status_code in (200, 302), request
