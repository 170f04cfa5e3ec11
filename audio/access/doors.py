"""Find the identity of a caller by their secret or login.

The functions read the database, and are called once for a request or a connection.
"""

import contextlib
import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import DatabaseError
from django.db.models import Q, QuerySet
from django.utils import timezone

from audio.access import secrets
from audio.access.identity import (
    ALL_SCOPES,
    ANYONE,
    PURPOSE_SCOPES,
    RECORD,
    ROLE_SCOPES,
    STRANGER,
    Identity,
    Kind,
)
from audio.access.tickets import Maker
from audio.errors import InvalidParameterError, NotAuthenticatedError, ProjectNotFoundError
from audio.models import DEFAULT_PROJECT_ID, ApiKey, AudioSession, Membership, Project, SessionToken

# The last use of a key is stored at most that often.
_LAST_USE_SECONDS = 300


def without_identity() -> Identity:
    """Return the identity of a caller without a secret or a login."""
    return STRANGER if settings.REQUIRE_AUTH else ANYONE


def by_secret(text: str) -> Identity:
    """Return the identity of an API key or a session token.

    Raises:
        NotAuthenticatedError: It is not one, or it has expired or was revoked.
    """
    presented = secrets.parse(text)
    found: Identity | None = None
    if presented is not None:
        found = _by_key(presented) if presented.kind == secrets.KEY else _by_token(presented)
    if found is None:
        raise NotAuthenticatedError("The API key or token is not valid. It may have expired, or it was revoked.")
    return found


def _valid() -> Q:
    return Q(revoked_at__isnull=True) & (Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now()))


def _by_key(presented: secrets.Presented) -> Identity | None:
    key = ApiKey.objects.filter(_valid(), prefix=presented.prefix).select_related("project").first()
    if key is None or not secrets.equal(key.digest, presented.digest):
        return None
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > timedelta(seconds=_LAST_USE_SECONDS):
        # A database that is full or read-only still admits those who want to read.
        with contextlib.suppress(DatabaseError):
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return _identity_of(key)


def _identity_of(key: ApiKey) -> Identity:
    scopes = {key.project_id: frozenset(key.scopes)}
    limit = key.project.max_requests_per_second
    return Identity(Kind.KEY, key.prefix, scopes, key=key.pk, home=key.project_id, requests_per_second=limit)


def _by_token(presented: secrets.Presented) -> Identity | None:
    token = _valid_tokens().filter(prefix=presented.prefix).select_related("session__project").first()
    if token is None or not secrets.equal(token.digest, presented.digest):
        return None
    project_id = token.session.project_id
    scopes = {project_id: PURPOSE_SCOPES[token.purpose]}
    return Identity(
        Kind.TOKEN,
        token.prefix,
        scopes,
        session_id=token.session_id,
        key=token.pk,
        home=project_id,
        requests_per_second=token.session.project.max_requests_per_second,
    )


def _valid_tokens() -> QuerySet[SessionToken]:
    """Return the tokens that are valid. One does not outlive the key that made it."""
    now = timezone.now()
    key_expired = Q(api_key__revoked_at__isnull=False) | Q(api_key__expires_at__lte=now)
    return SessionToken.objects.filter(_valid()).exclude(Q(api_key__isnull=False) & key_expired)


def by_user(user: AbstractBaseUser | AnonymousUser) -> Identity:
    """Return the identity of a person who has logged in; that of a caller without a login if nobody has.

    If authentication is off, a login makes no difference.
    """
    if not user.is_authenticated or not user.is_active:
        return without_identity()
    known: Any = user
    name = known.get_username()
    if known.is_staff or not settings.REQUIRE_AUTH:
        return Identity(Kind.USER, name, everywhere=ALL_SCOPES, key=known.pk, home=DEFAULT_PROJECT_ID)
    rows = Membership.objects.filter(user=known).order_by("project_id")
    roles = list(rows.values_list("project_id", "role", "project__max_requests_per_second"))
    scopes = {project_id: ROLE_SCOPES[role] for project_id, role, _ in roles}
    home = next(iter(scopes)) if len(scopes) == 1 else None
    limit = min((limit for *_, limit in roles if limit is not None), default=None)
    return Identity(Kind.USER, name, scopes, key=known.pk, home=home, requests_per_second=limit)


def by_ticket(session_id: uuid.UUID, maker: Maker) -> Identity:
    """Return the identity of whoever has spent a ticket of a session: its maker's, for this session alone.

    So it ends with that of the maker, on every host. Its connection is in no limit of requests, because a rejected
    client could not come back with a ticket that is spent.

    Raises:
        NotAuthenticatedError: The maker may not record any more.
    """
    project_id = AudioSession.objects.filter(pk=session_id).values_list("project_id", flat=True).first()
    scopes = {} if project_id is None else {project_id: PURPOSE_SCOPES["record"]}
    if maker.kind not in (Kind.KEY, Kind.USER):
        return Identity(Kind.TICKET, f"of {session_id}", scopes, session_id=session_id, home=project_id)
    found = _maker(maker)
    if found is None or not all(found.may(RECORD, project) for project in scopes):
        raise NotAuthenticatedError("The ticket was made with an API key or a login that may not record any more.")
    return replace(
        found,
        scopes=scopes,
        everywhere=frozenset(),
        session_id=session_id,
        home=project_id,
        requests_per_second=None,
    )


