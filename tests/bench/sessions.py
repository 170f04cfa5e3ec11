"""The cost of opening, listing, showing, closing and deleting a session, and of sweeps, with many sessions.

`python -m tests.bench.sessions fill FIRST LAST` and `... measure` run beside a server, on its database. The first adds
sessions (`tests/history.py`), the second prints times as JSON. It calls the functions of the product directly, so that
the figures are about the database and not about HTTP.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import django

from tests.bench.report import Row
from tests.bench.scale import median_ms
from tests.server import Server
from tests.services import REPOSITORY

SCALES = (10, 1_000, 100_000)
ROUNDS = 20
LIST = "/api/audio/sessions?page_size=20"
LISTS = {
    "list 20 sessions": "",
    "list 20 sessions of a status": "&status=completed",
    "list 20 sessions by the beginning of a name": "&name=Meeting",
    "list 20 sessions by metadata": "&metadata.room=0",
    "list 20 sessions by a user and a format": "&user_id=user-1&format=wav",
}


def rows(server: Server, database: str, scales: tuple[int, ...]) -> Iterator[Row]:
    """Fill the database of a running server step by step, and yield the figures of each step."""
    first: dict[str, float] = {}
    have = 0
    for count in scales:
        server.stop()
        _run(server, "fill", str(have), str(count - 1))
        have = count
        server.restart()
        found: dict[str, float] = json.loads(_run(server, "measure"))
        first = first or found
        for name, value in found.items():
            label = f"{name}, {count:,} sessions, {database}"
            yield Row(label, "ms", [value], f"with {scales[0]:,}", [first[name]])


def _run(server: Server, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.bench.sessions", *arguments]
    environment = server.environment | {"DJANGO_SETTINGS_MODULE": "sercuescribe.settings"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def fill(first: int, last: int) -> None:
    """Add sessions to the database that the environment names."""
    from django.db import connection, transaction

    from tests import history

    with connection.cursor() as cursor:
        # The rows refer to each other as they should, and a check of each of them takes longer than its insertion.
        is_lite = connection.vendor == "sqlite"
        settings = ("PRAGMA cache_size = -1000000", "PRAGMA foreign_keys = OFF")
        for setting in settings if is_lite else ("SET session_replication_role = replica",):
            cursor.execute(setting)
        with transaction.atomic():
            history.fill(cursor.execute, connection.vendor, first, last)
        if not is_lite:
            # As its autovacuum does a minute later.
            cursor.execute("VACUUM ANALYZE")


def measure() -> dict[str, float]:
    """Return the median time in milliseconds of everything."""
    from django.test import Client

    from audio import ingest, upkeep
    from audio.models import AudioSession, IngestProcess
    from audio.wire.parameters import ConnectionRequest

    process = IngestProcess.objects.create(host="bench", pid=1)
    opened: list[ingest.Opened] = []
    completed = AudioSession.objects.filter(status="completed", legal_hold=False).order_by("start_time", "pk")
    shown, *old = completed.values_list("pk", flat=True)[: ROUNDS + 1]
    client = Client(headers={"host": "localhost"})
    lists = {name: lambda query=query: _get(client, LIST + query) for name, query in LISTS.items()}
    actions: dict[str, Callable[[], object]] = {
        "open": lambda: opened.append(ingest.open_connection(ConnectionRequest({}), None, process.pk)),
        **lists,
        "show": lambda: _get(client, f"/api/audio/sessions/{shown}"),
        "close": lambda: ingest.close_session(opened.pop().session.pk),
        "sweep": upkeep.sweep,
    }
    found = {name: median_ms(action) for name, action in actions.items()}
    found["delete"] = median_ms(lambda: upkeep.delete_session(old.pop()), len(old))
    IngestProcess.objects.filter(pk=process.pk).delete()
    return found


def _get(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.content


def main() -> None:
    """Do what the command line says."""
    django.setup()
    match sys.argv[1:]:
        case ["fill", first, last]:
            fill(int(first), int(last))
        case _:
            sys.stdout.write(json.dumps(measure()))


if __name__ == "__main__":
    main()
