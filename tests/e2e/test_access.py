"""The pages for everybody: axe-core finds nothing serious, they fit the screen, and they follow the dark theme."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from audio.media import ffmpeg
from tests.client import Rest
from tests.e2e.install import axe
from tests.e2e.screenshots import RUN_AXE
from tests.server import Server
from tests.services import REPOSITORY
from tests.test_settings import run

PASSWORD = "a-long-password"
SESSION = "/admin/audio/audiosession/{}/change/"
LISTS = [
    *("audiosession", "recording", "audiochunk", "audiosource", "backgroundtask"),
    *("project", "apikey", "sessiontoken", "auditentry"),
]
# What a page shows once its scripts have run.
PAGES = {
    "/": "text=Running",
    "/docs": ".opblock",
    "/redoc": ".menu-content",
    "/api/asyncapi": "text=Close codes",
    "/api/audio/sessions": ".request-info",
    "/login": "text=Password",
    "/admin/": "text=What is stored",
    SESSION: "audio",
    **{f"/admin/audio/{name}/": "#result_list, .paginator" for name in LISTS},
    "/admin/admin/logentry/": ".paginator",
    "/admin/audio/project/1/change/": "text=Max open sessions",
    "/admin/audio/apikey/add/": "text=Scopes",
}
WIDTHS = [360, 768, 1024, 1280, 1600]


@pytest.fixture(scope="module")
def session_id(server: Server, rest: Rest) -> str:
    """The id of a session with a recording, on a server that an operator has an account on."""
    command = ["manage.py", "createsuperuser", "--no-input", "--username", "op", "--email", "o@example.org"]
    environment = server.environment | {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    program = (
        "import asyncio, sys; from tests.client import recorder\n"
        "async def go():\n"
        "    async with recorder(sys.argv[1], source='s', user_id='somebody') as client:\n"
        "        await client.store(bytes(32000), bytes(32000)); await client.close_session()\n"
        "    print(client.session_id)\n"
        "asyncio.run(go())"
    )
    code, said, complaint = run(server, "-c", program, server.ws_url)
    assert code == 0, complaint
    rest.finished(said.strip())
    return said.strip()


@pytest.fixture
def make_page(browser: Browser, server: Server, session_id: str) -> Iterator[object]:
    """Makes the page of an operator who is logged in: `make_page(color_scheme="dark")`."""
    contexts = []

    def make(is_logged_in: bool = True, **options) -> Page:
        context = browser.new_context(base_url=server.url, bypass_csp=True, **options)
        contexts.append(context)
        page = context.new_page()
        if is_logged_in:
            page.goto("/login?next=/health")
            page.fill("#id_username", "op")
            page.fill("#id_password", PASSWORD)
            page.click("[type=submit]")
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(make_page, session_id, path, scheme):
    page = make_page(path != "/login", color_scheme=scheme)
    page.goto(path.format(session_id))
    page.wait_for_selector(PAGES[path], state="attached")
    page.add_script_tag(path=axe(Path(sys.prefix) / "axe"))
    assert page.evaluate(RUN_AXE) == []
    assert page.title()
    assert page.get_attribute("html", "lang") in ("en", "en-us")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_follows_the_dark_theme(make_page, session_id, tmp_path, path):
    shades = {}
    for scheme in ("light", "dark"):
        page = make_page(path != "/login", color_scheme=scheme)
        page.goto(path.format(session_id))
        page.wait_for_selector(PAGES[path], state="attached")
        page.screenshot(path=tmp_path / "shot.png")
        shades[scheme] = brightness(tmp_path / "shot.png")
    assert shades["dark"] < 100 < 160 < shades["light"]


def brightness(picture: Path) -> int:
    """The mean of a picture, from 0 to 255."""
    command = [str(ffmpeg.find()), "-v", "error", "-i", str(picture), "-vf", "scale=1:1:flags=area", "-pix_fmt", "gray"]
    return subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout[0]


def test_the_player_has_a_width_on_every_screen(make_page, session_id):
    page = make_page()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(SESSION.format(session_id))
        for element in ("audio", "img.waveform"):
            box = page.locator(element).bounding_box()
            assert box["width"] >= 200 and box["x"] + box["width"] <= width, (element, width, box)
    page.evaluate("document.querySelector('audio').play()")
    page.wait_for_function("document.querySelector('audio').currentTime > 0")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", LISTS)
def test_a_list_fits_the_screen(make_page, name, width):
    page = make_page(viewport={"width": width, "height": 900})
    page.goto(f"/admin/audio/{name}/")
    page.wait_for_selector(".paginator", state="attached")
    found = page.evaluate("""() => [
        document.documentElement.scrollWidth - innerWidth,
        ...[...document.querySelectorAll('.results')].map((each) => each.scrollWidth - each.clientWidth),
    ]""")
    assert max(found) <= 0, found
    if page.query_selector("#result_list"):
        assert page.locator("#result_list tbody tr").first.locator("td:visible, th:visible").count() >= 3
