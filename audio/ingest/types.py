"""The types that the parts of the ingest share: a producer, the outcome of a chunk, a connection."""

import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from django.db import DEFAULT_DB_ALIAS, connections

from audio.access.identity import Identity
from audio.errors import AudioError


@dataclass(slots=True)
class Producer:
    """A connection as the commit sees it: its session, its source, its project, and whether it may still write.

    `epoch` is the epoch of its named source, None for an unnamed source. `rejection` is the reason if the connection
    may no longer write. The commit sets it to the first fatal error, and to any error of a named source, because a
    source with a hole could not be resumed. If the reason is a pause, a `resume` from the same connection clears it.
    """

    session_id: uuid.UUID
    source_id: int
    epoch: int | None
    project_id: int
    description: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    rejection: AudioError | None = None
    session_key: Any = field(init=False)

    def __post_init__(self) -> None:
        """Convert the session's key to the type of the database's driver, once instead of for every chunk."""
        native = connections[DEFAULT_DB_ALIAS].features.has_native_uuid_field
        self.session_key = self.session_id if native else self.session_id.hex


class Accepted(NamedTuple):
    """A committed chunk: its sequence, and the chunk count of its source, 0 if the source is unnamed."""

    sequence: int
    source_count: int


Outcome = Accepted | AudioError


class LiveConnection(Protocol):
    """The interface of a connection to the ingest. `audio.consumers` implements it."""

    connection_id: int
    producer: Producer
    identity: Identity

    def deliver(self, size_bytes: int, outcome: Outcome) -> None:
        """Note the outcome of the oldest chunk in flight and its size."""

    def wake(self) -> None:
        """Send the pending answers."""

    def session_closed(self) -> None:
        """Tell the client that somebody else has closed the session, and end."""

    def session_deleted(self) -> None:
        """Tell the client that the session was deleted, and end."""

    def superseded(self) -> None:
        """Tell the client that a newer connection has taken over its source, and end."""

    def end_with(self, error: AudioError) -> None:
        """Send the error after the last answer, and end: its identity or its project may not record any more."""

    def warned(self, warning: dict[str, Any]) -> None:
        """Tell the client about a new warning of the recording."""

    def go_away(self) -> None:
        """Answer the chunks in flight, then end, because the server stops."""
