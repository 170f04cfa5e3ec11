"""Issue and revoke API keys and session tokens."""

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from audio import events
from audio.access import audit, secrets
from audio.access.identity import ALL_SCOPES, Identity
from audio.errors import InvalidParameterError, KeyNotFoundError, NotAllowedError, TokenNotFoundError
from audio.models import ApiKey, AudioSession, Project, SessionToken

# A person presses "record" some time after the back end has made the session.
_FIRST_CONNECTION_SECONDS = 3600


def key(
    project: Project,
    name: str,
    scopes: Iterable[str],
    identity: Identity,
    expires_at: datetime | None = None,
    address: str | None = None,
) -> tuple[ApiKey, str]:
    """Make an API key.

    Returns:
        The key, and its secret, which is not stored.

    Raises:
        InvalidParameterError: A scope is unknown, or there is none.
        NotAllowedError: The key could do what its maker may not do.
    """
    wanted = sorted(set(scopes), key=["read", "record", "manage"].index) if set(scopes) <= ALL_SCOPES else []
    if not wanted:
        valid = ["read", "record", "manage"]
        raise InvalidParameterError("An API key needs at least one scope.", parameter="scopes", valid_values=valid)
    if not all(identity.may(scope, project.pk) for scope in wanted):
        raise NotAllowedError("You cannot give a scope that you do not have.")
    secret = secrets.new(secrets.KEY)
    with transaction.atomic():
        made = ApiKey.objects.create(
            project=project,
            name=name,
            scopes=wanted,
            prefix=secret.prefix,
            digest=secret.digest,
            expires_at=expires_at,
            created_by_id=identity.key if isinstance(identity.key, int) else None,
        )
        audit.record("key.created", identity, project.pk, address=address, key=secret.prefix, scopes=wanted)
    return made, secret.text


def token(
    session: AudioSession, purpose: str, lifetime: timedelta, identity: Identity, address: str | None = None
) -> tuple[SessionToken, str]:
    """Make a token of a session.

    A session to which nobody has connected yet stays open for an hour, so that there is time to connect.

    Returns:
        The token, and its secret, which is not stored.
    """
    secret = secrets.new(secrets.TOKEN)
    now = timezone.now()
    with transaction.atomic():
        made = SessionToken.objects.create(
            session=session,
            purpose=purpose,
            prefix=secret.prefix,
            digest=secret.digest,
            expires_at=now + lifetime,
            api_key_id=identity.key if isinstance(identity.key, uuid.UUID) else None,
        )
        until = now + min(lifetime, timedelta(seconds=_FIRST_CONNECTION_SECONDS))
        waiting = AudioSession.objects.open().filter(pk=session.pk, sources__isnull=True, dropped_at__lt=until)
        waiting.update(dropped_at=until)
        audit.record("token.created", identity, session.project_id, session.pk, address, token=secret.prefix)
    return made, secret.text


def revoke_key(key_id: uuid.UUID, identity: Identity, address: str | None = None) -> ApiKey:
    """Revoke an API key and its tokens, and end their connections on every host.

    Raises:
        KeyNotFoundError: There is no such key in a project of the identity.
    """
    with transaction.atomic():
        found = ApiKey.objects.select_for_update().filter(pk=key_id).first()
        if found is None or not identity.sees(found.project_id):
            raise KeyNotFoundError
        identity.require("manage", found.project_id)
        if found.revoked_at is None:
            found.revoked_at = timezone.now()
            found.save(update_fields=["revoked_at"])
            audit.record("key.revoked", identity, found.project_id, address=address, key=found.prefix)
        tokens = found.tokens.values_list("pk", flat=True)
        events.access_revoked([found.pk, *tokens])
    return found


def revoke_token(
    session: AudioSession, token_id: uuid.UUID, identity: Identity, address: str | None = None
) -> SessionToken:
    """Revoke a session token, and end its connections on every host.

    Raises:
        TokenNotFoundError: The session has no such token.
    """
    with transaction.atomic():
        found = SessionToken.objects.select_for_update().filter(session=session, pk=token_id).first()
        if found is None:
            raise TokenNotFoundError
        if found.revoked_at is None:
            found.revoked_at = timezone.now()
            found.save(update_fields=["revoked_at"])
            audit.record("token.revoked", identity, session.project_id, session.pk, address, token=found.prefix)
        events.access_revoked([found.pk])
    return found
