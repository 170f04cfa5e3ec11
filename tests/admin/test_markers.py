"""The markers on the page of a session: shown to whoever sees the session, and edited by whoever operates it."""

import pytest
from django.contrib.auth.models import Permission, User

from audio import ingest
from audio.admin.markers import MAX_EDITABLE
from audio.models import AudioSession, AuditEntry, Marker, Membership, Project
from audio.storage import session_file
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

READY = {"state": "ready", "format": "wav", "size_bytes": 3200, "file_name": "a.wav", "duration_seconds": 10.0}


@pytest.fixture
def session(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path
    session = make_session(READY, status="completed")
    ingest.add_marker(session.pk, "one", 1.0)
    ingest.add_marker(session.pk, "two", 2.0)
    return session


def user_with(*permissions):
    user = User.objects.create_user("-".join(permissions), is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=[f"{each}_audiosession" for each in permissions]))
    return user


@pytest.fixture
def operator(client):
    client.force_login(user_with("view", "change"))
    return client


def path(session):
    return f"/admin/audio/audiosession/{session.pk}/change/"


def rows(*rows, initial):
    data = {"markers-TOTAL_FORMS": len(rows), "markers-INITIAL_FORMS": initial}
    for number, row in enumerate(rows):
        data |= {f"markers-{number}-{name}": value for name, value in row.items()}
    return data


def row(of, /, **changes):
    marker = Marker.objects.get(label=of)
    shown = {"id": marker.pk, "session": marker.session_id, "label": of, "position_seconds": marker.position_seconds}
    return shown | changes


def markers(session):
    return list(Marker.objects.filter(session=session).order_by("label").values_list("label", "position_seconds"))


def test_markers_are_added_changed_and_deleted(operator, session):
    before = AudioSession.objects.filter(pk=session.pk).values().get()
    page = operator.get(path(session)).content.decode()
    assert 'value="one"' in page
    assert 'value="2.0"' in page
    changes = [
        row("one", label="Frage 1: ü 🎤", position_seconds="1.5"),
        row("two", DELETE="on"),
        {"session": session.pk, "label": "new", "position_seconds": "3"},
        {"session": session.pk, "label": "zend", "position_seconds": ""},
    ]
    # Nothing else of the session can be changed here.
    data = rows(*changes, initial=2) | {"name": "x", "status": "active", "total_chunks": "9", "legal_hold": "on"}
    assert operator.post(path(session), data).status_code == 302
    # The session has no chunks, so its end is its beginning.
    assert markers(session) == [("Frage 1: ü 🎤", 1.5), ("new", 3.0), ("zend", 0.0)]
    assert AudioSession.objects.filter(pk=session.pk).values().get() == before
    stored = session_file.read(session.pk, session_file.MARKERS_NAME)["markers"]
    assert {each["label"] for each in stored} == {"Frage 1: ü 🎤", "new", "zend"}
    entry = AuditEntry.objects.get(action="marker.deleted")
    assert (entry.actor, entry.session_id, entry.details["label"]) == ("user view-change", session.pk, "two")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": "a\tb"}, "no control characters"),
        ({"label": ""}, "This field is required"),
        ({"label": "x" * 256}, "1 to 255 characters"),
        ({"position_seconds": "-1"}, "greater than or equal to 0"),
        ({"position_seconds": "nan"}, "Enter a number"),
    ],
)
def test_a_marker_that_is_not_valid(operator, session, changes, sentence):
    answer = operator.post(path(session), rows(row("one", **changes), row("two"), initial=2))
    assert sentence in answer.content.decode()
    assert markers(session) == [("one", 1.0), ("two", 2.0)]


def test_a_marker_behind_the_end_is_told_and_the_others_are_saved(operator, session):
    changes = [row("one", position_seconds="11"), row("two", label="changed")]
    answer = operator.post(path(session), rows(*changes, initial=2), follow=True)
    (message, *_) = [str(message) for message in answer.context["messages"]]
    assert message.startswith("The marker was not saved: position_seconds must not be after the end")
    assert markers(session) == [("changed", 2.0), ("one", 1.0)]


def test_who_only_looks_changes_nothing(client, session):
    client.force_login(user_with("view"))
    page = client.get(path(session)).content.decode()
    assert "one" in page
    assert 'name="_save"' not in page
    assert client.post(path(session), rows(row("one", label="x"), row("two"), initial=2)).status_code == 403
    assert markers(session) == [("one", 1.0), ("two", 2.0)]


def test_a_manager_edits_the_markers_of_their_project_alone(client, settings, session):
    settings.REQUIRE_AUTH = True
    ours = Project.objects.create(name="ours")
    AudioSession.objects.filter(pk=session.pk).update(project=ours)
    theirs = make_session(READY, status="completed", project=Project.objects.create(name="theirs"))
    hidden = ingest.add_marker(theirs.pk, "theirs", 1.0)
    manager = User.objects.create_user("manager")
    Membership.objects.create(project=ours, user=manager, role="manager")
    client.force_login(manager)
    # The row of another session is no row of this one.
    foreign = row("one") | {"id": hidden.pk, "label": "stolen"}
    client.post(path(session), rows(foreign, row("two"), initial=2))
    assert markers(theirs) == [("theirs", 1.0)]
    assert client.post(path(theirs), rows(row("theirs", label="x"), initial=1)).status_code == 403
    assert markers(theirs) == [("theirs", 1.0)]
    assert client.post(path(session), rows(row("one", label="a"), row("two"), initial=2)).status_code == 302
    assert markers(session) == [("a", 1.0), ("two", 2.0)]


def test_many_markers_are_only_shown(operator, session):
    more = [Marker(session=session, label=f"many {number}", position_seconds=3.0) for number in range(MAX_EDITABLE)]
    Marker.objects.bulk_create(more)
    page = operator.get(path(session)).content.decode()
    assert "many 199" in page
    assert 'value="one"' not in page
    operator.post(path(session), rows(row("one", label="x"), initial=1))
    assert Marker.objects.filter(label="one").exists()


def test_a_session_that_is_being_deleted_keeps_its_markers(operator, session):
    AudioSession.objects.filter(pk=session.pk).update(delete_requested_at=session.start_time)
    operator.post(path(session), rows(row("one", label="x"), row("two"), initial=2))
    assert markers(session) == [("one", 1.0), ("two", 2.0)]
