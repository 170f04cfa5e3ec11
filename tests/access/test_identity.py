"""What an identity may do, without a database."""

from uuid import uuid4

import pytest

from audio.access.identity import ANYONE, STRANGER, Identity, Kind
from audio.errors import NotAllowedError, NotAuthenticatedError, ProjectNotFoundError, SessionNotFoundError

READER = Identity(Kind.KEY, "abc", {7: frozenset(["read"])})


def test_a_scope_belongs_to_a_project():
    READER.require("read", 7, uuid4())
    with pytest.raises(NotAllowedError, match="the scope record"):
        READER.require("record", 7, uuid4())
    with pytest.raises(SessionNotFoundError):
        READER.require("read", 8, uuid4())
    with pytest.raises(ProjectNotFoundError):
        READER.require("read", 8)


def test_a_token_has_one_session():
    session_id = uuid4()
    token = Identity(Kind.TOKEN, "abc", {7: frozenset(["record"])}, session_id=session_id)
    token.require("record", 7, session_id)
    with pytest.raises(SessionNotFoundError):
        token.require("record", 7, uuid4())
    with pytest.raises(NotAllowedError):
        token.require("record", 7)


def test_a_stranger_may_nothing_and_anyone_everything():
    with pytest.raises(NotAuthenticatedError):
        STRANGER.require("", 1)
    ANYONE.require("manage", 99, uuid4())
    assert (str(STRANGER), str(ANYONE), str(READER)) == ("stranger", "anyone", "key abc")
