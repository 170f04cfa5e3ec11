"""Tickets: what lets a browser, which can send no header, open the WebSocket of one session.

A ticket is signed (`django.core.signing`, HMAC-SHA-256), bound to its session, good for a minute, and spent by
its first use: the shared cache remembers it for as long as it would live.
"""

import secrets
import uuid

from django.core import signing
from django.core.cache import cache
from redis.exceptions import RedisError

from audio.errors import NotAllowed, ServiceError

TICKET_SECONDS = 60
_SALT = "audio.ingest.tickets"


def make_ticket(session_id: uuid.UUID) -> str:
    """Return a ticket for the session, good for TICKET_SECONDS and one use."""
    return signing.dumps([session_id.hex, secrets.token_urlsafe(12)], salt=_SALT)


def spend_ticket(ticket: str, session_id: uuid.UUID | None) -> None:
    """Spend a ticket that is shown for a session.

    Args:
        ticket: The ticket.
        session_id: The session, None for a new one.

    Raises:
        NotAllowed: The ticket is forged, too old, spent, or another session's.
        ServiceError: Redis, which remembers spent tickets, is away.
    """
    try:
        owner, nonce = signing.loads(ticket, salt=_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature as error:
        raise NotAllowed("The ticket is not valid or has expired. Create another one.") from error
    if session_id is None or owner != session_id.hex:
        raise NotAllowed("The ticket belongs to another session.")
    try:
        fresh = cache.add(f"ticket:{nonce}", 1, TICKET_SECONDS)
    except RedisError as error:
        raise ServiceError("Tickets cannot be checked now. Try again later.") from error
    if not fresh:
        raise NotAllowed("The ticket was used before. Create another one.")
