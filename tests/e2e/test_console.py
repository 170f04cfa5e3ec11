"""The console in a browser: the list, a session, and the settings of a project, as somebody who has logged in."""

import contextlib
import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, StorageState, expect
from websockets.sync.client import ClientConnection, connect

from tests.client import Rest
from tests.e2e.screenshots import SIZES, look
from tests.server import Server, eventually
from tests.sound import speech
from tests.test_settings import run

RATE_HZ = 16000
CHUNK_BYTES = 64_000
PASSWORD = "a-long-password"
DEADLINE_MS = 120_000
expect.set_options(timeout=DEADLINE_MS)
ADD_PEOPLE = """
from django.contrib.auth.models import User
User.objects.create_superuser("keeper", password="a-long-password")
User.objects.create_user("mira", password="a-long-password")
"""
ADD_SESSIONS = """
import sys
from datetime import timedelta
from django.utils import timezone
from audio.models import AudioSession, Recording
now = timezone.now()
rows = [
    AudioSession(
        sample_rate=16000, channels=1, user_id=sys.argv[1], name=f"Call {number}", status="completed",
        start_time=now - timedelta(minutes=number), end_time=now,
    )
    for number in range(int(sys.argv[2]))
]
AudioSession.objects.bulk_create(rows)
Recording.objects.bulk_create([Recording(session=row) for row in rows])
"""
FAIL = """
import sys
from audio.models import Recording
warning = {"code": "stream_damaged", "detail": "A part of the stream cannot be read.", "first_sequence": 1,
           "last_sequence": 1, "start_seconds": 1.0, "end_seconds": 1.5}
Recording.objects.filter(pk=sys.argv[1]).update(
    state="failed", error_code="undecodable_chunk", error_detail="Chunk 2 could not be decoded.", warnings=[warning])
"""
DJANGO = "import django; django.setup()\n"


def manage(server: Server, program: str, *arguments: str) -> None:
    """Run a program that uses the server's database."""
    code, _, complaint = run(server, "-c", DJANGO + program, *arguments)
    assert code == 0, complaint


@pytest.fixture(scope="module")
def people(server: Server) -> None:
    """An operator, and somebody who is in no project yet."""
    server.environment["DJANGO_SETTINGS_MODULE"] = "sercuescribe.settings"
    manage(server, ADD_PEOPLE)


@pytest.fixture(scope="module")
def login(browser: Browser, server: Server, people: None) -> StorageState:
    """The cookies of the operator."""
    with browser.new_context(base_url=server.url) as context:
        page = context.new_page()
        page.goto("/login?next=/health")
        page.fill("#id_username", "keeper")
        page.fill("#id_password", PASSWORD)
        page.click("[type=submit]")
        page.wait_for_url("**/health")
        return context.storage_state()


@pytest.fixture
def page(browser: Browser, server: Server, login: StorageState) -> Iterator[Page]:
    """A page of somebody who has logged in, so that each change needs the CSRF token."""
    with browser.new_context(base_url=server.url, storage_state=login, viewport=SIZES["wide"]) as context:
        context.set_default_timeout(DEADLINE_MS)
        opened = context.new_page()
        yield opened
        # A stream of events would otherwise keep the page busy while it closes.
        opened.goto("about:blank")


@pytest.fixture(autouse=True)
def _is_clean(page: Page, complaints: list[str], hosts: set[str], server: Server) -> Iterator[None]:
    """Nothing is wrong in the scripts, nothing is rejected by the policy, and nobody else is asked."""
    yield
    # A page that is left aborts its requests, and one may be reading a session that a test has just deleted.
    usual = ("net::ERR_ABORTED", ": 404", "status of 404")
    assert [each for each in complaints if not any(part in each for part in usual)] == []
    assert hosts - {""} <= {urlsplit(server.url).netloc}


