"""The JavaScript client as the server serves it: to whom, as what, and for how long browsers keep it."""

import pytest

from tests.services import REPOSITORY

SOURCES = sorted(path for path in (REPOSITORY / "clients" / "javascript" / "src").iterdir())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_is_served_as_it_is(client, path):
    answer = client.get(f"/client/{path.name}")
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    media_type = "text/javascript" if path.suffix == ".js" else "text/plain"
    assert answer["Content-Type"] == f"{media_type}; charset=utf-8"


def test_browsers_ask_again_and_are_told_that_nothing_changed(client):
    answer = client.get("/client/recorder.js")
    assert answer["Cache-Control"] == "public, no-cache"
    again = client.get("/client/recorder.js", HTTP_IF_NONE_MATCH=answer["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/client/client.js")["ETag"] != answer["ETag"]


def test_pages_of_allowed_origins_may_import_it(client, settings):
    settings.ALLOWED_ORIGINS = ["https://example.org"]
    allowed = client.get("/client/sercuescribe.js", HTTP_ORIGIN="https://example.org")
    assert allowed["Access-Control-Allow-Origin"] == "https://example.org"
    assert "origin" in allowed["Vary"]
    other = client.get("/client/sercuescribe.js", HTTP_ORIGIN="https://elsewhere.example")
    assert "Access-Control-Allow-Origin" not in other


def test_nobody_is_asked_who_they_are(client, settings):
    settings.REQUIRE_AUTH = True
    assert client.get("/client/sercuescribe.js").status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..", "../package.json", "%2e%2e%2fpackage.json", "sercuescribe"])
def test_nothing_else_is_served(client, name):
    assert client.get(f"/client/{name}").status_code == 404


def test_it_is_only_read(client):
    assert client.post("/client/sercuescribe.js").status_code == 405
