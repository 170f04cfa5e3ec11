"""The subscription of a page that listens: the events and the progress of the sessions that it may see."""

import uuid
from dataclasses import dataclass

from audio.access.identity import READ, Identity

# The key under which the view of `/api/events` passes a subscription to `audio.streams`, in the ASGI scope.
SCOPE_KEY = "sercuescribe.subscription"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One listener.

    Attributes:
        identity: The identity of the listener.
        session_ids: The sessions that it is limited to; empty for all that the identity may see.
        after: The position of the last event that the listener has received; None to begin with new events.
    """

    identity: Identity
    session_ids: frozenset[uuid.UUID] = frozenset()
    after: int | None = None

    def wants(self, project_id: int, session_id: uuid.UUID | None) -> bool:
        """Whether an event of a session is for this listener."""
        if session_id is None or (self.session_ids and session_id not in self.session_ids):
            return False
        return self.identity.sees(project_id, session_id) and self.identity.may(READ, project_id)
