"""The page that records and plays, under the server's own origin, as a test drives it."""

import base64
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route

FOLDER = Path(__file__).parent
PATH = "/studio/"
DEADLINE_MS = 60_000
CALL = """([name, deadline_ms, ...rest]) => Promise.race([
    studio[name](...rest),
    new Promise((_, reject) => setTimeout(() => reject(new Error(`${name} has not ended`)), deadline_ms)),
])"""


class Studio:
    """Drives studio.mjs; `page` is the browser's page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.route(f"**{PATH}*", _serve)
        # Only what really came from a loopback address may connect to one: the page is one of the server's.
        page.goto("/login")
        page.add_script_tag(url=f"{PATH}studio.mjs", type="module")
        page.wait_for_function("window.studio")

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method of the page's studio, waits for its promise, and returns what it gives."""
        return self.page.evaluate(CALL, [name, DEADLINE_MS, *arguments])

    def wait_for_messages(self, count: int) -> None:
        """Waits until the page has handed so many messages to its recorder."""
        self.page.wait_for_function("(count) => studio.sent.length >= count", arg=count, timeout=DEADLINE_MS)

    def messages(self) -> list[bytes]:
        """What the page has handed to its recorder so far, the empty ones too."""
        return [base64.b64decode(message) for message in self.call("messages")]


def _serve(route: Route) -> None:
    """Add our script to the server's origin."""
    name = route.request.url.rpartition("/")[2]
    route.fulfill(body=(FOLDER / name).read_text(), content_type="text/javascript")