def sound(seconds: float) -> bytes:
    """Return something that looks like speech: with pauses, in 16-bit samples."""
    samples = speech(seconds, RATE_HZ)[:, 0]
    time = np.arange(len(samples)) / RATE_HZ
    loudness = np.abs(np.sin(1.1 * time) * np.sin(0.31 * time + 1)) * np.clip(np.sin(5.3 * time) + 0.8, 0.1, 1)
    return (samples * loudness).astype("<i2").tobytes()


@contextlib.contextmanager
def recording(server: Server, seconds: float = 0, **query: str) -> Iterator[tuple[ClientConnection, str]]:
    """A connection that has sent so many seconds; with the id of its session."""
    parameters = {"sample_rate": RATE_HZ, "channels": 1, "format": "wav", **query}
    with connect(f"{server.ws_url}/api/ws/audio?{urlencode(parameters)}") as socket:
        session_id = json.loads(socket.recv())["session_id"]
        if seconds:
            send(socket, seconds)
        yield socket, session_id


def send(socket: ClientConnection, seconds: float) -> None:
    content = sound(seconds)
    for start in range(0, len(content), CHUNK_BYTES):
        socket.send(content[start : start + CHUNK_BYTES])
        assert "error" not in json.loads(socket.recv())


def recorded(server: Server, rest: Rest, seconds: float = 20, **query: str) -> str:
    """Return the id of a session with a recording."""
    with recording(server, seconds, **query) as (socket, session_id):
        socket.send(json.dumps({"type": "control", "action": "close_session"}))
        socket.recv()
    rest.finished(session_id)
    return session_id


@pytest.fixture(scope="module")
def interview(server: Server, rest: Rest) -> str:
    """The id of a session that is ready, among others."""
    recorded(server, rest, 75, name="Team meeting, week 48", user_id="Ben")
    recorded(server, rest, 12, name="Voicemail 0171", user_id="phone-bridge")
    return recorded(server, rest, 40, name="Interview with Ana", user_id="Ana", **{"metadata.room": "4"})


def open_session(page: Page, session_id: str) -> None:
    page.goto(f"/sessions/{session_id}")
    page.wait_for_selector("session-page[aria-busy=false]")


def until(page: Page, condition: str) -> None:
    """Wait until an expression of the page is true. Playwright's own way needs a policy that allows eval."""
    eventually(lambda: page.evaluate(condition), DEADLINE_MS / 1000)


def position(page: Page) -> float:
    return page.evaluate("document.querySelector('audio').currentTime")


def test_the_list_changes_by_itself(page, server, rest, interview):
    who = f"live-{uuid4().hex[:8]}"
    page.goto(f"/?q=@{who}")
    expect(page.locator(".blank")).to_contain_text("Nothing matches")
    look(page, "list-nothing-matches")
    with recording(server, name="Podcast, episode 12", user_id=who) as (socket, session_id):
        row = page.locator(".row")
        expect(row).to_contain_text("Podcast, episode 12")
        expect(row.locator(".pill")).to_have_text("Recording")
        send(socket, 12)
        expect(row.locator(".row-length")).to_contain_text("0:12")
        recorded(server, rest, 5, user_id=who, name="Voicemail")
        expect(page.locator(".row .row-name")).to_have_text(["Voicemail", "Podcast, episode 12"])
        page.goto("/")
        expect(page.locator(".row", has_text="Podcast").locator(".row-length")).to_contain_text("0:12")
        look(page, "list")
        page.goto(f"/?q=@{who}")
        expect(page.locator(".row")).to_have_count(2)
        socket.send(json.dumps({"type": "control", "action": "close_session"}))
        socket.recv()
    expect(page.locator(f"[data-id='{session_id}'] .pill")).to_have_text("Ready")
    assert rest.http.delete(f"/api/audio/sessions/{session_id}").status_code == 204
    expect(page.locator(".row .row-name")).to_have_text(["Voicemail"])


