"""The documentation site in a browser, under the server's own Content-Security-Policy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.docs.site import build
from tests.e2e.install import axe
from tests.e2e.test_access import RUN_AXE
from tests.server import DEADLINE_SECONDS, Server

DEADLINE_MS = 1000 * DEADLINE_SECONDS
# Theme pages of every kind: a diagram, long tables, code.
PAGES = ["/guide/", "/guide/architecture/", "/guide/protocol/", "/guide/tutorials/page/"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has found the site when it started."""
    build()
    with Server(tmp_path_factory.mktemp("guide") / "data") as running:
        yield running


@pytest.fixture
def context(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=server.url) as context:
        context.set_default_timeout(DEADLINE_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Iterator[Page]:
    """A page; at the end nothing was blocked, and no other host was asked for anything."""
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert problems == []
    assert [url for url in asked if not url.startswith((server.url, "blob:", "data:"))] == []


def test_the_search_finds_a_word(page: Page):
    page.goto("/guide/")
    page.fill("input.md-search__input", "flock")
    page.wait_for_selector(".md-search-result__link")
    page.click(".md-search-result__link >> nth=0")
    page.wait_for_url("**/guide/*/**")
    assert "flock" in page.inner_text("article")


def test_diagrams_are_drawn(page: Page):
    page.goto("/guide/architecture/")
    page.wait_for_function("document.querySelectorAll('div.mermaid').length >= 5")
    page.wait_for_function("document.querySelectorAll('pre.mermaid').length === 0")
    for box in [diagram.bounding_box() for diagram in page.query_selector_all("div.mermaid")]:
        assert box is not None and box["height"] > 50 and box["width"] > 200


def test_the_chosen_theme_stays(page: Page):
    page.goto("/guide/")
    page.click("label[title='Use the dark theme']")
    page.goto("/guide/protocol/")
    assert page.get_attribute("body", "data-md-color-scheme") == "slate"


def test_a_page_fits_a_phone(page: Page):
    page.set_viewport_size({"width": 360, "height": 800})
    for path in PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, server: Server, scheme):
    with browser.new_context(base_url=server.url, bypass_csp=True, color_scheme=scheme) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(path)
            page.add_script_tag(path=axe(Path(sys.prefix) / "axe"))
            assert page.evaluate(RUN_AXE) == [], path
