"""The pages in a browser: they work, nothing is refused by their own policy, and no other host is asked."""

from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

# What a page shows once its scripts have run.
PAGES = {
    "/": "text=Running",
    "/docs": ".opblock",
    "/redoc": ".menu-content",
    "/login": "text=Password",
    "/api/audio/sessions": ".request-info",
}


@pytest.fixture
def complaints(page):
    """What the browser finds wrong: in scripts, by the policy, and requests that fail or are answered with an error."""
    found = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("requestfailed", lambda request: found.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda answer: found.append(f"{answer.url}: {answer.status}") if not answer.ok else None)
    return found


@pytest.fixture
def hosts(page):
    """The hosts that the browser has asked."""
    asked = set()
    page.on("response", lambda answer: asked.add(urlsplit(answer.url).netloc))
    return asked


@pytest.mark.parametrize("path", PAGES)
def test_a_page_works_and_asks_nobody_else(page, server, complaints, hosts, path):
    page.goto(path)
    page.wait_for_selector(PAGES[path])
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert hosts - {""} == {urlsplit(server.url).netloc}


def test_a_request_is_tried_out_in_the_docs(page, complaints):
    page.goto("/docs")
    page.click("[data-path='/health/ready']")
    page.click("text=Try it out")
    page.click("text=Execute")
    page.wait_for_selector(".live-responses-table >> text=200")
    assert complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_list_fits_the_screen_whatever_clients_are_called(page, server, width):
    user_id = "long" * 25
    with connect(f"{server.ws_url}/api/ws/audio?user_id={user_id}") as socket:
        socket.recv()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    assert user_id in page.text_content(".table")
    too_wide = "name => { const box = document.querySelector(name); return box.scrollWidth - box.clientWidth; }"
    assert page.evaluate(too_wide, ".table") == 0
    assert page.evaluate(too_wide, "html") == 0
