"""The queue of chunks: batches, and the turns of projects."""

import uuid

from audio.ingest.pending import TURN_BYTES, Append, Pending
from audio.ingest.types import Producer

FLOOD, OTHER, THIRD = 1, 2, 3


def pending(*sizes: tuple[int, int]) -> Pending:
    """Returns a queue of chunks, given by their projects and sizes. A chunk's time is its number."""
    queue = Pending()
    producers = {project: Producer(uuid.uuid4(), project, None, project) for project, _ in sizes}
    for number, (project, size_bytes) in enumerate(sizes):
        queue.add(Append(producers[project], bytes(size_bytes), number, None))
    return queue


def batches(queue: Pending, max_chunks: int, max_bytes: int) -> list[list[tuple[int, int]]]:
    """Empties a queue: the project and the number of each chunk, by batches."""
    found = []
    while queue:
        found.append([(a.producer.project_id, a.received_at_us) for a in queue.take(max_chunks, max_bytes)])
    return found


def test_chunks_of_one_project_come_in_the_order_of_their_arrival():
    queue = pending(*[(FLOOD, 1000)] * 250)
    assert batches(queue, 100, 1 << 20) == [
        [(FLOOD, n) for n in range(first, min(first + 100, 250))] for first in (0, 100, 200)
    ]


def test_a_batch_ends_with_the_chunk_that_fills_it():
    queue = pending(*[(FLOOD, 400)] * 5)
    assert [len(batch) for batch in batches(queue, 100, 1000)] == [3, 2]


def test_few_chunks_do_not_wait_for_those_of_a_flood():
    size_bytes = TURN_BYTES
    queue = pending(*[(FLOOD, size_bytes)] * 100, *[(OTHER, 3200)] * 20)
    first = queue.take(1000, 4 * TURN_BYTES)
    assert [a.received_at_us for a in first if a.producer.project_id == OTHER] == list(range(100, 120))
    assert sum(a.producer.project_id == FLOOD for a in first) < 5
    assert queue.waited_since_us() is None, "a batch waits although chunks are left"


def test_projects_take_turns_over_all_batches():
    """A batch has room for one chunk only, and yet nobody waits longer than the others."""
    queue = pending(*[(project, 2 * TURN_BYTES) for project in (FLOOD, OTHER, THIRD) for _ in range(3)])
    turns = [project for [(project, _)] in batches(queue, 100, TURN_BYTES)]
    assert turns == [FLOOD, OTHER, THIRD] * 3


def test_what_arrives_later_goes_behind_what_is_left_of_its_project():
    queue = pending(*[(FLOOD, 1000)] * 4)
    queue.take(2, 1 << 20)
    queue.add(Append(Producer(uuid.uuid4(), FLOOD, None, FLOOD), b"", 99, None))
    assert batches(queue, 100, 1 << 20) == [[(FLOOD, 2), (FLOOD, 3), (FLOOD, 99)]]
