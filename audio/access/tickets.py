"""Tickets, which allow a browser to open the WebSocket of one session. Browsers cannot send headers with a WebSocket.

A ticket is signed (`django.core.signing`, HMAC-SHA-256), and valid for one session, one minute and one use. The shared
cache stores used tickets until they expire. A ticket names who has made it, because it does not outlive their right to
record.
"""

import secrets
import uuid
from typing import NamedTuple

from django.core import signing
from django.core.cache import cache
from redis.exceptions import RedisError

from audio.access.identity import Identity
from audio.errors import NotAllowedError, ServiceError

TICKET_SECONDS = 60
_SALT = "audio.ingest.tickets"


class Maker(NamedTuple):
    """The maker of a ticket.

    Attributes:
        kind: The kind of their identity; empty if nobody was asked.
        key: The id of the user or the API key.
    """

    kind: str = ""
    key: str = ""


def make_ticket(session_id: uuid.UUID, identity: Identity) -> str:
    """Return a ticket for the session. It is valid for TICKET_SECONDS and one use."""
    unique = f"{identity.kind}:{identity.key}:{secrets.token_urlsafe(12)}"
    return signing.dumps([session_id.hex, unique], salt=_SALT)


def spend_ticket(ticket: str, session_id: uuid.UUID | None) -> Maker:
    """Use a ticket to open a session.

    Args:
        ticket: The ticket.
        session_id: The session, None for a new one.

    Returns:
        Who has made it.

    Raises:
        NotAllowedError: The ticket is forged, expired or used, or belongs to another session.
        ServiceError: Redis, which stores used tickets, is away.
    """
    try:
        owner, unique = signing.loads(ticket, salt=_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature as error:
        raise NotAllowedError("The ticket is not valid or has expired. Create another one.") from error
    if session_id is None or owner != session_id.hex:
        raise NotAllowedError("The ticket belongs to another session.")
    try:
        fresh = cache.add(f"ticket:{unique}", 1, TICKET_SECONDS)
    except RedisError as error:
        raise ServiceError("Tickets cannot be checked now. Try again later.") from error
    if not fresh:
        raise NotAllowedError("The ticket was used before. Create another one.")
    # During an upgrade there are tickets of a version that named nobody.
    return Maker(*unique.split(":")[:2]) if ":" in unique else Maker()
