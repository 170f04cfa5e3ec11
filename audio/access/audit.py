"""The audit: who did what, when, and from where."""

import ipaddress
import uuid
from collections.abc import Iterable
from typing import Any

import structlog
from django.core.cache import cache
from django.db import DatabaseError
from redis.exceptions import RedisError

from audio.access.identity import Identity
from audio.models import AudioSession, AuditEntry, Project

logger = structlog.stdlib.get_logger(__name__)

REPETITION_SECONDS = 600


def record(
    action: str,
    identity: Identity,
    project_id: int | None = None,
    session_id: uuid.UUID | None = None,
    address: str | None = None,
    **details: Any,
) -> None:
    """Store what somebody did. The entry is part of the surrounding transaction.

    Args:
        action: The action, such as `session.opened`.
        identity: Who did it.
        project_id: The project to which it was done.
        session_id: The session to which it was done.
        address: The IP address of the client.
        details: More about it. It must not contain secrets.
    """
    name = Project.objects.filter(pk=project_id).values_list("name", flat=True).first() if project_id else None
    AuditEntry.objects.create(
        project=name or "",
        project_key=project_id,
        actor=str(identity)[:200],
        action=action,
        session_id=session_id,
        address=_ip_address(address),
        details=details,
    )


def record_all(action: str, done: Iterable[tuple[Identity, Project, uuid.UUID, str | None]], **details: Any) -> None:
    """Store that the same was done to many sessions, with one statement.

    Args:
        action: What was done.
        done: Who did it, the project, the session, and the IP address of the client.
        details: More about it.
    """
    AuditEntry.objects.bulk_create(
        AuditEntry(
            project=project.name,
            project_key=project.pk,
            actor=str(identity)[:200],
            action=action,
            session_id=session_id,
            address=_ip_address(address),
            details=details,
        )
        for identity, project, session_id, address in done
    )


def note(action: str, identity: Identity, session: AudioSession, address: str | None, **details: Any) -> None:
    """Store that somebody has read or deleted something.

    A database that is full or read-only must not keep people from their recordings. The log has the entry then.
    """
    try:
        record(action, identity, session.project_id, session.pk, address, **details)
    except DatabaseError as error:
        logger.error(
            "audit_not_stored", action=action, actor=str(identity), session_id=str(session.pk), error=str(error)
        )


def is_repeated(action: str, identity: Identity, session: AudioSession, address: str | None) -> bool:
    """Return whether a client has done the same to an open session within the last REPETITION_SECONDS.

    A player loads an open session again every few seconds. Without Redis nothing counts as repeated.
    """
    if not session.is_open:
        return False
    client = f"{identity.kind}:{identity.key}:{'' if identity.key else address}"
    try:
        return not cache.add(f"audit:{action}:{session.pk}:{client}", 1, REPETITION_SECONDS)
    except RedisError:
        return False


def _ip_address(text: str | None) -> str | None:
    """Return the address without the zone of IPv6; None if it is no IP address, such as the name of a socket."""
    try:
        return str(ipaddress.ip_address((text or "").partition("%")[0]))
    except ValueError:
        return None
