"""Access control: projects, people, API keys, tokens and tickets.

REST, the WebSocket, the admin and the pages find the `Identity` of a caller once, and then use it for each decision.
"""

from audio.access import audit, limits
from audio.access.doors import by_secret, by_user, lapsed, project_for, projects_of, standing, visible, without_identity
from audio.access.handshake import Handshake, identify
from audio.access.holds import HELD, Holds
from audio.access.identity import ANYONE, COMMAND, STRANGER, Identity, Kind
from audio.access.tickets import TICKET_SECONDS, make_ticket

__all__ = [
    "ANYONE",
    "COMMAND",
    "HELD",
    "STRANGER",
    "TICKET_SECONDS",
    "Handshake",
    "Holds",
    "Identity",
    "Kind",
    "audit",
    "by_secret",
    "by_user",
    "identify",
    "lapsed",
    "limits",
    "make_ticket",
    "project_for",
    "projects_of",
    "standing",
    "visible",
    "without_identity",
]
