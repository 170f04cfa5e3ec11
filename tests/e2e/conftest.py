"""Chromium, driven by Playwright, with a known sound as its microphone; and one server for all tests here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.client import Rest
from tests.e2e.install import FONTS, LIBRARIES
from tests.e2e.sound import SOUND, SOUND_HZ
from tests.e2e.studio import Studio
from tests.server import Server, free_port
from tests.sound import wav_bytes

FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a port of its own, which it has again after a restart."""
    with Server(tmp_path_factory.mktemp("e2e") / "data", PORT=str(free_port())) as running:
        yield running
        sys.stdout.write(running.read_log())


@pytest.fixture(scope="package")
def rest(server: Server) -> Rest:
    return Rest(server.url)


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium: the one at CHROMIUM, else what `make test` has put beside the tests' Python."""
    program = Path(os.environ.get("CHROMIUM") or Path(sys.prefix) / "chromium" / "chromium")
    assert program.exists(), f"no browser at {program}: `make test` fetches one, CHROMIUM=PATH names another"
    microphone = tmp_path_factory.mktemp("microphone") / "sound.wav"
    microphone.write_bytes(wav_bytes(SOUND, SOUND_HZ))
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=flags, env=_environment(program.parent))
        yield running
        running.close()


def _environment(folder: Path) -> dict[str, str | float | bool]:
    """The environment of a browser in `folder`; one that we have fetched brings its libraries and fonts along."""
    libraries, fonts = folder / LIBRARIES / "lib", folder / FONTS / "fonts.conf"
    fetched = {"LD_LIBRARY_PATH": str(libraries), "FONTCONFIG_FILE": str(fonts)} if fonts.exists() else {}
    return {**os.environ, **fetched}


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """An empty page that may use the microphone."""
    with browser.new_context(base_url=server.url, permissions=["microphone"]) as context:
        yield context.new_page()


@pytest.fixture
def complaints(page):
    """What the browser finds wrong: in scripts, by the policy, and requests that fail or are answered with an error."""
    found = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("requestfailed", lambda request: found.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda answer: found.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None)
    return found


@pytest.fixture
def hosts(page):
    """The hosts that the browser has asked."""
    asked = set()
    page.on("response", lambda answer: asked.add(urlsplit(answer.url).netloc))
    return asked


@pytest.fixture
def studio(page: Page) -> Studio:
    """A page of the server's own origin that records and plays."""
    return Studio(page)
