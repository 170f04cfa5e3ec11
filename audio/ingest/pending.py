"""The chunks that wait for the committer. If more wait than fit into one batch, projects take turns.

Without turns, all other chunks would wait for those of a project whose clients send as fast as they can.
"""

from collections import deque
from dataclasses import dataclass

from audio.ingest.types import LiveConnection, Producer

# In its turn a project adds this many bytes to a batch, or one larger chunk.
TURN_BYTES = 64 * 1024


@dataclass(slots=True)
class Append:
    """A submitted chunk: its producer, its bytes, its time of arrival, and the connection to answer."""

    producer: Producer
    payload: bytes
    received_at_us: int
    connection: LiveConnection


class Pending:
    """A queue of chunks. The event loop's thread calls `add`; everything else belongs to the committer's thread."""

    def __init__(self) -> None:
        self._arrived: deque[Append] = deque()
        # The chunks that did not fit into a batch, by project, in the order of their turns.
        self._left: dict[int, deque[Append]] = {}

    def __bool__(self) -> bool:
        """Return whether a chunk waits."""
        return bool(self._arrived or self._left)

    def add(self, append: Append) -> None:
        """Add a chunk that has arrived."""
        self._arrived.append(append)

    def waited_since_us(self) -> int | None:
        """Return when the oldest chunk arrived, in microseconds of the host's clock; None if no batch should wait.

        That is so if there is no chunk, or if there are already some that did not fit into the last batch.
        """
        return self._arrived[0].received_at_us if self._arrived and not self._left else None

    def __len__(self) -> int:
        """Return how many chunks have arrived since the last batch."""
        return len(self._arrived)

    def take(self, max_chunks: int, max_bytes: int) -> list[Append]:
        """Return the next batch. The chunks of a project keep their order.

        Args:
            max_chunks: How many chunks it may have.
            max_bytes: It is complete when it has as many bytes.
        """
        self._sort()
        batch: list[Append] = []
        size_bytes = 0
        while self._left and len(batch) < max_chunks and size_bytes < max_bytes:
            project_id = next(iter(self._left))
            chunks = self._left.pop(project_id)
            turn_end = min(size_bytes + TURN_BYTES, max_bytes)
            while chunks and size_bytes < turn_end and len(batch) < max_chunks:
                batch.append(chunks.popleft())
                size_bytes += len(batch[-1].payload)
            if chunks:
                self._left[project_id] = chunks
        return batch

    def _sort(self) -> None:
        while self._arrived:
            append = self._arrived.popleft()
            self._left.setdefault(append.producer.project_id, deque()).append(append)
