"""What the database reads to answer a query: SQLite's plan, and the rows that PostgreSQL has looked at."""

import json
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

INSTRUCTIONS_PER_TICK = 10
READ = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")


def captured() -> CaptureQueriesContext:
    """Collects the queries that are made within the block."""
    return CaptureQueriesContext(connection)


def check(queries: CaptureQueriesContext, limit: int, is_filtered: bool) -> int:
    """Explains each query on the product's tables; returns how many there were.

    Fails where one sorts its rows, or looks at more than `limit` rows. Walking along an index, or the table, is how a
    list is read that shows whatever comes first; under a filter, walking would pass rows over.
    """
    statements = [query["sql"] for query in queries.captured_queries]
    ours = [sql for sql in statements if sql.startswith("SELECT") and '"audio_' in sql]
    for sql in ours:
        if connection.vendor == "sqlite":
            _check_plan(sql, is_filtered)
        else:
            assert _rows_read(sql) <= limit, sql
    return len(ours)


def work(act: Callable[[], object]) -> int:
    """How much the database does while something is done, which is then taken back.

    With SQLite in instructions of its virtual machine, of which each row that is read costs several. With PostgreSQL
    in rows that SELECT statements read.
    """
    ticks = [0]

    def tick() -> int:
        ticks[0] += 1
        return 0

    with transaction.atomic():
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(tick, INSTRUCTIONS_PER_TICK)
        try:
            with captured() as queries:
                act()
        finally:
            if connection.vendor == "sqlite":
                connection.connection.set_progress_handler(None, 0)
        transaction.set_rollback(True)
    if connection.vendor == "sqlite":
        return ticks[0] * INSTRUCTIONS_PER_TICK
    statements = [query["sql"] for query in queries.captured_queries]
    return sum(_rows_read(sql) for sql in statements if sql.startswith("SELECT") and '"audio_' in sql)


def _check_plan(sql: str, is_filtered: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        steps = [row[3] for row in cursor.fetchall()]
    # Projects are few.
    scanned = [step for step in steps if step.startswith("SCAN audio_") and "audio_project" not in step]
    bad = [step for step in steps if "TEMP B-TREE" in step] + (scanned if is_filtered else [])
    assert bad == [], (steps, sql)


def _rows_read(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        (found,) = cursor.fetchone()
    (plan,) = json.loads(found) if isinstance(found, str) else found
    return _of_node(plan["Plan"])


def _of_node(node: dict[str, Any]) -> int:
    mine = sum(node.get(kind, 0) for kind in READ) * node["Actual Loops"]
    return round(mine) + sum(map(_of_node, node.get("Plans", [])))
