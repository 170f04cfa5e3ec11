"""`manage.py audit export`."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from audio.models import AuditEntry

pytestmark = [pytest.mark.database, pytest.mark.django_db]


@pytest.fixture
def exported(capsys):
    """Exports, and returns the entries."""

    def run(*options: str) -> list[dict]:
        call_command("audit", "export", *options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def entry(day: int, **fields) -> AuditEntry:
    at = datetime(2026, 1, day, tzinfo=UTC)
    return AuditEntry.objects.create(**{"at": at, "actor": "user ada", "action": "session.opened", **fields})


def test_entries_are_exported_oldest_first(exported):
    session_id = uuid4()
    entry(2, project="clinic", session_id=session_id, address="::1", details={"format": "mp3"})
    entry(1)
    second = exported()[1]
    assert [line["at"][:10] for line in exported()] == ["2026-01-01", "2026-01-02"]
    assert second == {
        "at": "2026-01-02T00:00:00+00:00",
        "project": "clinic",
        "actor": "user ada",
        "action": "session.opened",
        "session_id": str(session_id),
        "address": "::1",
        "details": {"format": "mp3"},
    }
    assert exported("--project", "clinic") == exported("--session", str(session_id)) == [second]
    assert exported("--since", "2026-01-02") == [second]
    assert len(exported("--until", "2026-01-02T00:00:00")) == 1


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--until", "2026-13-01"], ["--session", "12"]])
def test_wrong_arguments_are_explained(options):
    with pytest.raises(CommandError) as caught:
        call_command("audit", "export", *options)
    assert caught.value.returncode == 2
    assert options[0] in str(caught.value)
