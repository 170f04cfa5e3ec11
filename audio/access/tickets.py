"""Tickets, which allow a browser to open the WebSocket of one session. Browsers cannot send headers with a WebSocket.

A ticket is signed (`django.core.signing`, HMAC-SHA-256), and valid for one session, one minute and one use. The shared
cache stores used tickets until they expire.
"""

import secrets
import uuid

from django.core import signing
from django.core.cache import cache
from redis.exceptions import RedisError

from audio.errors import NotAllowedError, ServiceError

TICKET_SECONDS = 60
_SALT = "audio.ingest.tickets"


def make_ticket(session_id: uuid.UUID) -> str:
    """Return a ticket for the session. It is valid for TICKET_SECONDS and one use."""
    return signing.dumps([session_id.hex, secrets.token_urlsafe(12)], salt=_SALT)


def spend_ticket(ticket: str, session_id: uuid.UUID | None) -> None:
    """Use a ticket to open a session.

    Args:
        ticket: The ticket.
        session_id: The session, None for a new one.

    Raises:
        NotAllowedError: The ticket is forged, expired or used, or belongs to another session.
        ServiceError: Redis, which stores used tickets, is away.
    """
    try:
        owner, nonce = signing.loads(ticket, salt=_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature as error:
        raise NotAllowedError("The ticket is not valid or has expired. Create another one.") from error
    if session_id is None or owner != session_id.hex:
        raise NotAllowedError("The ticket belongs to another session.")
    try:
        fresh = cache.add(f"ticket:{nonce}", 1, TICKET_SECONDS)
    except RedisError as error:
        raise ServiceError("Tickets cannot be checked now. Try again later.") from error
    if not fresh:
        raise NotAllowedError("The ticket was used before. Create another one.")
