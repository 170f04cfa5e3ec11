"""The page that records, as the server makes it."""

import pytest
from django.db import OperationalError

from audio.models import Project, Role
from tests.access.people import person

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def test_where_nobody_is_asked_everybody_may_record(client):
    answer = client.get("/record")
    assert answer.status_code == 200
    assert "<scribe-recorder" in answer.content.decode()
    assert "disabled" not in answer.content.decode()
    # Its scripts need it to change a name.
    assert "csrftoken" in answer.cookies


def test_a_stranger_is_sent_to_the_login(client, settings):
    settings.REQUIRE_AUTH = True
    answer = client.get("/record")
    assert (answer.status_code, answer["Location"]) == (302, "/login?next=/record")


def test_a_recorder_chooses_among_the_projects_in_which_they_may_record(settings):
    settings.REQUIRE_AUTH = True
    clinic, court, other = (Project.objects.create(name=name) for name in ("clinic", "court", "other"))
    caller = person("recorder", Role.RECORDER, clinic)
    page = caller.client.get("/record").content.decode()
    assert 'class="project"' not in page
    user_id = caller.client.session["_auth_user_id"]
    court.memberships.create(user_id=user_id, role=Role.MANAGER)
    other.memberships.create(user_id=user_id, role=Role.VIEWER)
    page = caller.client.get("/record").content.decode()
    assert "<option>clinic</option><option>court</option></select>" in page


def test_a_viewer_is_told_that_they_may_not_record(settings):
    settings.REQUIRE_AUTH = True
    viewer = person("viewer", Role.VIEWER, Project.objects.create(name="clinic"))
    page = viewer.client.get("/record").content.decode()
    assert "You may not record in any project." in page
    assert page.count("disabled") == 2


def test_without_a_database_the_page_is_there_and_keeps_the_sound(client, monkeypatch, settings):
    settings.REQUIRE_AUTH = True

    def away(*args):
        raise OperationalError("away")

    monkeypatch.setattr("audio.access.by_user", away)
    monkeypatch.setattr("django.contrib.auth.get_user", away)
    page = client.get("/record").content.decode()
    assert "<scribe-recorder" in page
    assert "disabled" not in page
