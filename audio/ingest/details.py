"""The details of sessions: their names, metadata, retention and legal hold."""

import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from django.db import transaction

from audio.access import ANYONE, Identity, audit
from audio.errors import SessionNotFoundError
from audio.ingest.sessions import describe, index_metadata
from audio.models import AudioSession, MetadataEntry
from audio.storage import session_file
from audio.wire.parameters import merge_metadata

logger = structlog.stdlib.get_logger(__name__)


def change_details(
    session_id: uuid.UUID, changes: Mapping[str, Any], identity: Identity = ANYONE, address: str | None = None
) -> AudioSession:
    """Change the details of a session.

    Args:
        session_id: The session.
        changes: The new values of `name`, `retention_days` and `legal_hold`, and the changes of `metadata`
            (`merge_metadata`). Absent fields do not change.
        identity: Who changes them, for the audit.
        address: The IP address of the client, for the audit.

    Returns:
        The session as it is then.

    Raises:
        InvalidParameterError: The metadata would be too large.
        SessionNotFoundError: There is no such session, or a legal hold is to be set and its deletion has begun.
        OSError: The change could not be stored.
    """
    with transaction.atomic():
        session = AudioSession.objects.select_for_update().filter(pk=session_id).first()
        if session is None:
            raise SessionNotFoundError(received=str(session_id))
        if changes.get("legal_hold") and session.delete_requested_at is not None:
            raise SessionNotFoundError("The session is being deleted.")
        values = dict(changes)
        if "metadata" in values:
            values["metadata"] = merge_metadata(session.metadata, values["metadata"])
            MetadataEntry.objects.filter(session=session).delete()
        for name, value in values.items():
            setattr(session, name, value)
        session.save(update_fields=list(values))
        if "metadata" in values:
            index_metadata(session)
        session_file.write(session_id, describe(session))
        _audit(changes, session, identity, address)
    logger.info("session_changed", session_id=str(session_id), changed=sorted(values))
    return session


def _audit(changes: Mapping[str, Any], session: AudioSession, identity: Identity, address: str | None) -> None:
    where = (identity, session.project_id, session.pk, address)
    if "legal_hold" in changes:
        audit.record("legal_hold.set" if session.legal_hold else "legal_hold.lifted", *where)
    if others := sorted(set(changes) - {"legal_hold"}):
        audit.record("session.changed", *where, changed=others)
