"""A page of another origin, in a real browser: it creates a session, records, listens with seeking, and downloads."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page

from tests.server import Server

SAMPLE_RATE_HZ = 8000
SECONDS = 4
# A page asks for everything that an application's page needs; what it may not read is null or an error.
RECORD = """async ([server, bytes, rate]) => {
    const created = await fetch(`${server}/api/audio/sessions`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Authorization": "" },
        body: JSON.stringify({ sample_rate: rate, channels: 1, format: "wav" }),
    });
    const session = await created.json();
    const socket = new WebSocket(`${server.replace("http", "ws")}/api/ws/audio/${session.session_id}`);
    socket.binaryType = "arraybuffer";
    const message = () => new Promise((resolve, reject) => {
        socket.onmessage = ({ data }) => resolve(JSON.parse(data));
        socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
    });
    await message();
    socket.send(new Int16Array(bytes / 2).map((_, index) => 8000 * Math.sin(index / 4)));
    const acknowledged = await message();
    socket.send(JSON.stringify({ type: "control", action: "close_session" }));
    await message();
    return { status: created.status, session_id: session.session_id, acknowledged };
}"""
LISTEN = """async (url) => {
    const event = (target, name) => new Promise((resolve, reject) => {
        target.addEventListener(name, resolve, { once: true });
        target.addEventListener("error", () => reject(new Error(target.error?.message ?? name)), { once: true });
    });
    const audio = new Audio();
    audio.crossOrigin = "anonymous";
    audio.src = url;
    await event(audio, "loadedmetadata");
    audio.currentTime = audio.duration / 2;
    await event(audio, "seeked");
    await audio.play();
    audio.currentTime = audio.duration - 0.3;
    await event(audio, "ended");
    // Only audio that the page may read is heard in its graph.
    const decoded = await new OfflineAudioContext(1, 1, 44100).decodeAudioData(await (await fetch(url)).arrayBuffer());
    return { duration: audio.duration, decoded: decoded.duration };
}"""
FETCH = """async ([url, options]) => {
    const names = ["content-range", "content-length", "content-disposition", "etag", "accept-ranges", "retry-after"];
    const answer = await fetch(url, options);
    const body = await answer.arrayBuffer();
    return {
        status: answer.status,
        size: body.byteLength,
        text: new TextDecoder().decode(body.slice(0, 300)),
        ...Object.fromEntries(names.map((name) => [name, answer.headers.get(name)])),
    };
}"""
CONNECT = """(url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onmessage = () => resolve("open");
    socket.onclose = ({ code }) => resolve(code);
})"""


class Blank(BaseHTTPRequestHandler):
    """A page of an application that has a server of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>An application</title>")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def application() -> Iterator[int]:
    """The port of the application's server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def make_page(browser: Browser, application: int) -> Iterator[object]:
    """Make a page of an origin: `make_page("localhost")`. Chromium knows that *.localhost is this machine."""
    contexts = []

    def make(host: str) -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.goto(f"http://{host}:{application}/")
        return page

    yield make
    for context in contexts:
        context.close()


def test_a_page_of_another_origin_does_everything(make_page, server, rest):
    page = make_page("localhost")
    size_bytes = 2 * SAMPLE_RATE_HZ * SECONDS
    recorded = page.evaluate(RECORD, [server.url, size_bytes, SAMPLE_RATE_HZ])
    assert recorded["status"] == 201
    assert recorded["acknowledged"]["chunk_count"] == 1
    size = rest.finished(recorded["session_id"])["recording"]["size_bytes"]

    url = f"{server.url}/api/audio/sessions/{recorded['session_id']}/audio"
    assert page.evaluate(LISTEN, url) == pytest.approx({"duration": SECONDS, "decoded": SECONDS}, abs=0.05)
    part = page.evaluate(FETCH, [url, {"headers": {"Range": "bytes=44-143"}}])
    whole = page.evaluate(FETCH, [url, {}])
    assert (part["status"], part["size"], part["content-length"]) == (206, 100, "100")
    assert part["content-range"] == f"bytes 44-143/{size}"
    assert part["etag"] == whole["etag"] is not None
    assert (whole["status"], whole["size"], whole["content-length"]) == (200, size, str(size))
    assert ".wav" in whole["content-disposition"]
    again = page.evaluate(FETCH, [url, {"headers": {"If-None-Match": whole["etag"]}, "cache": "no-store"}])
    assert (again["status"], again["size"]) == (304, 0)
    # Each method asks the server first (a preflight).
    deleted = page.evaluate(FETCH, [url.removesuffix("/audio"), {"method": "DELETE"}])
    assert deleted["status"] in (202, 204)


def test_a_page_reads_why_something_failed(make_page, server):
    page = make_page("127.0.0.1")
    url = f"{server.url}/api/audio/sessions/00000000-0000-4000-8000-000000000000"
    answer = page.evaluate(FETCH, [url, {}])
    assert answer["status"] == 404
    assert "session_not_found" in answer["text"]


def test_no_cookie_crosses_origins(make_page, server):
    page = make_page("localhost")
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate(FETCH, [f"{server.url}/api/audio/sessions", {"credentials": "include"}])


def test_other_pages_may_read_nothing(make_page, server):
    """Such as any page on the internet, in the browser of somebody who runs a server on the same machine."""
    page = make_page("elsewhere.localhost")
    for path, options in (
        ("/api/audio/sessions", {}),
        ("/api/audio/sessions", {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": "{}"}),
        ("/health", {}),
        ("/", {}),
    ):
        with pytest.raises(Exception, match="Failed to fetch"):
            page.evaluate(FETCH, [f"{server.url}{path}", options])
    assert page.evaluate(CONNECT, f"{server.ws_url}/api/ws/audio") == 1006


def test_the_setting_names_the_pages(make_page, application, tmp_path):
    allowed = f"http://elsewhere.localhost:{application}"
    with Server(tmp_path / "data", ALLOWED_ORIGINS=allowed) as strict:
        page, other = make_page("elsewhere.localhost"), make_page("localhost")
        assert page.evaluate(FETCH, [f"{strict.url}/api/audio/sessions", {}])["status"] == 200
        assert page.evaluate(CONNECT, f"{strict.ws_url}/api/ws/audio") == "open"
        with pytest.raises(Exception, match="Failed to fetch"):
            other.evaluate(FETCH, [f"{strict.url}/api/audio/sessions", {}])
        assert other.evaluate(CONNECT, f"{strict.ws_url}/api/ws/audio") == 1006
