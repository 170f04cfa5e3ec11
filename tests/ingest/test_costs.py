"""What a chunk costs, counted instead of timed: what must not grow with the number of chunks or of sessions."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from audio.ingest import commit, statements
from audio.ingest.executor import DatabaseExecutor
from audio.ingest.process import Ingest
from tests.ingest.live import Client, until

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

SYSTEM_CALLS = ("fdatasync", "fsync", "writev", "open")


class Counting:
    """Counts the calls of every method of an object."""

    def __init__(self, counted: Any, counts: Counter[str]) -> None:
        self._counted = counted
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._counted, name)
        # A conversion of a value is no statement.
        if name != "time":
            self._counts[name] += 1
        return found


def count(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def counted(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return function(*arguments, **named)

    return counted


@pytest.fixture
def counts(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the parts of the path of a chunk were used."""
    made: Counter[str] = Counter()
    statements_for = statements.statements_for
    monkeypatch.setattr(commit, "statements_for", lambda connection: Counting(statements_for(connection), made))
    for name in SYSTEM_CALLS:
        monkeypatch.setattr(os, name, count(getattr(os, name), name, made))
    monkeypatch.setattr(ingest, "_loop", Counting(ingest._loop, made))
    monkeypatch.setattr(DatabaseExecutor, "run", count(DatabaseExecutor.run, "thread hops", made))
    return made


async def cost(counts: Counter[str], clients: list[Client], chunks: int) -> Counter[str]:
    """What one batch costs, of so many chunks of each of these clients."""
    counts.clear()
    sent = [len(client.outcomes) + chunks for client in clients]
    for _ in range(chunks):
        for client in clients:
            client.send(bytes(3200))
    await until(lambda: [len(client.outcomes) for client in clients] == sent)
    return counts.copy()


async def test_a_batch_costs_the_same_whatever_is_in_it(ingest, connect, counts, monkeypatch):
    # Long enough that all chunks of a test are in one batch.
    monkeypatch.setattr(ingest._committer, "_gather_seconds", 0.5)
    clients = [await connect(source=f"mic-{number}") for number in range(20)]
    # The heartbeat and others have statements of their own.
    await ingest._background.stop()
    await cost(counts, clients, 1)
    found = [await cost(counts, *load) for load in ((clients[:1], 1), (clients[:1], 20), (clients, 1), (clients, 10))]
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0] == {
        "writev": 1,
        "fdatasync": 1,
        "lock_sessions": 1,
        "lock_sources": 1,
        "add_to_sessions": 1,
        "add_to_sources": 1,
        "insert_chunks": 1,
        "call_soon_threadsafe": 1,
    }
