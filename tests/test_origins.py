"""Which origins may use the API, and what their pages are told (CORS)."""

import subprocess
import sys

import pytest

from audio.models import AudioSession, Project
from sercuescribe import origins
from tests.access.people import with_key
from tests.api.rows import make_session
from tests.services import REPOSITORY

PREFLIGHT = {"HTTP_ACCESS_CONTROL_REQUEST_METHOD": "DELETE"}
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        (LOOPBACK, "http://localhost", True),
        (LOOPBACK, "https://localhost:8443", True),
        (LOOPBACK, "http://127.0.0.1:3000", True),
        (LOOPBACK, "http://[::1]:3000", True),
        (LOOPBACK, "http://elsewhere.localhost:3000", False),
        (LOOPBACK, "http://localhost.example.org", False),
        (LOOPBACK, "http://127.0.0.1.example.org", False),
        (LOOPBACK, "http://127.0.0.2", False),
        (LOOPBACK, "null", False),
        (LOOPBACK, "", False),
        (LOOPBACK, "http://localhost:0", False),
        (LOOPBACK, "http://localhost:none", False),
        (LOOPBACK, "http://[::1", False),
        (["https://example.org"], "https://example.org", True),
        (["https://example.org"], "https://example.org:443", True),
        (["https://example.org"], "http://example.org", False),
        (["https://example.org"], "https://example.org:8443", False),
        (["https://example.org"], "https://a.example.org", False),
        (["https://.example.org"], "https://a.example.org", True),
        (["*"], "null", True),
    ],
)
def test_an_origin(settings, allowed, origin, expected):
    settings.ALLOWED_ORIGINS = allowed
    assert origins.allows(origin) is expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, LOOPBACK),
        ({"REQUIRE_AUTH": "true"}, ["*"]),
        ({"HOST": "0.0.0.0"}, ["*"]),
        ({"PUBLIC_URL": "https://example.org"}, ["*"]),
        ({"ALLOWED_HOSTS": "example.org"}, ["*"]),
        ({"HOST": "0.0.0.0", "REQUIRE_AUTH": "false"}, LOOPBACK),
        ({"REQUIRE_AUTH": "true", "ALLOWED_ORIGINS": "https://example.org"}, ["https://example.org"]),
        ({"ALLOWED_ORIGINS": "*"}, ["*"]),
    ],
)
def test_the_default(variables, expected):
    """Where nobody has to show who they are, pages of other machines may not use what a developer's browser reaches."""
    program = "from sercuescribe import settings; print(settings.ALLOWED_ORIGINS, settings.CORS_ALLOW_ALL_ORIGINS)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{expected} {'*' in expected}"


def preflight(client, path, origin="http://localhost:3000"):
    return client.options(path, HTTP_ORIGIN=origin, **PREFLIGHT)


def test_a_preflight_is_answered_without_an_identity_and_may_be_kept(client, settings):
    settings.REQUIRE_AUTH = True
    answer = preflight(client, "/api/audio/sessions/none")
    assert answer.status_code == 200
    assert answer["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "DELETE" in answer["Access-Control-Allow-Methods"]
    assert {"authorization", "content-type", "range", "if-match"} <= set(
        answer["Access-Control-Allow-Headers"].split(", ")
    )
    assert answer["Access-Control-Max-Age"] == "7200"
    assert "Access-Control-Allow-Credentials" not in answer


def test_a_response_says_which_headers_a_page_may_read(client):
    answer = client.get("/api/none", HTTP_ORIGIN="http://localhost:3000")
    assert answer.status_code == 404
    exposed = answer["Access-Control-Expose-Headers"].split(", ")
    assert {"content-range", "content-length", "content-disposition", "etag", "retry-after", "location"} <= set(exposed)
    assert "origin" in answer["Vary"].lower()


@pytest.mark.parametrize("path", ["/login", "/admin/login/", "/metrics", "/none", "/apis"])
def test_pages_for_people_are_for_this_origin_alone(client, path):
    assert "Access-Control-Allow-Origin" not in preflight(client, path)


def test_a_page_that_is_not_allowed_is_told_nothing(client):
    assert "Access-Control-Allow-Origin" not in preflight(client, "/api/none", "https://elsewhere.example")


def test_all_origins_are_allowed_without_cookies(client, settings):
    settings.ALLOWED_ORIGINS, settings.CORS_ALLOW_ALL_ORIGINS = ["*"], True
    answer = preflight(client, "/api/none", "https://elsewhere.example")
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer


def test_a_host_that_is_not_served_is_served_to_no_page(client):
    answer = client.options("/api/none", HTTP_ORIGIN="http://localhost", HTTP_HOST="rebound.example", **PREFLIGHT)
    assert answer.status_code == 400
    assert "Access-Control-Allow-Origin" not in answer


FOREIGN = [
    {"HTTP_ORIGIN": "https://elsewhere.example"},
    {"HTTP_ORIGIN": "null"},
    {"HTTP_ORIGIN": "http://testserver.elsewhere.example"},
    {"HTTP_ORIGIN": "http://testserver:8001"},
    {"HTTP_SEC_FETCH_SITE": "cross-site"},
]
OWN: list[dict[str, str]] = [
    {},
    {"HTTP_ORIGIN": "http://testserver"},
    {"HTTP_ORIGIN": "http://localhost:3000"},
    {"HTTP_SEC_FETCH_SITE": "same-origin"},
]
SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]


@pytest.mark.django_db
@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("content_type", SIMPLE)
def test_a_page_of_another_site_changes_nothing_where_nobody_is_asked(client, settings, headers, content_type):
    """Browsers send such requests without asking first, from any page that somebody opens beside the server."""
    settings.REQUIRE_AUTH = False
    session = make_session()
    for path in ("/api/audio/sessions", f"/api/audio/sessions/{session.pk}/close", "/api/keys"):
        answer = client.generic("POST", path, "", content_type, **headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert client.generic("DELETE", f"/api/audio/sessions/{session.pk}", **headers).status_code == 403
    assert list(AudioSession.objects.values_list("pk", "status")) == [(session.pk, "active")]


@pytest.mark.django_db
@pytest.mark.parametrize("headers", OWN)
def test_programs_and_the_own_pages_change_what_they_like_where_nobody_is_asked(client, settings, headers):
    settings.REQUIRE_AUTH = False
    answer = client.generic("POST", "/api/audio/sessions", "", "application/json", **headers)
    assert answer.status_code == 201
    assert client.get("/api/audio/sessions", **FOREIGN[0]).status_code == 200


@pytest.mark.django_db
def test_the_public_address_is_an_own_origin(client, settings):
    settings.REQUIRE_AUTH, settings.CSRF_TRUSTED_ORIGINS = False, ["https://scribe.example"]
    answer = client.generic("POST", "/api/audio/sessions", "", HTTP_ORIGIN="https://scribe.example")
    assert answer.status_code == 201


@pytest.mark.django_db
def test_a_key_of_another_site_is_a_key(client, settings):
    settings.REQUIRE_AUTH = True
    key = with_key("record", project=Project.objects.create(name="clinic")).headers
    answer = client.generic("POST", "/api/audio/sessions", headers=key | {"Origin": "https://elsewhere.example"})
    assert answer.status_code == 201