def test_sessions_are_found_by_name_metadata_person_and_id(page, interview):
    page.goto("/")
    page.wait_for_selector(".row")
    for text in ("Interview with A", "room=4", "@Ana"):
        page.fill("[name=q]", text)
        expect(page.locator(f"[data-id='{interview}']")).to_be_visible()
        page.fill("[name=q]", f"{text}-nothing")
        expect(page.locator(".blank h2")).to_have_text("Nothing matches")
    page.select_option("[name=format]", "flac")
    page.wait_for_url("**/?q=*&format=flac")
    page.click("text=Show all sessions")
    page.wait_for_selector(".row")
    assert urlsplit(page.url).query == ""
    page.fill("[name=q]", interview)
    page.wait_for_url(f"**/sessions/{interview}")


def test_a_long_list_goes_on_and_keeps_few_rows_in_the_document(page, server):
    who = f"many-{uuid4().hex[:8]}"
    manage(server, ADD_SESSIONS, who, "700")
    page.goto(f"/?q=@{who}")
    page.wait_for_selector(".row")
    last = page.locator("[aria-posinset='700']")
    while not last.count():
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(50)
    expect(last).to_contain_text("Call 699")
    assert page.locator(".row").count() <= 400
    page.keyboard.press("Home")
    expect(page.locator("[aria-posinset='1']")).to_contain_text("Call 0")


