"""Everybody who may stand at a door, in the database of a test: people, keys and tokens of two projects."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from audio.access import COMMAND, issue
from audio.models import AudioSession, Membership, Project, Role


@dataclass(frozen=True)
class Caller:
    """Somebody with the client that they use; `key` is the secret of a program."""

    client: Client
    key: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends a request with a JSON body."""
        text = "" if body is None else json.dumps(body)
        return self.client.generic(method, path, text, "application/json", headers=self.headers)


def with_key(*scopes: str, project: Project) -> Caller:
    """A program with a key of these scopes."""
    _, secret = issue.key(project, "program", scopes, COMMAND)
    return Caller(Client(), secret, {"Authorization": f"Bearer {secret}"})


def with_token(session: AudioSession, purpose: str) -> Caller:
    """A browser with a session token."""
    _, secret = issue.token(session, purpose, timedelta(hours=1), COMMAND)
    return Caller(Client(), secret, {"Authorization": f"Bearer {secret}"})


def person(name: str, role: Role | None = None, project: Project | None = None, **fields: Any) -> Caller:
    """A person who has logged in."""
    user = User.objects.create_user(name, password="a long pass phrase", **fields)
    if role is not None:
        Membership.objects.create(user=user, project=project, role=role)
    client = Client()
    client.force_login(user)
    return Caller(client)