def _maker(maker: Maker) -> Identity | None:
    """Return the identity of a ticket's maker as it is now; None if it is not valid any more."""
    if maker.kind == Kind.KEY:
        key = ApiKey.objects.filter(_valid(), pk=maker.key).select_related("project").first()
        return _identity_of(key) if key else None
    user = get_user_model().objects.filter(pk=maker.key, is_active=True).first()
    return by_user(user) if user else None


def visible(identity: Identity, sessions: QuerySet[Any]) -> QuerySet[Any]:
    """Return the sessions that an identity may see."""
    if identity.session_id is not None:
        sessions = sessions.filter(pk=identity.session_id)
    if identity.everywhere:
        return sessions
    return sessions.filter(project_id__in=sorted(identity.scopes))


def projects_of(identity: Identity) -> QuerySet[Project]:
    """Return the projects that an identity may see."""
    return Project.objects.all() if identity.everywhere else Project.objects.filter(pk__in=sorted(identity.scopes))


def lapsed(holders: Collection[tuple[Identity, int]]) -> list[Identity]:
    """Return the identities that may not record any more, of connections that stay open for hours.

    Args:
        holders: Identities, each with the project of the session to which it records.
    """
    keys = _holding(Kind.KEY, holders)
    tokens = _holding(Kind.TOKEN, holders)
    users = _holding(Kind.USER, holders)
    valid: set[tuple[Any, int]] = set()
    if keys:
        current = ApiKey.objects.filter(_valid(), pk__in=keys).values_list("pk", "project_id", "scopes")
        valid.update((pk, project_id) for pk, project_id, scopes in current if RECORD in scopes)
    if tokens:
        valid.update(_valid_tokens().filter(pk__in=tokens).values_list("pk", "session__project_id"))
    if users:
        valid.update(_recording_users(users, {project_id for _, project_id in holders}))
    asked = (Kind.KEY, Kind.TOKEN, Kind.USER)
    return [who for who, project_id in holders if who.kind in asked and (who.key, project_id) not in valid]


def standing(identities: Collection[Identity]) -> dict[tuple[Kind, Any], Any]:
    """Return the current values of the keys, tokens and people of identities, to notice changes.

    Args:
        identities: The identities of listeners, which stay connected for hours.

    Returns:
        Values to compare, by the kind and the key of an identity. An identity without a value is no longer valid.
    """
    keys, tokens, users = (_keys(kind, identities) for kind in (Kind.KEY, Kind.TOKEN, Kind.USER))
    found: dict[tuple[Kind, Any], Any] = {}
    if keys:
        valid = ApiKey.objects.filter(_valid(), pk__in=keys)
        found.update(((Kind.KEY, pk), tuple(scopes)) for pk, scopes in valid.values_list("pk", "scopes"))
    if tokens:
        found.update(
            ((Kind.TOKEN, pk), ()) for pk in _valid_tokens().filter(pk__in=tokens).values_list("pk", flat=True)
        )
    if users:
        roles: dict[Any, list[Any]] = {user: [] for user in users}
        members = Membership.objects.filter(user__in=users).order_by("project_id")
        for user, *role in members.values_list("user_id", "project_id", "role"):
            roles[user].append(tuple(role))
        active = get_user_model().objects.filter(pk__in=users, is_active=True)
        for pk, is_staff, password in active.values_list("pk", "is_staff", "password"):
            found[Kind.USER, pk] = (is_staff, password, *roles[pk])
    return found


def _holding(kind: Kind, holders: Collection[tuple[Identity, int]]) -> set[Any]:
    return _keys(kind, [identity for identity, _ in holders])


def _keys(kind: Kind, identities: Collection[Identity]) -> set[Any]:
    return {identity.key for identity in identities if identity.kind is kind}


def _recording_users(users: set[Any], projects: set[int]) -> set[tuple[Any, int]]:
    """Return which of these people may record to which of these projects."""
    active = get_user_model().objects.filter(pk__in=users, is_active=True)
    if not settings.REQUIRE_AUTH:
        return {(user, project_id) for user in active.values_list("pk", flat=True) for project_id in projects}
    staff = active.filter(is_staff=True).values_list("pk", flat=True)
    roles = [role for role, scopes in ROLE_SCOPES.items() if RECORD in scopes]
    members = Membership.objects.filter(user__in=active, role__in=roles).values_list("user_id", "project_id")
    return {(user, project_id) for user in staff for project_id in projects} | set(members)


def project_for(identity: Identity, name: str | None) -> int:
    """Return the project of a new session.

    Args:
        identity: The identity that creates the session.
        name: The name of the project; None if the request names none.

    Raises:
        InvalidParameterError: The request names no project, and there are several.
        NotAuthenticatedError: The caller is not authenticated.
        ProjectNotFoundError: The identity may not see this project.
    """
    if identity.kind is Kind.STRANGER:
        raise NotAuthenticatedError
    mine = projects_of(identity)
    if name is not None:
        found = mine.filter(name=name).values_list("pk", flat=True).first()
        if found is None:
            raise ProjectNotFoundError(received=name)
        return found
    if identity.home is None:
        names = list(mine.order_by("name").values_list("name", flat=True)[:20])
        raise InvalidParameterError("Name the project of the session.", parameter="project", valid_values=names)
    return identity.home
