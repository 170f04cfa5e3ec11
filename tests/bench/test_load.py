"""The load generators: both speak to a server, count the same, and spread their messages over time."""

from itertools import pairwise

import httpx
import pytest

from tests.bench import generator
from tests.bench.load import due_times
from tests.bench.processes import SOCKET_PATH, application

pytestmark = pytest.mark.services


def test_messages_are_spread_evenly_over_the_interval():
    due = list(due_times(10.0, 0.1, 7, 10.5))
    assert len(due) == 35
    assert [number for _, number in due] == list(range(7)) * 5
    gaps = [after - before for (before, _), (after, _) in pairwise(due)]
    assert max(gaps) - min(gaps) < 1e-9


@pytest.fixture(scope="module")
def bare():
    with application("bare") as target:
        yield target


@pytest.mark.parametrize("kind", ["built", "python"])
def test_a_generator_tells_what_it_has_sent_and_heard(bare, tmp_path, kind):
    command = generator.built(tmp_path) if kind == "built" else generator.PYTHON
    load = {"connections": 10, "seconds": 1.0, "warmup": 0.2, "crowd": 5, "crowd_at": 0.2}
    seen = generator.drive(command, bare.port, SOCKET_PATH, **load)
    assert abs(seen["sent"] - 100) <= 1
    assert seen["answered"] == seen["sent"]
    assert (seen["rejected"], seen["ended"], seen["crowd"]["opened"]) == (0, 0, 5)
    assert 0 < seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"]
    assert seen["crowd"]["per_second"] > 0
    assert seen["generator_us_per_message"] > 0


def test_both_generators_give_the_same_figures(bare, tmp_path):
    load = {"connections": 2, "seconds": 0.2, "crowd": 1, "crowd_at": 0.0}
    commands = [generator.built(tmp_path), generator.PYTHON]
    first, second = (generator.drive(command, bare.port, SOCKET_PATH, **load) for command in commands)
    assert set(first) == set(second)
    assert set(first["crowd"]) == set(second["crowd"])


@pytest.mark.parametrize("kind", ["built", "python"])
def test_a_generator_continues_sessions(run_server, tmp_path, kind):
    command = generator.built(tmp_path) if kind == "built" else generator.PYTHON
    server = run_server(DISCONNECT_GRACE_SECONDS="600")
    port = int(server.url.rpartition(":")[2])
    load = {"connections": 3, "seconds": 0.2, "warmup": 0.0}
    generator.drive(command, port, SOCKET_PATH, **load)
    first = chunk_counts(server.url)
    ids = tmp_path / "ids"
    ids.write_text("".join(f"{session_id}\n" for session_id in list(first)[:2]))
    generator.drive(command, port, SOCKET_PATH, **load, sessions=str(ids), opening_at_once=3)
    second = chunk_counts(server.url)
    assert list(first.values()) == [2, 2, 2]
    assert [second.pop(session_id) for session_id in first] == [4, 4, 2]
    assert list(second.values()) == [2]


def chunk_counts(url: str) -> dict[str, int]:
    """Return how many chunks each session has."""
    found = httpx.get(f"{url}/api/audio/sessions", timeout=60).json()["results"]
    return {each["session_id"]: each["total_chunks"] for each in found}
