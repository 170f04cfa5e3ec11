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
        "/api/audio/sessions/{session_id}/markers",
        "/api/audio/sessions/{session_id}/markers/{marker_id}",
        "/api/audio/sessions/{session_id}/tokens",
        "/api/audio/sessions/{session_id}/tokens/{token_id}",
        "/api/audio/sessions/{session_id}/waveform",
        "/api/events",
        "/api/keys",
        "/api/keys/{key_id}",
        "/api/projects",
        "/api/projects/{project_id}",
        "/api/projects/{project_id}/members",
        "/api/projects/{project_id}/members/{member_id}",
        "/api/tasks",
        "/api/tasks/{task_id}",
        "/api/webhooks",
        "/api/webhooks/{webhook_id}",
        "/api/webhooks/{webhook_id}/deliveries",
        "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
        "/api/webhooks/{webhook_id}/rotate",
        "/api/webhooks/{webhook_id}/test",
        "/health",
        "/health/ready",
        "/metrics",
    ]


def test_the_document_names_every_status_of_a_download(client):
    document = client.get("/api/schema", headers={"accept": "application/vnd.oai.openapi+json"}).json()
    responses = document["paths"]["/api/audio/sessions/{session_id}/audio"]["get"]["responses"]
    served = {"200", "202", "206", "304"}
    assert set(responses) == {*served, "400", "401", "403", "404", "409", "412", "416", "429", "503"}
    assert "audio/wav" in responses["206"]["content"]


PAGES = ["/", "/docs", "/docs/", "/redoc", "/redoc/", "/api/asyncapi", "/api/audio/sessions", "/login"]
FOREIGN_STYLE = re.compile(rb"(?:@import|url\()\s*[\"']?(?:https?:)?//")


def page_at(client, path):
    answer = client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/html")
    return answer


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.django_db
def test_the_pages_ask_for_nothing_from_elsewhere(client, path):
    """Scripts are held by the policy: a browser sends nothing that it forbids."""
    answer = page_at(client, path)
    page = answer.content.decode()
    assert asked_for(page)
    assert [address for address in asked_for(page) if not HERE.match(address)] == []
    policy = dict(part.split(" ", 1) for part in answer["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["form-action"] == "'self'"
    assert not any("://" in sources or "*" in sources.split() for sources in policy.values())
    assert not re.search(r"<script>", page)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_of_the_document_name_no_other_host(client, path):
    assert "http" not in page_at(client, path).content.decode()


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.django_db
def test_what_the_pages_ask_for_is_there_and_asks_for_nothing_from_elsewhere(client, path):
    for address in asked_for(page_at(client, path).content.decode()):
        if not address.startswith(("data:", "#")):
            answer = client.get(address)
            assert answer.status_code == 200, address
            content = b"".join(answer.streaming_content) if answer.streaming else answer.content
            if address.endswith(".css"):
                assert not FOREIGN_STYLE.search(content), address
            answer.close()


# The end of any request looks after the connections to the database that its thread has.
@pytest.mark.django_db
def test_browsers_find_an_icon(client):
    answer = client.get("/favicon.ico", follow=True)
    assert (answer.status_code, answer["Content-Type"]) == (200, "image/svg+xml")
    answer.close()
