"""The windows of pending chunks: how far they reach, and what is read for them."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audio.assembly import chunks
from audio.errors import ChunkDamagedError
from audio.media import plan

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def window(stored, after: int = 0) -> tuple[list[int], int]:
    """The sequences of a window, and how many queries it took."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = chunks.window_after(stored.session.pk, after)
    return [chunk.sequence for chunk in found], len(queries)


def test_a_window_has_all_small_chunks_that_wait(stored):
    session = stored(format="wav")
    session.add([b"ab"] * 1000)
    assert window(session) == (list(range(1, 1001)), 3)
    assert window(session, 999) == ([1000], 1)
    assert window(session, 1000) == ([], 1)


def test_a_window_has_no_more_chunks_than_it_may(stored, monkeypatch):
    monkeypatch.setattr(plan, "WINDOW_CHUNKS", 300)
    session = stored(format="wav")
    session.add([b"ab"] * 700)
    assert window(session) == (list(range(1, 301)), 2)


def test_a_window_of_large_chunks_costs_one_query(stored, monkeypatch):
    session = stored(format="wav")
    session.add([bytes(1000)] * 600)
    monkeypatch.setattr(plan.bounded, "__defaults__", (100_000,))
    assert window(session) == (list(range(1, 101)), 1)


@pytest.mark.parametrize("missing", [1, 256, 257, 258])
def test_a_missing_row_is_told(stored, missing):
    session = stored(format="wav")
    session.add([b"ab"] * 300)
    session.session.chunks.filter(sequence=missing).delete()
    with pytest.raises(ChunkDamagedError) as caught:
        window(session)
    assert caught.value.details["sequence"] == missing
