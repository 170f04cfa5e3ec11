"""The time by which processes judge each other: the database's, because the clocks of hosts differ.

What a host alone looks at (when a chunk arrived, how far a task is) it may take from its own clock.
"""

from datetime import UTC, datetime

from django.db import connection
from django.utils import timezone


def database_time() -> datetime:
    """Returns the time of now on PostgreSQL's clock; with SQLite all are on one host, and its clock is as good."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        # Inside of a transaction now() would be when that began.
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)
