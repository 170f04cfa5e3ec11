"""What must not grow with what is stored: the costs of a chunk, and of requests about sessions."""

import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing

import httpx

from tests.server import Server

SESSIONS, RECORDINGS, CHUNKS = "audio_audiosession", "audio_recording", "audio_audiochunk"
REQUESTS = 20
_NUMBERS = "WITH RECURSIVE number (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM number WHERE n < ?)"
_NEW_ID = "lower(hex(randomblob(16)))"


def fill(server: Server, session_id: str, rows: int) -> None:
    """Add rows to the database of a server that is stopped: closed sessions with recordings, and chunks of a session.

    Args:
        server: The server.
        session_id: A closed session, of which copies are made.
        rows: How many sessions and how many chunks there are then.
    """
    key = session_id.replace("-", "")
    with closing(sqlite3.connect(server.folder / "db.sqlite3")) as database:
        have = database.execute(f"SELECT count(*) FROM {SESSIONS}").fetchone()[0]
        if have < rows:
            copies = f"{_NUMBERS} INSERT INTO {SESSIONS} (%s) SELECT %s FROM number, {SESSIONS} WHERE id = ?"
            _copy(database, copies, SESSIONS, {"id": _NEW_ID}, (have, rows - 1, key))
            missing = (
                f"INSERT INTO {RECORDINGS} (%s) SELECT %s FROM {SESSIONS} AS made, {RECORDINGS} AS recording"
                f" WHERE recording.session_id = ? AND made.id NOT IN (SELECT session_id FROM {RECORDINGS})"
            )
            _copy(database, missing, RECORDINGS, {"session_id": "made.id"}, (key,), "recording.")
        last = database.execute(f"SELECT max(sequence) FROM {CHUNKS} WHERE session_id = ?", (key,)).fetchone()[0]
        if last < rows:
            more = f"{_NUMBERS} INSERT INTO {CHUNKS} (%s) SELECT %s FROM number, {CHUNKS} WHERE session_id = ? AND sequence = 1"  # noqa: E501
            # Places in the journal that it never reaches.
            replaced = {"id": "NULL", "sequence": "n", '"offset"': "(1 << 50) + n"}
            _copy(database, more, CHUNKS, replaced, (last + 1, rows, key))
        database.commit()


def _copy(
    database: sqlite3.Connection,
    sql: str,
    table: str,
    replaced: dict[str, str],
    arguments: tuple[object, ...],
    prefix: str = "",
) -> None:
    """Insert copies of a row, in which the columns `replaced` have other values."""
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    columns = [f'"{name}"' if name == "offset" else name for name in names]
    values = [replaced.get(column, f"{prefix}{column}") for column in columns]
    database.execute(sql % (", ".join(columns), ", ".join(values)), arguments)


def requests_ms(url: str, session_id: str) -> dict[str, float]:
    """Return the median time of each kind of request."""
    with httpx.Client(base_url=f"{url.rstrip('/')}/api/audio", timeout=60) as client:

        def create_and_close() -> None:
            created = client.post("/sessions", json={}).raise_for_status().json()["session_id"]
            client.post(f"/sessions/{created}/close").raise_for_status()

        return {
            "list 20 sessions": median_ms(lambda: client.get("/sessions?page_size=20").raise_for_status()),
            "show a session": median_ms(lambda: client.get(f"/sessions/{session_id}").raise_for_status()),
            "create and close a session": median_ms(create_and_close),
        }


def median_ms(action: Callable[[], object], rounds: int = REQUESTS) -> float:
    """Return the median time of an action."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
