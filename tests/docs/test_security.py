"""docs/security.md against the code: every route with the scope that it needs, and no other."""

import re

from audio.api.urls import urlpatterns
from tests.docs.text import table, unquoted
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "security.md"
WORDS = {"": "any", "open": "none"}


def declared() -> dict[str, str]:
    """The scopes that the views declare, by "METHOD /path"."""
    found = {}
    for pattern in urlpatterns:
        view = getattr(pattern.callback, "view_class", None)
        path = re.sub(r"<str:(?:(?:session|task)_)?(\w+)>", r"{\1}", f"/{pattern.pattern}")
        for method, scope in getattr(view, "scopes", {}).items():
            if not path.endswith("/"):
                found[f"{method} {path}"] = WORDS.get(scope, scope)
    return found


def documented() -> dict[str, str]:
    """The scopes in the table. A sentence may follow them."""
    rows = table(PAGE, "### What each request needs")
    return {unquoted(request): unquoted(scope.partition(";")[0]) for request, scope in rows}


def test_the_table_has_the_scope_of_every_request():
    assert declared() == documented(), "the rows have to be\n" + "\n".join(
        f"| `{request}` | {scope if scope in WORDS.values() else f'`{scope}`'} |"
        for request, scope in declared().items()
    )
