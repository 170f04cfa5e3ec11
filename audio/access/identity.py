"""PURE. The identity of a caller, and what the caller may do.

An identity is found once for a request or a connection (`audio.access.doors`). There is no check for each chunk.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from audio.errors import NotAllowedError, NotAuthenticatedError, ProjectNotFoundError, SessionNotFoundError

READ, RECORD, MANAGE = "read", "record", "manage"
ROLE_SCOPES = {
    "viewer": frozenset([READ]),
    "recorder": frozenset([READ, RECORD]),
    "manager": frozenset([READ, RECORD, MANAGE]),
}
PURPOSE_SCOPES = {"record": frozenset([RECORD]), "listen": frozenset([READ])}
ALL_SCOPES = frozenset([READ, RECORD, MANAGE])


class Kind(StrEnum):
    """The kinds of identities."""

    ANYONE = "anyone"  # authentication is off
    STRANGER = "stranger"  # no identity was given
    USER = "user"
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a kind, not a password
    TICKET = "ticket"
    COMMAND = "command line"  # an operator of the machine


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A person or program that sends requests.

    Attributes:
        kind: How the caller has authenticated.
        name: What people call them, for the log and the audit: a user name, or the prefix of a key or token.
        scopes: What they may do, by the ids of projects.
        everywhere: What they may do in all projects, including future ones.
        session_id: The only session that exists for them; None if there is no such limit.
        key: The id of the user, the key or the token, with which the server finds out that it was revoked.
        home: The project of the sessions that they create, unless they name another; None if they must name one.
        requests_per_second: The limit of their requests and new connections; None if there is none.
    """

    kind: Kind
    name: str
    scopes: Mapping[int, frozenset[str]] = field(default_factory=dict)
    everywhere: frozenset[str] = frozenset()
    session_id: uuid.UUID | None = None
    key: int | uuid.UUID | None = None
    home: int | None = None
    requests_per_second: int | None = None

    def __str__(self) -> str:
        return self.name if self.kind in (Kind.ANYONE, Kind.STRANGER, Kind.COMMAND) else f"{self.kind} {self.name}"

    @property
    def is_unlimited(self) -> bool:
        """Whether everything of every project may be done."""
        return self.everywhere == ALL_SCOPES

    def may(self, scope: str, project_id: int) -> bool:
        """Whether something may be done in a project."""
        return scope in self.everywhere or scope in self.scopes.get(project_id, ())

    def sees(self, project_id: int, session_id: uuid.UUID | None = None) -> bool:
        """Whether a project, or a session of it, exists for this identity."""
        if self.session_id is not None and session_id != self.session_id:
            return False
        return bool(self.everywhere) or project_id in self.scopes

    def require(self, scope: str, project_id: int, session_id: uuid.UUID | None = None) -> None:
        """Check that something may be done with a project, or with a session of it.

        Args:
            scope: What is to be done: `read`, `record` or `manage`. An empty scope requires only that it is visible.
            project_id: The project.
            session_id: The session, None if it is about no single session.

        Raises:
            NotAuthenticatedError: Nobody has said who asks.
            SessionNotFoundError: The session does not exist for this identity.
            ProjectNotFoundError: The project does not exist for this identity.
            NotAllowedError: It is visible, and this may not be done with it.
        """
        if self.kind is Kind.STRANGER:
            raise NotAuthenticatedError
        if not self.sees(project_id, session_id):
            if session_id is not None:
                raise SessionNotFoundError(session_id=str(session_id))
            raise NotAllowedError if self.session_id is not None else ProjectNotFoundError
        if scope and not self.may(scope, project_id):
            raise NotAllowedError(f"This needs the scope {scope}, which {self} does not have.", scope=scope)


ANYONE = Identity(Kind.ANYONE, "anyone", everywhere=ALL_SCOPES, home=1)
COMMAND = Identity(Kind.COMMAND, "command line", everywhere=ALL_SCOPES, home=1)
STRANGER = Identity(Kind.STRANGER, "stranger")
