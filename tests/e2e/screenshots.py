"""Screenshots of pages, and what is wrong with them, at two widths and in both themes.

They are written to SCREENSHOTS, or to the folder `screenshots` of the virtual environment, for people to look at.
"""

import os
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, ViewportSize

from tests.e2e.install import axe

FOLDER = Path(os.environ.get("SCREENSHOTS") or Path(sys.prefix) / "screenshots")
SIZES: dict[str, ViewportSize] = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
RUN_AXE = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
    .filter((found) => ['serious', 'critical'].includes(found.impact))
    .map((found) => [found.id, found.nodes.map((node) => node.html.slice(0, 160) + ' ' + node.failureSummary)])"""
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Transitions are over, and pictures of the state before are gone.
SETTLED = (
    "() => Promise.all(document.getAnimations().filter((each) => each.effect.getTiming().iterations < 9)"
    ".map((each) => each.finished.catch(() => null)))"
)


def look(page: Page, name: str) -> None:
    """Take the screenshots of a state. Fail if axe finds something serious, or the page is wider than the screen."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.evaluate("(script) => window.axe ?? (0, eval)(script)", axe(Path(sys.prefix) / "axe").read_text())
    for size, shown in SIZES.items():
        page.set_viewport_size(shown)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.evaluate(SETTLED)
            page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png")
            found = page.evaluate(RUN_AXE)
            assert not found, f"{name}, {size}, {scheme}: {found}"
        assert page.evaluate(TOO_WIDE) <= 0, (name, size)
    page.set_viewport_size(SIZES["wide"])
    page.emulate_media(color_scheme="light")
