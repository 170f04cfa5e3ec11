"""The types that the parts of the ingest hand each other: a producer, the outcome of a chunk, a connection."""

import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from django.db import DEFAULT_DB_ALIAS, connections

from audio.errors import AudioError


@dataclass(slots=True)
class Producer:
    """A connection as the commit sees it: whose chunks they are, and whether it may still write.

    `epoch` is that of its named source, None for the unnamed. `failed` is set with the first fatal refusal, and with
    any refusal of a named source: from then on nothing of this connection is stored, because a hole in a source could
    not be resumed. A pause that is over is forgotten when the connection itself says `resume`.
    """

    session_id: uuid.UUID
    source_id: int
    epoch: int | None
    description: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    failed: AudioError | None = None
    session_key: Any = field(init=False)

    def __post_init__(self) -> None:
        """Prepares the session's key as the database's driver takes it, once instead of for every chunk."""
        native = connections[DEFAULT_DB_ALIAS].features.has_native_uuid_field
        self.session_key = self.session_id if native else self.session_id.hex


class Accepted(NamedTuple):
    """The chunk's row is committed: its place in the session, and the count of its source if that is named."""

    sequence: int
    source_count: int


Outcome = Accepted | AudioError


class LiveConnection(Protocol):
    """What the ingest needs of a connection. `audio.consumers` implements it."""

    connection_id: int
    producer: Producer

    def settle(self, size_bytes: int, outcome: Outcome) -> None:
        """The oldest chunk in flight, of this size, has its outcome."""

    def wake(self) -> None:
        """There may be something to send."""

    def session_closed(self) -> None:
        """The session was closed elsewhere."""

    def session_deleted(self) -> None:
        """The session was deleted elsewhere."""

    def superseded(self) -> None:
        """A newer connection has taken over the source."""

    def warned(self, warning: dict[str, Any]) -> None:
        """The session's recording has a new warning."""

    def go_away(self) -> None:
        """The server stops: answer what is in flight, then close."""
