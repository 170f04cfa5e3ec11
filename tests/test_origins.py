"""Which origins may use the API, and what their pages are told (CORS)."""

import subprocess
import sys

import pytest

from sercuescribe import origins
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
