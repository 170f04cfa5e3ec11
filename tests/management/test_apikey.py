"""`manage.py apikey`: create, list, revoke."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from audio.models import ApiKey, AuditEntry, Project

pytestmark = [pytest.mark.database, pytest.mark.django_db]


@pytest.fixture
def call(capsys):
    """Calls the command and returns what it printed."""

    def run(*arguments: str) -> str:
        call_command("apikey", *arguments)
        return capsys.readouterr().out

    return run


def failure(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        call_command("apikey", *arguments)
    return caught.value


def status(secret: str) -> int:
    return Client().get("/api/audio/sessions", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_a_key_is_printed_once_and_works_until_it_is_revoked(call, settings):
    settings.REQUIRE_AUTH = True
    secret = call("create", "bridge", "--scope", "read").strip()
    assert status(secret) == 200
    key = ApiKey.objects.get()
    assert (key.project.name, key.name, key.scopes) == ("default", "bridge", ["read"])
    listed = call("list")
    assert "bridge" in listed and key.prefix in listed and secret not in listed
    assert call("revoke", key.prefix) == f"Revoked {key.prefix} (bridge).\n"
    assert status(secret) == 401
    assert json.loads(call("list", "--json"))["state"] == "revoked"
    actions = list(AuditEntry.objects.order_by("pk").values_list("actor", "action"))
    assert actions == [("command line", "key.created"), ("command line", "key.revoked")]


def test_a_key_expires(call, settings):
    settings.REQUIRE_AUTH = True
    made = json.loads(call("create", "bridge", "--scope", "read", "--expires-in-days", "2", "--json"))
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=1) < left < timedelta(days=2)
    ApiKey.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert status(made["key"]) == 401
    assert json.loads(call("list", "--json"))["state"] == "expired"


def test_a_project_is_created_where_that_is_wanted(call):
    assert str(failure("create", "x", "--scope", "read", "--project", "clinic")) == (
        "There is no project clinic. `--create-project` creates it."
    )
    call("create", "x", "--scope", "read", "--scope", "record", "--project", "clinic", "--create-project")
    assert ApiKey.objects.get().project == Project.objects.get(name="clinic")
    assert call("list", "--project", "default").count("\n") == 1
    assert failure("create", "x", "--scope", "read", "--project", "A B", "--create-project").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["create", "x", "--scope", "read", "--expires-in-days", "0"], "must be at least 1"),
        (["revoke", "nothing"], "There is no API key nothing"),
        (["create", "x", "--scope", "write"], "invalid choice"),
        (["create", "x"], "--scope"),
    ],
)
def test_wrong_arguments_are_explained(arguments, sentence):
    assert sentence in str(failure(*arguments))
