"""The page that records: a person presses Record, and nothing of what they say is lost."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.client import Rest
from tests.clients.gate import gate
from tests.e2e.install import axe
from tests.e2e.sound import CLEAR, SOUND_HZ, correlations
from tests.server import DEADLINE_SECONDS, Server, eventually, free_port
from tests.sound import samples_of, speech, wav_bytes

DEADLINE_MS = 1000 * DEADLINE_SECONDS
expect.set_options(timeout=DEADLINE_MS)
# The microphones that the page opens, and whether there are any.
WATCH_DEVICES = """() => {
    const { mediaDevices } = navigator;
    const open = mediaDevices.getUserMedia.bind(mediaDevices);
    window.hasDevices = true;
    mediaDevices.getUserMedia = async (options) => {
        if (!hasDevices) throw new DOMException("Requested device not found", "NotFoundError");
        const [track] = (window.stream = await open(options)).getAudioTracks();
        window.disconnect = () => {
            track.stop();
            track.dispatchEvent(new Event("ended"));
        };
        return stream;
    };
}"""
RUN_AXE = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
    .map((found) => [found.id, found.nodes.map((node) => node.html.slice(0, 120) + ' ' + node.failureSummary)])"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("record") / "data"
    with Server(folder, PORT=str(free_port()), DISCONNECT_GRACE_SECONDS="600") as running:
        yield running


@pytest.fixture(scope="module")
def rest(server: Server) -> Rest:
    return Rest(server.url)


@pytest.fixture
def complaints() -> list[str]:
    """What the browser finds wrong, in scripts or by the policy."""
    return []


@pytest.fixture
def page(browser: Browser, server: Server, complaints: list[str]) -> Iterator[Page]:
    with browser.new_context(base_url=server.url, permissions=["microphone"]) as context:
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto("/record")
        yield page


def newest(rest: Rest) -> dict:
    return rest.http.get("/api/audio/sessions").json()["results"][0]


def clock(page: Page) -> int:
    minutes, seconds = page.text_content(".timer").split(":")
    return 60 * int(minutes) + int(seconds)


def record_for(page: Page, seconds: int) -> None:
    before = clock(page)
    eventually(lambda: clock(page) >= before + seconds)


def assert_sounds(rest: Rest, session_id: str, folder: Path, channels: int = 1, joints: int = 0) -> None:
    """Assert that a recording is of the sound. A half-second in which a microphone follows another one is not."""
    path = folder / "recording.wav"
    path.write_bytes(rest.download(session_id))
    found = correlations(path, channels=channels)
    assert found and sum(each > CLEAR for each in found) >= len(found) - 1 - joints, found


def test_one_click_records_and_another_saves(page, rest, tmp_path, complaints):
    page.get_by_role("button", name="Record").click()
    expect(page.locator(".state")).to_have_text("Recording.")
    record_for(page, 1)
    page.fill(".name", "Interview with Ana")
    page.keyboard.press("Tab")
    page.fill(".mark input", "Question 1")
    page.click("text=Mark this moment")
    record_for(page, 2)
    page.click(".stop")
    expect(page.locator(".state")).to_have_text("Saved.")
    session = newest(rest)
    assert (session["name"], session["status"]) == ("Interview with Ana", "completed")
    (marker,) = rest.http.get(f"/api/audio/sessions/{session['session_id']}/markers").json()["results"]
    assert marker["label"] == "Question 1" and 1 <= marker["position_seconds"] < session["duration_seconds"]
    assert session["session_id"] in page.get_attribute(".result a", "href")
    assert_sounds(rest, session["session_id"], tmp_path)
    assert complaints == []


def test_it_is_used_with_the_keyboard_alone(page, rest):
    page.keyboard.press("s")
    expect(page.locator(".state")).to_have_text("Recording.")
    record_for(page, 1)
    page.keyboard.press("p")
    expect(page.locator(".state")).to_have_text("Paused.")
    eventually(lambda: newest(rest)["status"] == "paused")
    before = clock(page)
    page.keyboard.press("m")
    page.keyboard.type("Here")
    page.keyboard.press("Enter")
    expect(page.locator(".markers li")).to_have_count(1)
    assert clock(page) == before
    page.locator(".stop").focus()
    page.keyboard.press("p")
    expect(page.locator(".state")).to_have_text("Recording.")
    record_for(page, 1)
    page.keyboard.press("s")
    expect(page.locator(".state")).to_have_text("Saved.")


def test_a_lost_network_is_told_and_caught_up(page, server, rest, tmp_path):
    with gate(server.url) as network:
        page.goto(f"{network.url}/record")
        page.click(".start")
        expect(page.locator(".state")).to_have_text("Recording.")
        record_for(page, 1)
        network.close()
        expect(page.locator(".state")).to_contain_text("The network is away. Recording continues")
        expect(page.locator(".kept")).to_have_text(
            re.compile("^Waiting for the network: ([3-9]|[1-9][0-9]) s kept here$")
        )
        network.open()
        expect(page.locator(".state")).to_have_text("Recording.")
        expect(page.locator(".kept")).to_be_hidden()
        page.click(".stop")
        expect(page.locator(".state")).to_have_text("Saved.")
    assert_sounds(rest, newest(rest)["session_id"], tmp_path)


def test_a_reload_goes_on_by_itself(page, rest):
    page.click(".start")
    expect(page.locator(".state")).to_have_text("Recording.")
    record_for(page, 1)
    session_id = newest(rest)["session_id"]
    page.reload()
    expect(page.locator(".state")).to_have_text("Recording.")
    record_for(page, 1)
    page.click(".stop")
    expect(page.locator(".state")).to_have_text("Saved.")
    session = newest(rest)
    assert session["session_id"] == session_id
    # A tenth of a second may be lost with the page.
    assert session["duration_seconds"] > 1.8
    expect(page.locator("scribe-leftovers")).to_be_hidden()


def test_what_a_closed_tab_left_is_offered_and_uploaded(page, server, rest):
    context = page.context
    with gate(server.url) as network:
        page.goto(f"{network.url}/record")
        page.fill(".name", "Left behind")
        page.click(".start")
        expect(page.locator(".state")).to_have_text("Recording.")
        network.close()
        # The recorder of the closed page does not try again before it is gone.
        expect(page.locator(".kept")).to_have_text(re.compile("([3-9]|[1-9][0-9]) s kept here$"))
        page.close()
        network.open()
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.goto(f"{network.url}/record")
        expect(page.locator("scribe-leftovers li")).to_contain_text("Left behind")
        with page.expect_download() as saved:
            page.click("text=Save a copy")
        assert samples_of(saved.value.path().read_bytes())
        page.get_by_role("button", name="Upload", exact=True).click()
        expect(page.locator("scribe-leftovers li p")).to_contain_text("Saved.")
        assert newest(rest)["name"] == "Left behind"
        page.reload()
        expect(page.locator("scribe-leftovers")).to_be_hidden()


def test_files_are_streamed_as_sessions(page, rest, tmp_path):
    sound = speech(30, SOUND_HZ)
    good, bad = tmp_path / "talk.wav", tmp_path / "notes.pdf"
    good.write_bytes(wav_bytes(sound, SOUND_HZ))
    bad.write_bytes(b"%PDF-1.7 " + bytes(100))
    page.set_input_files("scribe-uploads input", [good, bad])
    expect(page.locator("scribe-uploads li").first).to_contain_text("Saved.")
    session = (
        newest(rest)
        if newest(rest)["name"] == "talk.wav"
        else rest.http.get("/api/audio/sessions", params={"name": "talk.wav"}).json()["results"][0]
    )
    assert samples_of(rest.download(session["session_id"])) == sound.tobytes()


def test_another_microphone_is_chosen_while_it_records(page, rest, tmp_path):
    page.click(".start")
    record_for(page, 2)
    page.select_option(".device", label="Fake Audio Input 2")
    expect(page.locator(".state")).to_have_text("Recording continues with Fake Audio Input 2.")
    record_for(page, 2)
    page.click(".stop")
    expect(page.locator(".state")).to_have_text("Saved.")
    session = newest(rest)
    assert session["duration_seconds"] > 3
    assert_sounds(rest, session["session_id"], tmp_path, joints=1)


def test_a_disconnected_microphone_is_replaced_or_waited_for(page, rest, tmp_path):
    page.evaluate(WATCH_DEVICES)
    page.click(".start")
    record_for(page, 2)
    page.evaluate("disconnect()")
    expect(page.locator(".state")).to_have_text("Recording continues with Fake Default Audio Input.")
    record_for(page, 2)
    page.evaluate("window.hasDevices = false, disconnect()")
    expect(page.locator(".state")).to_contain_text("There is no microphone. The microphone was disconnected.")
    before = clock(page)
    page.evaluate("window.hasDevices = true")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".state")).to_have_text("Recording continues with Fake Default Audio Input.")
    expect(page.locator(".pause")).to_have_text("Pause")
    record_for(page, 1)
    page.evaluate("window.hasDevices = false, disconnect()")
    expect(page.locator(".state")).to_contain_text("press Stop to save what was recorded")
    page.click(".stop")
    expect(page.locator(".state")).to_have_text("Saved.")
    session = newest(rest)
    assert session["duration_seconds"] > before
    assert_sounds(rest, session["session_id"], tmp_path, joints=2)


def test_a_rejected_permission_says_what_to_do(browser, server):
    with browser.new_context(base_url=server.url) as context:
        page = context.new_page()
        page.add_init_script(
            "navigator.mediaDevices.getUserMedia = () =>"
            " Promise.reject(new DOMException('Permission denied', 'NotAllowedError'))"
        )
        page.goto("/record")
        page.click(".start")
        expect(page.locator(".state")).to_contain_text("Allow it in the settings of the page")
        expect(page.locator(".start")).to_be_enabled()


def test_a_page_that_records_asks_before_it_is_left(page):
    asked = []
    page.on("dialog", lambda dialog: asked.append(dialog.type))
    page.click(".start")
    expect(page.locator(".state")).to_have_text("Recording.")
    page.goto("/login")
    assert asked == ["beforeunload"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["ready", "recording"])
def test_axe_finds_nothing(browser, server, scheme, state):
    options = {"base_url": server.url, "bypass_csp": True, "permissions": ["microphone"], "color_scheme": scheme}
    with browser.new_context(**options, viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto("/record")
        page.wait_for_selector("scribe-live-waveform canvas", state="attached")
        if state == "recording":
            page.click(".start")
            expect(page.locator(".state")).to_have_text("Recording.")
        page.add_script_tag(path=axe(Path(sys.prefix) / "axe"))
        assert page.evaluate(RUN_AXE) == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
