"""The types that the parts of the ingest hand each other: a producer, the outcome of a chunk, a connection."""

import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from django.db import DEFAULT_DB_ALIAS, connections

from audio.access.identity import Identity
from audio.errors import AudioError


@dataclass(slots=True)
class Producer:
    """A connection as the commit sees it: whose chunks they are, and whether it may still write.

    `epoch` is that of its named source, None for the unnamed. `rejection` is why the connection may no longer write, if
    it may not. The commit sets it to the first fatal error, and to any error of a named source: nothing more of the
    connection is stored then, because a hole in a source could not be resumed. A pause that is over is forgotten when
    the connection itself says `resume`.
    """

    session_id: uuid.UUID
    source_id: int
    epoch: int | None
    description: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    rejection: AudioError | None = None
    session_key: Any = field(init=False)

    def __post_init__(self) -> None:
        """Prepare the session's key as the database's driver takes it, once instead of for every chunk."""
        native = connections[DEFAULT_DB_ALIAS].features.has_native_uuid_field
        self.session_key = self.session_id if native else self.session_id.hex


class Accepted(NamedTuple):
    """The chunk's row is committed: its sequence, and the count of its source if that is named, else 0."""

    sequence: int
    source_count: int


Outcome = Accepted | AudioError


class LiveConnection(Protocol):
    """The interface of a connection to the ingest. `audio.consumers` implements it."""

    connection_id: int
    producer: Producer
    identity: Identity
    project_id: int

    def deliver(self, size_bytes: int, outcome: Outcome) -> None:
        """Note the outcome of the oldest chunk in flight, which has this size."""

    def wake(self) -> None:
        """Send what there is to send."""

    def session_closed(self) -> None:
        """Say that the session was closed elsewhere, and end."""

    def session_deleted(self) -> None:
        """Say that the session was deleted elsewhere, and end."""

    def superseded(self) -> None:
        """Say that a newer connection has taken over the source, and end."""

    def end_with(self, error: AudioError) -> None:
        """Send the error after the last answer, and end: its identity or its project may not record any more."""

    def warned(self, warning: dict[str, Any]) -> None:
        """Say that the session's recording has a new warning."""

    def go_away(self) -> None:
        """Answer what is in flight, then end, because the server stops."""
