"""Expressions and lookups that Django does not have, or has in another form."""

from collections.abc import Iterable
from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

_LAST_CHARACTER = "\U0010ffff"


class Literal(models.Value):
    """A constant that is written into the SQL itself, not passed as a parameter.

    SQLite uses a partial index only for a query that repeats its condition literally.
    """

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the constant in quotes."""
        return f"'{self.value}'", ()


def literals(words: Iterable[str]) -> list[Literal]:
    """Return these words as constants in the SQL."""
    return [Literal(word) for word in words]


class DatabaseNow(Now):
    """The time of the database's clock, with which all processes compare times.

    With SQLite this is the clock of the host. Django's own `Now` would return milliseconds there, in another form than
    that of parameters.
    """

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the time in the form of a parameter."""
        return "%s", (connection.ops.adapt_datetimefield_value(timezone.now()),)


@models.CharField.register_lookup
class Begins(models.lookups.StartsWith):
    """A condition on the beginning of a text, for which both databases use an index.

    For SQLite it is a range, because LIKE ignores the case there and uses no index.
    """

    lookup_name = "begins"

    def get_rhs_op(self, connection: Any, rhs: str) -> str:
        """Return the operator of PostgreSQL."""
        return str(connection.operators["startswith"] % rhs)

    def as_sqlite(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return the condition as a range in the order of the code points."""
        column, parameters = compiler.compile(self.lhs)
        first = str(self.rhs)
        return f"({column} >= %s AND {column} < %s)", [*parameters, first, *parameters, first + _LAST_CHARACTER]