def test_the_list_works_with_the_keyboard_alone(page, server, rest):
    who = f"keys-{uuid4().hex[:8]}"
    ids = [recorded(server, rest, 1, user_id=who, name=name) for name in ("First", "Second")]
    page.goto(f"/?q=@{who}")
    page.wait_for_selector(".row >> nth=1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_contain_text("Next session")
    look(page, "shortcuts")
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("j")
    page.wait_for_url("**/?q=*j")
    page.fill("[name=q]", f"@{who}")
    page.wait_for_url(f"**/?q=*{who}")
    page.wait_for_selector("[role=feed][aria-busy=false] .row >> nth=1")
    page.evaluate("document.activeElement.blur()")
    for key, name in (("j", "Second"), ("j", "First"), ("k", "Second"), ("ArrowDown", "First")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == name
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/sessions/{ids[0]}")


def test_a_recording_is_played_and_sought_in(page, interview):
    open_session(page, interview)
    expect(page.locator(".time")).to_have_text("0:00 / 0:40")
    box = page.locator("waveform-slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert abs(position(page) - 20) < 0.5
    page.keyboard.press("ArrowLeft")
    assert abs(position(page) - 15) < 0.5
    assert page.get_attribute("waveform-slider", "aria-valuetext") == "15 seconds of 40 seconds"
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("h")
    assert position(page) < 0.5
    page.keyboard.press("Space")
    until(page, "document.querySelector('audio').currentTime > 0.5")
    expect(page.locator(".to-play")).to_have_attribute("aria-label", "Pause")
    page.keyboard.press("Space")
    expect(page.locator(".to-play")).to_have_attribute("aria-label", "Play")
    page.select_option(".view select", "1.5")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(">")
    assert page.evaluate("document.querySelector('audio').playbackRate") == 2
    with page.expect_response(re.compile("waveform.*start=")):
        page.keyboard.press("+")
    # What is drawn is the sound: a loud bar is higher than a line.
    until(
        page,
        """() => {
        const canvas = document.querySelector("waveform-slider canvas");
        const line = canvas.getContext("2d").getImageData(0, canvas.height / 4, canvas.width, 1).data;
        return line.some((value, index) => index % 4 === 3 && value > 0);
    }""",
    )


def test_markers_are_set_named_jumped_to_and_deleted_with_undo(page, rest, interview):
    path = f"/api/audio/sessions/{interview}/markers"

    def markers() -> list[tuple[str, float]]:
        return [(each["label"], each["position_seconds"]) for each in rest.http.get(path).json()["results"]]

    open_session(page, interview)
    for _ in range(2):
        page.keyboard.press("l")
    page.keyboard.press("m")
    page.wait_for_selector(".markers input")
    page.keyboard.type("Question 2")
    page.keyboard.press("Enter")
    expect(page.locator(".marker-list")).to_contain_text("Question 2")
    eventually(lambda: [(label, round(at)) for label, at in markers()] == [("Question 2", 30)])
    page.click("text=Question 2")
    page.fill(".markers input", "Answer")
    page.keyboard.press("Escape")
    expect(page.locator(".marker-list .label")).to_have_text("Question 2")
    look(page, "session")
    page.keyboard.press("Home")
    page.focus("waveform-slider")
    page.keyboard.press("Home")
    page.click("[aria-label='Jump to Question 2 at 0:30']")
    assert abs(position(page) - 30) < 0.5
    page.click("[aria-label='Delete Question 2']")
    page.click("text=Undo")
    expect(page.locator(".marker-list .label")).to_have_text("Question 2")
    assert len(markers()) == 1
    page.click("[aria-label='Delete Question 2']")
    expect(page.locator(".marker-list .hint")).to_be_visible()
    eventually(lambda: markers() == [])


def test_a_session_is_renamed_in_place(page, server, rest):
    session_id = recorded(server, rest, 1, name="Old name")
    open_session(page, session_id)
    page.keyboard.press("e")
    page.keyboard.type("New <b>name</b>")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("New <b>name</b>")
    eventually(lambda: rest.session(session_id)["name"] == "New <b>name</b>")
    page.click("[aria-label=Rename]")
    page.keyboard.type("Not this")
    page.keyboard.press("Escape")
    expect(page.locator("h1")).to_have_text("New <b>name</b>")


def test_a_session_is_listened_to_while_it_is_recorded_and_stopped(page, server, rest):
    with recording(server, 20, name="Town hall", user_id="studio-2") as (socket, session_id):
        eventually(lambda: rest.session(session_id)["duration_seconds"])
        open_session(page, session_id)
        expect(page.locator(".session-about .pill")).to_have_text("Recording")
        until(page, "document.querySelector('audio').duration > 0")
        page.evaluate("document.querySelector('audio').muted = true")
        page.keyboard.press("Space")
        until(page, "document.querySelector('audio').currentTime > 0.2")
        send(socket, 20)
        expect(page.locator(".time")).to_contain_text("/ 0:40")
        look(page, "session-live")
        page.click(".to-live")
        until(page, "document.querySelector('audio').currentTime > 18")
        page.click("text=Stop")
        look(page, "question")
        page.click("dialog >> text=Stop >> nth=-1")
        expect(page.locator(".session-about .pill")).to_have_text("Ready")
    assert rest.session(session_id)["status"] == "completed"


def test_another_format_is_made_and_downloaded(page, rest, interview):
    open_session(page, interview)
    page.click("text=Download")
    look(page, "session-download")
    with page.expect_download() as started:
        page.click(".menu >> text=MP3")
    assert started.value.suggested_filename.endswith(".mp3")
    content = started.value.path().read_bytes()
    assert content == rest.http.get(f"/api/audio/sessions/{interview}/audio?format=mp3").content
    expect(page.locator(".activity")).to_contain_text("Transcode to MP3")


def test_a_session_is_deleted_after_a_second_question(page, server, rest):
    session_id = recorded(server, rest, 1, name="Not needed", user_id="somebody")
    open_session(page, session_id)
    page.click("[aria-label=Delete]")
    expect(page.locator("dialog[open]")).to_contain_text("“Not needed” (0:01) is deleted")
    page.keyboard.press("Escape")
    assert rest.session(session_id)
    page.keyboard.press("#")
    page.click("dialog >> text=Delete >> nth=-1")
    page.wait_for_url("**/")
    assert rest.http.get(f"/api/audio/sessions/{session_id}").status_code == 404


def test_a_session_that_somebody_else_deletes_says_so(page, server, rest):
    session_id = recorded(server, rest, 1)
    open_session(page, session_id)
    rest.http.delete(f"/api/audio/sessions/{session_id}")
    expect(page.locator("h1")).to_have_text("This session was deleted")


def test_metadata_retention_and_hold_are_changed(page, server, rest, complaints):
    session_id = recorded(server, rest, 1, **{"metadata.room": "4", "metadata.old": "x"})
    open_session(page, session_id)
    page.click(".details >> text=Edit")
    page.fill(".metadata-row >> nth=0 >> [aria-label=Value]", "5")
    page.click("[aria-label='Remove old']")
    page.click("text=Add a value")
    page.keyboard.type("topic")
    page.keyboard.press("Tab")
    page.keyboard.type("budget")
    page.select_option("[name=kept]", "days")
    page.fill("[name=days]", "30")
    page.check("[name=legal_hold]")
    look(page, "session-edit")
    page.click("text=Save")
    expect(page.locator(".facts")).to_contain_text("Under a legal hold")
    session = rest.session(session_id)
    assert session["metadata"] == {"room": "5", "topic": "budget"}
    assert (session["retention_days"], session["legal_hold"]) == (30, True)
    page.keyboard.press("#")
    page.click("dialog >> text=Delete >> nth=-1")
    expect(page.locator(".toast")).to_contain_text("legal hold")
    complaints.clear()


def test_a_recording_that_failed_says_why_and_gives_what_there_is(page, server, rest):
    session_id = recorded(server, rest, 5, name="Broken call")
    manage(server, FAIL, session_id)
    open_session(page, session_id)
    expect(page.locator("[role=alert]")).to_contain_text("Chunk 2 could not be decoded.")
    expect(page.locator(".warnings")).to_contain_text("A part of the stream cannot be read.")
    page.click("[aria-label='Jump to 0:01']")
    until(page, "document.querySelector('audio').currentTime === 1")
    look(page, "session-failed")
    page.click("text=Download")
    with page.expect_download() as started:
        page.click("text=The part that could be made")
    assert "-incomplete" in started.value.suggested_filename


def test_keys_are_made_shown_once_and_revoked(page, rest):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/projects/1")
    page.click("text=New key")
    page.fill("[name=name]", "phone-bridge")
    look(page, "settings-new-key")
    page.click("text=Create key")
    page.click(".secret >> text=Copy >> nth=-1")
    expect(page.locator(".toast")).to_have_text("Copied.")
    secret = page.input_value(".secret input")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    headers = {"Authorization": f"Bearer {secret}"}
    assert rest.http.get("/api/audio/sessions", headers=headers).status_code == 200
    assert rest.http.get("/api/keys", headers=headers).status_code == 403
    page.click(".secret >> text=Done")
    assert secret not in page.content()
    row = page.locator("#keys li", has_text="phone-bridge")
    row.locator("text=Revoke").click()
    page.click("dialog >> text=Revoke >> nth=-1")
    expect(row).to_contain_text("revoked Today")
    assert rest.http.get("/api/audio/sessions", headers=headers).status_code == 401


def test_members_are_added_changed_and_removed(page, complaints):
    page.goto("/projects/1")
    page.click("text=Add member")
    page.fill("#members [name=user]", "nobody-of-this-name")
    page.click("#members form >> text=Add >> nth=-1")
    expect(page.locator("#members [role=alert]")).to_contain_text("no active account")
    complaints.clear()
    page.fill("#members [name=user]", "mira")
    page.select_option("#members [name=role]", "manager")
    page.click("#members form >> text=Add >> nth=-1")
    row = page.locator("#members li", has_text="mira")
    row.locator("select").select_option("viewer")
    expect(page.locator(".toast").last).to_contain_text(re.compile("mira is viewer now|at least one manager"))
    row.locator("text=Remove").click()
    page.click("dialog >> text=Remove >> nth=-1")
    expect(row).to_be_hidden()


def test_a_webhook_is_tested_and_its_deliveries_are_shown(page, complaints):
    page.goto("/projects/1")
    page.click("text=New webhook")
    page.fill("[name=url]", "https://127.0.0.1/hook")
    page.check("[value='recording.ready']")
    page.click("text=Create webhook")
    expect(page.locator("#webhooks [role=alert]")).to_be_visible()
    complaints.clear()
    page.fill("[name=url]", "https://hooks.invalid/scribe")
    page.click("text=Create webhook")
    expect(page.locator(".secret input")).to_have_value(re.compile("whsec_"))
    page.click("text=Done")
    row = page.locator("#webhooks .rows > li")
    expect(row).to_contain_text("recording.ready")
    row.locator("text=Test").click()
    expect(row.locator(".activity-list")).to_contain_text("webhook.test")
    expect(row.locator(".about")).not_to_have_text("Not attempted yet")
    look(page, "settings")
    row.locator("text=Send again").click()
    expect(page.locator(".toast").last).to_contain_text("sent again")
    row.locator("text=Switch off").click()
    expect(row.locator(".what .pill")).to_have_text("Off")
    row.locator("text=Delete").click()
    page.click("dialog >> text=Delete >> nth=-1")
    expect(page.locator("#webhooks .hint")).to_be_visible()


def test_deliveries_about_a_session_are_on_its_page(page, server, rest):
    made = rest.http.post("/api/webhooks", json={"url": "https://hooks.invalid/all"}).json()
    session_id, other_id = recorded(server, rest, 1), recorded(server, rest, 1)
    path = f"/api/webhooks/{made['id']}/deliveries"
    of_session = eventually(lambda: rest.http.get(f"{path}?session_id={session_id}").json()["results"])
    assert {each["session_id"] for each in of_session} == {session_id}
    assert other_id in rest.http.get(path).text
    assert rest.http.get(f"{path}?session_id=x").json()["code"] == "invalid_session_id"
    open_session(page, session_id)
    expect(page.locator(".activity")).to_contain_text("session.opened")
    rest.http.delete(f"/api/webhooks/{made['id']}")


def test_limits_and_retention_are_saved(page, rest):
    page.goto("/projects/1")
    page.fill("[name=retention_days]", "30")
    page.fill("[name=max_open_sessions]", "500")
    page.click("text=Save")
    expect(page.locator(".toast")).to_have_text("Saved.")
    shown = rest.http.get("/api/projects/1").json()
    assert (shown["retention_days"], shown["max_open_sessions"]) == (30, 500)
    page.fill("[name=retention_days]", "")
    page.fill("[name=max_open_sessions]", "")
    page.click("text=Save")
    eventually(lambda: rest.http.get("/api/projects/1").json()["max_open_sessions"] is None)


def test_the_menu_of_a_phone_opens_and_closes(page):
    page.set_viewport_size(SIZES["phone"])
    page.goto("/")
    expect(page.locator("text=Running")).to_be_hidden()
    page.click(".to-more")
    expect(page.locator("text=Running")).to_be_visible()
    expect(page.locator("text=Log out")).to_be_visible()
    look(page, "menu")
    page.set_viewport_size(SIZES["phone"])
    page.focus(".more a >> nth=0")
    page.keyboard.press("Escape")
    expect(page.locator("text=Running")).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "to-more"


def test_a_server_that_fails_is_said_with_what_to_do(page, server, complaints):
    with recording(server):
        pass
    page.route("**/api/audio/sessions?**", lambda route: route.abort())
    page.goto("/")
    expect(page.locator(".blank")).to_contain_text("The server does not answer.")
    page.unroute("**/api/audio/sessions?**")
    complaints.clear()
    page.click("text=Try again")
    page.wait_for_selector(".row")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_list_fits_the_screen_whatever_clients_are_called(page, server, width):
    user_id = "long" * 25
    with recording(server, user_id=user_id, name="name" * 40):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto("/")
        expect(page.locator(".row", has_text=user_id).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
