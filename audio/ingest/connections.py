"""The open connections of a process, and the limit on the bytes that they may have in flight together.

Only the event loop's thread uses them. `audio.ingest.sessions` writes the rows of connections to the database, and
`audio.ingest.heartbeat` checks them there.
"""

import asyncio
from collections.abc import Iterable, Iterator

from audio.access.identity import Identity
from audio.ingest.types import LiveConnection, Producer

PROCESS_MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024
CONNECTION_MAX_IN_FLIGHT_BYTES = 1024 * 1024
# The share of a connection in the bytes that are free. However many connections send as fast as they can, some of the
# bytes stay free for the others.
_SHARE = 4


class Connections:
    """The connections that may submit chunks, by their ids."""

    def __init__(self) -> None:
        self._by_id: dict[int, LiveConnection] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[LiveConnection]:
        """Iterate over a copy, so that connections may be added and removed meanwhile."""
        return iter(list(self._by_id.values()))

    def __contains__(self, connection_id: int) -> bool:
        """Return whether there is a connection with this id."""
        return connection_id in self._by_id

    def add(self, connection: LiveConnection) -> None:
        """Register a connection."""
        self._by_id[connection.connection_id] = connection
        self._is_empty.clear()

    def remove(self, connection: LiveConnection) -> bool:
        """Forget a connection, and return whether it was there."""
        return self._by_id.pop(connection.connection_id, None) is not None

    def note_removed(self) -> None:
        """Wake up `until_empty` if the last connection has ended."""
        if not self._by_id:
            self._is_empty.set()

    def present(self, connection_ids: Iterable[int]) -> list[LiveConnection]:
        """Return the connections with these ids that are still registered."""
        return [connection for key in connection_ids if (connection := self._by_id.get(key)) is not None]

    def producers(self) -> dict[int, Producer]:
        """Return the producers of all connections, by the ids of the connections."""
        return {key: connection.producer for key, connection in self._by_id.items()}

    def holders(self) -> dict[int, tuple[Identity, int]]:
        """Return the identities of all connections, each with its project, by the ids of the connections."""
        return {key: (connection.identity, connection.producer.project_id) for key, connection in self._by_id.items()}

    async def until_empty(self) -> None:
        """Wait until the last connection has ended."""
        await self._is_empty.wait()


class InFlight:
    """The bytes of all connections that have arrived and have no outcome yet."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def add(self, size_bytes: int) -> None:
        """Count a chunk that has arrived."""
        self.size_bytes += size_bytes
        if self.size_bytes >= PROCESS_MAX_IN_FLIGHT_BYTES:
            self._room.clear()

    def subtract(self, size_bytes: int) -> None:
        """Subtract the chunks of a batch that have their outcomes."""
        self.size_bytes -= size_bytes
        if self.size_bytes < PROCESS_MAX_IN_FLIGHT_BYTES:
            self._room.set()

    @property
    def share_bytes(self) -> int:
        """How many bytes one connection may have in flight now."""
        free_bytes = PROCESS_MAX_IN_FLIGHT_BYTES - self.size_bytes
        return max(1, min(CONNECTION_MAX_IN_FLIGHT_BYTES, free_bytes // _SHARE))

    @property
    def has_room(self) -> bool:
        """Whether more bytes may be read from clients now."""
        return self._room.is_set()

    async def until_room(self) -> None:
        """Wait until more bytes may be read from clients."""
        await self._room.wait()
