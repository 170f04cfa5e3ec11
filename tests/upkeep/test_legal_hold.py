"""A session under a legal hold, against every way to delete it."""

import json
import threading
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly.concatenate import concatenate
from audio.errors import LegalHoldError, SessionNotFoundError, StorageUnavailableError
from audio.models import AudioSession, Project
from audio.storage import paths
from audio.upkeep import Swept, removal
from tests.server import eventually
from tests.upkeep.test_removal import chunks, found_on_disk

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

SESSIONS = "/api/audio/sessions"
PAYLOADS = chunks(4, 3)


@pytest.fixture
def held(recorded) -> uuid.UUID:
    """A session with a recording under a legal hold that ended a year ago."""
    producer = recorded.open()
    recorded.store(producer, *PAYLOADS)
    ingest.close_session(producer.session_id)
    concatenate(producer.session_id)
    long_ago = timezone.now() - timedelta(days=365)
    AudioSession.objects.filter(pk=producer.session_id).update(start_time=long_ago, end_time=long_ago)
    ingest.change_details(producer.session_id, {"legal_hold": True})
    return producer.session_id


@pytest.fixture
def stays(held, recorded):
    """Checks at the end of the test that the session was not touched, and that it can be deleted without the hold."""
    yield
    session = AudioSession.objects.get(pk=held)
    assert (session.legal_hold, session.delete_requested_at) == (True, None)
    assert len(found_on_disk(recorded.root / "journals", PAYLOADS)) == 1
    assert (recorded.root / session.recording.file_name).exists()
    ingest.change_details(held, {"legal_hold": False})
    upkeep.delete_session(held)
    assert found_on_disk(recorded.root / "journals", PAYLOADS) == set()
    assert not paths.folder(held).exists()


@pytest.mark.usefixtures("stays")
def test_rest(client, held):
    answer = client.delete(f"{SESSIONS}/{held}")
    assert (answer.status_code, answer.json()["code"]) == (409, "legal_hold")
    assert "lifted" in answer.json()["detail"]


@pytest.mark.usefixtures("stays")
def test_the_command(held, capsys):
    with pytest.raises(CommandError):
        call_command("sessions", "delete", str(held), "--yes")
    assert "legal hold" in capsys.readouterr().err


@pytest.mark.usefixtures("stays")
@pytest.mark.parametrize("path", ["", "act/", "delete/"])
def test_the_admin(admin_client, held, path):
    page = f"/admin/audio/audiosession/{f'{held}/{path}' if path else ''}"
    given = {"action": "delete_selected", "_selected_action": str(held), "post": "yes"}
    answer = admin_client.post(page, given, follow=True)
    assert ["legal hold" in str(message) for message in answer.context["messages"]] == [True]


@pytest.mark.usefixtures("stays")
def test_the_retention_of_the_server_of_the_project_and_of_the_session(held, settings):
    settings.RETENTION_DAYS = 7
    assert upkeep.run_chore("retention") == Swept()
    Project.objects.update(retention_days=3)
    assert upkeep.run_chore("retention") == Swept()
    ingest.change_details(held, {"retention_days": 1})
    assert upkeep.run_chore("retention") == Swept()
    assert upkeep.sweep_all(dry_run=True).swept().deleted_sessions == 0


@pytest.mark.usefixtures("stays")
def test_a_hold_that_is_set_after_the_sweep_has_looked(held, settings, monkeypatch):
    settings.RETENTION_DAYS = 7
    AudioSession.objects.update(legal_hold=False)
    delete = removal.delete_session

    def hold_first(session_id, *condition):
        ingest.change_details(held, {"legal_hold": True})
        delete(session_id, *condition)

    monkeypatch.setattr(removal, "delete_session", hold_first)
    upkeep.run_chore("retention")


@pytest.mark.usefixtures("stays")
def test_a_hold_that_is_being_set_while_a_deletion_begins(held):
    """The deletion waits for the row and then finds the hold."""
    AudioSession.objects.update(legal_hold=False)
    caught: list[LegalHoldError] = []

    def delete():
        try:
            upkeep.delete_session(held)
        except LegalHoldError as error:
            caught.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=delete)
    with transaction.atomic():
        ingest.change_details(held, {"legal_hold": True})
        thread.start()
        if connection.vendor == "postgresql":  # with SQLite it waits for the writer, and shows it nowhere
            eventually(lambda: _counted("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    thread.join()
    assert len(caught) == 1


def _counted(sql: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def test_a_session_that_is_being_deleted_gets_no_hold(client, held):
    ingest.change_details(held, {"legal_hold": False})
    assert upkeep.enqueue_deletion(held)
    answer = client.patch(f"{SESSIONS}/{held}", json.dumps({"legal_hold": True}), content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    upkeep.delete_session(held)
    with pytest.raises(SessionNotFoundError):
        upkeep.enqueue_deletion(held)


def test_a_deletion_that_could_not_begin_leaves_no_mark(held, monkeypatch):
    ingest.change_details(held, {"legal_hold": False})

    def unavailable(_):
        raise StorageUnavailableError

    monkeypatch.setattr(paths, "delete_files", unavailable)
    with pytest.raises(StorageUnavailableError):
        upkeep.delete_session(held)
    assert AudioSession.objects.get(pk=held).delete_requested_at is None
    ingest.change_details(held, {"legal_hold": True})


def test_an_interrupted_deletion_is_completed_by_the_sweep(held, monkeypatch):
    ingest.change_details(held, {"legal_hold": False})

    def dies(_):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(removal, "_erase", dies)
        with pytest.raises(OSError):
            upkeep.delete_session(held)
    marked = AudioSession.objects.get(pk=held)
    assert marked.delete_requested_at is not None
    AudioSession.objects.update(delete_requested_at=timezone.now() - timedelta(hours=1))
    assert upkeep.sweep().requested_deletions == 1


def test_the_buttons_of_the_admin_set_and_lift_it(admin_client, held):
    page = f"/admin/audio/audiosession/{held}/"
    shown = admin_client.get(f"{page}change/").content.decode()
    assert 'value="lift_selected"' in shown
    assert 'value="hold_selected"' not in shown
    admin_client.post(f"{page}act/", {"action": "lift_selected"})
    assert not AudioSession.objects.get(pk=held).legal_hold
    admin_client.post(f"{page}act/", {"action": "hold_selected"})
    assert AudioSession.objects.get(pk=held).legal_hold
