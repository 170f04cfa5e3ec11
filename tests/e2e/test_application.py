"""The application in examples/: its page is of another origin than the server, and has a token and no key."""

import os
import selectors
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.client import Rest
from tests.docs.text import EXAMPLES
from tests.server import DEADLINE_SECONDS, Server, eventually, free_port

DEADLINE_MS = 1000 * DEADLINE_SECONDS


@pytest.fixture
def server(make_server) -> Server:
    """A server that asks who is there, on a port that it has again after a restart."""
    server = make_server(PORT=str(free_port()), REQUIRE_AUTH="true", DISCONNECT_GRACE_SECONDS="600")
    server.start()
    return server


@pytest.fixture
def key(server: Server) -> str:
    return server.manage("apikey", "create", "my-app", "--scope", "record", "--scope", "read").strip()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "backend.log"


@pytest.fixture
def backend(server: Server, key: str, log) -> Iterator[str]:
    """The URL of the back end, which runs as its page says."""
    environment = os.environ | {"SERCUESCRIBE_API_KEY": key, "SERCUESCRIBE_URL": server.url}
    command = [sys.executable, str(EXAMPLES / "backend.py"), "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(DEADLINE_SECONDS)
            yield process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def chunks_of(rest: Rest) -> int:
    """The chunks of the only session."""
    (session,) = rest.http.get("/api/audio/sessions").json()["results"]
    return int(session["total_chunks"])


def test_a_page_records_with_its_token_and_reconnects_by_itself(browser: Browser, server, backend, key, log):
    rest = Rest(server.url)
    rest.http.headers["Authorization"] = f"Bearer {key}"
    with browser.new_context(base_url=backend, permissions=["microphone"]) as context:
        page = context.new_page()
        page.goto("/")
        page.click("#record")
        page.wait_for_selector("text=Recording.")
        eventually(lambda: chunks_of(rest) >= 4)
        asked = log.read_text().count("POST")
        server.kill_all()
        server.restart()
        before = chunks_of(rest)
        eventually(lambda: chunks_of(rest) >= before + 4)
        assert log.read_text().count("POST") == asked == 1
        page.click("#stop")
        page.wait_for_selector("text=Saved.", timeout=DEADLINE_MS)
        page.wait_for_function("player.readyState >= 1", timeout=DEADLINE_MS)
        assert page.evaluate("player.duration") > 1
        url = page.evaluate("player.src")
        assert key not in page.content()
    assert url.startswith(f"{server.url}/api/audio/sessions/")
    assert "token=scribe_token_" in url
