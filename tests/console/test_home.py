"""The pages of the console as the server sends them. tests/e2e/test_console.py uses them in a browser."""

import json
import re
from uuid import uuid4

import pytest
from django.db import OperationalError

from audio import access, health
from audio.health import DownError
from audio.models import Project, Role
from tests.access.people import person
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def for_scripts(page):
    return json.loads(re.search(r'<script id="for-scripts" type="application/json">(.*?)</script>', page)[1])


@pytest.fixture
def clinic():
    return Project.objects.create(name="clinic")


@pytest.fixture
def asks(settings):
    settings.REQUIRE_AUTH = True


def test_the_list_says_where_to_send_audio(client):
    answer = client.get("/")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "ws://testserver/api/ws/audio" in page
    assert "Running" in page


def test_no_page_has_scripts_or_styles_of_its_own(client):
    session = make_session()
    for path in ("/", f"/sessions/{session.pk}", "/projects/1"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "style-src 'self'" in policy and "unsafe" not in policy
        assert not re.search(
            r"<style|style=|onclick=|<script(?![^>]*(?:src=|application/json))", answer.content.decode()
        )


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/api/asyncapi", "/metrics", "/admin/", "/health/ready", "/projects"]
)
def test_it_leads_everywhere(client, path):
    assert f'href="{path}"' in client.get("/").content.decode()


@pytest.mark.parametrize("folder", ["site", None])
def test_it_leads_to_the_documentation_if_that_was_built(client, settings, folder):
    settings.WHITENOISE_ROOT = folder
    assert ('href="/guide/"' in client.get("/").content.decode()) == (folder is not None)


def test_the_cost_of_the_list_does_not_depend_on_what_it_shows(client, django_assert_num_queries):
    with django_assert_num_queries(2):
        client.get("/")


def test_it_says_how_the_server_is(client):
    page = client.get("/").content.decode()
    assert [f"<strong>{name}</strong> <span>ok</span>" in page for name in health.CHECKS] == 4 * [True]


def test_what_is_down_is_said_and_the_page_works(client, settings):
    settings.FFMPEG_BINARY = "/nowhere/ffmpeg"
    answer = client.get("/")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "Problems" in page
    assert "FFmpeg was not found" in page
    assert "session-list" in page


def test_a_name_is_shown_and_not_run(client):
    session = make_session(name="<script>alert(1)</script>")
    page = client.get(f"/sessions/{session.pk}").content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in page


@pytest.mark.parametrize("path", ["/", "/projects", "/projects/1", "/sessions/123e4567-e89b-42d3-a456-426614174000"])
def test_a_database_that_is_away_is_said_on_the_page(client, monkeypatch, path):
    def away(*args):
        raise DownError("The database does not answer.")

    monkeypatch.setitem(health.CHECKS, "database", away)
    answer = client.get(path)
    assert answer.status_code == 503
    assert "Acknowledged audio is safe" in answer.content.decode()


def test_a_database_that_goes_away_after_the_check_is_said_too(client, monkeypatch):
    def away(*args):
        raise OperationalError("away")

    monkeypatch.setattr(access, "projects_of", away)
    answer = client.get("/")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.content.decode()


def test_an_address_without_a_page(client):
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert "This server has no page at this address." in answer.content.decode()


@pytest.mark.parametrize("path", ["/", "/projects", "/projects/1", "/sessions/123e4567-e89b-42d3-a456-426614174000"])
def test_a_stranger_is_sent_to_the_login_and_back(client, asks, path):
    answer = client.get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/login?next={path}")
    assert client.post(path).status_code == 405


@pytest.mark.parametrize("role", Role.values)
def test_a_page_tells_its_scripts_what_the_reader_may_do(asks, clinic, role):
    reader = person(role, role, clinic)
    told = for_scripts(reader.client.get("/").content.decode())
    scopes = {"viewer": ["read"], "recorder": ["read", "record"], "manager": ["read", "record", "manage"]}
    assert told["projects"] == [{"id": clinic.pk, "name": "clinic", "scopes": scopes[role]}]
    assert (told["person"], told["everywhere"]) == (role, [])
    page = reader.client.get("/").content.decode()
    assert ('href="/record"' in page) == (role != "viewer")
    assert ('href="/projects"' in page) == (role == "manager")
    assert ('href="/admin/"' in page) == (role == "manager")
    assert 'href="/metrics"' not in page
    assert "Log out" in page


def test_a_session_of_another_project_does_not_exist(asks, clinic):
    mine, other = make_session(project=clinic), make_session()
    reader = person("viewer", Role.VIEWER, clinic)
    assert reader.client.get(f"/sessions/{mine.pk}").status_code == 200
    for session_id in (other.pk, uuid4(), "1", "x" * 36):
        assert reader.client.get(f"/sessions/{session_id}").status_code == 404


def test_the_settings_are_for_managers(asks, clinic):
    manager, recorder = person("manager", Role.MANAGER, clinic), person("recorder", Role.RECORDER, clinic)
    assert manager.client.get("/projects")["Location"] == f"/projects/{clinic.pk}"
    page = manager.client.get(f"/projects/{clinic.pk}")
    assert page.status_code == 200
    assert for_scripts(page.content.decode())["is_staff"] is False
    answer = recorder.client.get(f"/projects/{clinic.pk}")
    assert answer.status_code == 403
    assert "Only managers may see the settings of clinic" in answer.content.decode()
    assert "You manage no project" in recorder.client.get("/projects").content.decode()
    for project_id in ("1", "9" * 30, "x", "-1"):
        assert manager.client.get(f"/projects/{project_id}").status_code == 404


def test_staff_choose_among_the_projects(asks, clinic):
    page = person("staff", is_staff=True).client.get("/projects").content.decode()
    assert f'href="/projects/{clinic.pk}"' in page and 'href="/projects/1"' in page
