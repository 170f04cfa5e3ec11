"""The OpenAPI document and the pages that show it."""

import re
from html.parser import HTMLParser

import pytest
from django.core.management import call_command

HERE = re.compile(r"^(/(?!/)|data:|#|blob:)")


class Addresses(HTMLParser):
    """Collects what a page asks for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "link", "img", "iframe", "redoc"):
            self.found += [given[name] for name in ("src", "href", "spec-url") if given.get(name)]


def asked_for(page):
    addresses = Addresses()
    addresses.feed(page)
    return addresses.found


def test_the_document_is_valid_and_made_without_a_warning(tmp_path):
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yml"))
    paths = re.findall(r"^  (/\S*):$", (tmp_path / "schema.yml").read_text(), re.MULTILINE)
    assert paths == [
        "/api/audio/sessions",
        "/api/audio/sessions/{session_id}",
        "/api/audio/sessions/{session_id}/audio",
        "/api/audio/sessions/{session_id}/chunks",
        "/api/audio/sessions/{session_id}/chunks/{sequence}",
        "/api/audio/sessions/{session_id}/close",
        "/api/audio/sessions/{session_id}/waveform",
        "/api/tasks",
        "/api/tasks/{task_id}",
        "/health",
        "/health/ready",
    ]


def test_the_document_names_every_status_of_a_download(client):
    document = client.get("/api/schema", headers={"accept": "application/vnd.oai.openapi+json"}).json()
    responses = document["paths"]["/api/audio/sessions/{session_id}/audio"]["get"]["responses"]
    assert set(responses) == {"200", "202", "206", "304", "400", "404", "409", "412", "416", "503"}
    assert "audio/wav" in responses["206"]["content"]


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/redoc", "/redoc/"])
def test_the_pages_ask_for_nothing_from_elsewhere(client, path):
    answer = client.get(path)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert len(asked_for(page)) >= 2
    assert [address for address in asked_for(page) if not HERE.match(address)] == []
    assert "http" not in page
    assert "default-src 'self'" in answer["Content-Security-Policy"]
    assert not re.search(r"<script>", page)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/api/audio/sessions", "/admin/login/", "/"])
@pytest.mark.django_db
def test_what_the_pages_ask_for_is_there(client, path):
    page = client.get(path, headers={"accept": "text/html"}).content.decode()
    for address in asked_for(page):
        if HERE.match(address) and not address.startswith(("data:", "#")):
            answer = client.get(address)
            assert answer.status_code == 200, address
            answer.close()
