"""What the microphone heard reaches the server, once: through kills, cuts of the network, reloads and closed tabs."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.client import Rest
from tests.clients.gate import gate
from tests.containers import hashes
from tests.e2e.live import CLEAR_WINDOWS, Live
from tests.server import Server, eventually, free_port
from tests.sound import samples_of

# A session stays open while a test takes its time.
GRACE_SECONDS = "600"
NOTE_LOCKS = """() => {
    const { request } = WakeLock.prototype;
    window.locks = [];
    WakeLock.prototype.request = async function (type) {
        const lock = await request.call(this, type);
        locks.push(lock);
        return lock;
    };
}"""
# What the microphones do, in their order, while another one is opened.
NOTE_ORDER = """async () => {
    const { Microphone } = await import("/client/sercuescribe.js");
    const { open } = Microphone;
    window.order = [];
    live.microphone.addEventListener("chunk", () => order.push("the old one gives"));
    Microphone.open = async (options) => {
        const microphone = await open(options);
        microphone.addEventListener("level", () => order.push("the new one hears"));
        return microphone;
    };
}"""
# A browser without windows hides no page.
SHOW = """async (state) => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
    await new Promise((resolve) => setTimeout(resolve));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for its clients, on a port that it has again after a restart."""
    folder = tmp_path_factory.mktemp("never-lost") / "data"
    with Server(folder, PORT=str(free_port()), DISCONNECT_GRACE_SECONDS=GRACE_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def rest(server: Server) -> Rest:
    return Rest(server.url)


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with browser.new_context(base_url=server.url, permissions=["microphone"]) as context:
        yield context.new_page()


@pytest.fixture
def live(page: Page) -> Live:
    page.goto("/login")
    return Live(page)


def assert_recorded(rest: Rest, session: dict[str, Any], live: Live) -> None:
    """The recording is what the microphone gave, byte for byte, and each life of the page has heard the sound.

    The browser of a busy machine loses some of the sound before its page has it. A window with such a hole is like no
    moment of the sound.
    """
    assert samples_of(rest.download(session["session_id"])) == b"".join(live.chunks)
    assert session["total_chunks"] == len(live.chunks)
    assert all(live.clear_windows(life) >= CLEAR_WINDOWS for life in live.lives)


def assert_kept(recording: Any, given: Any, chunk: int) -> None:
    """All is kept but what was on its way, from the microphone to the queue or to the test, when the page ended."""
    length = min(len(recording), len(given))
    assert recording[:length] == given[:length]
    assert abs(len(recording) - len(given)) <= 3 * chunk


def test_a_microphone_is_recorded_as_pcm(live, rest):
    parameters = live.begin()
    assert (parameters["mode"], parameters["encoding"], parameters["format"]) == ("pcm", "s16le", "wav")
    live.hear()
    assert_recorded(rest, live.stop(), live)


def test_the_server_is_killed_and_comes_back(live, server, rest):
    live.begin()
    live.wait_for_acknowledged(10)
    server.kill_all()
    live.wait_for_pending(15)
    assert live.page.evaluate("live.recorder.state") == "offline"
    server.restart()
    live.wait_for_acknowledged(20)
    live.hear()
    assert_recorded(rest, live.stop(), live)


def test_the_network_is_cut_and_comes_back(page, server, rest):
    with gate(server.url) as network:
        page.goto(f"{network.url}/login")
        live = Live(page)
        live.begin()
        live.wait_for_acknowledged(10)
        network.close()
        live.wait_for_pending(30)
        network.open()
        live.wait_for_acknowledged(30)
        live.hear()
        assert_recorded(rest, live.stop(), live)


def test_a_browser_without_room_says_so_and_records_on(live, rest):
    live.begin()
    live.wait_for_acknowledged(5)
    live.page.evaluate("""() => {
        IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };
    }""")
    live.wait_for_acknowledged(20)
    live.hear()
    assert "queue_failed" in live.page.evaluate("warnings")
    assert_recorded(rest, live.stop(), live)


def test_a_page_that_is_reloaded_goes_on(browser, server, rest):
    """What waits from before the reload is uploaded before what comes after it."""
    # The page is one of the server's, and its recorder reaches the server over a network of its own.
    options = {"base_url": server.url, "permissions": ["microphone"], "bypass_csp": True}
    with gate(server.url) as network, browser.new_context(**options) as context:
        page = context.new_page()
        page.goto("/login")
        live = Live(page, network.url)
        live.begin()
        live.wait_for_acknowledged(10)
        network.close()
        live.wait_for_pending(15)
        live.hear()
        session_id = page.evaluate("live.recorder.sessionId")
        page.reload()
        live.begin()
        live.wait_for_pending(25)
        network.open()
        live.wait_for_acknowledged(35)
        live.hear()
        session = live.stop()
    assert session["session_id"] == session_id
    before, after = (b"".join(life) for life in live.lives)
    recording = samples_of(rest.download(session_id))
    assert recording.endswith(after)
    assert_kept(recording.removesuffix(after), before, len(live.chunks[0]))
    assert all(live.clear_windows(life) >= CLEAR_WINDOWS for life in live.lives)


def test_what_a_closed_tab_has_left_is_uploaded_by_the_next(browser, server, rest):
    with browser.new_context(base_url=server.url, permissions=["microphone"]) as context:
        page = context.new_page()
        page.goto("/login")
        live = Live(page)
        live.begin(name="Left behind")
        live.wait_for_acknowledged(5)
        server.kill_all()
        live.wait_for_pending(10)
        page.close()
        server.restart()
        page = context.new_page()
        page.goto("/login")
        assert page.evaluate("""async () => {
            const { IndexedDbQueue } = await import("/client/sercuescribe.js");
            window.queue = new IndexedDbQueue();
            window.left = await queue.leftovers();
            return left.map(({ pendingChunks, pendingSeconds }) => [pendingChunks > 9, pendingSeconds > 0.9]);
        }""") == [[True, True]]
        session = page.evaluate("left[0].upload()")
        assert page.evaluate("queue.leftovers().then((left) => left.length)") == 0
    assert session["name"] == "Left behind"
    assert_kept(samples_of(rest.download(session["session_id"])), b"".join(live.chunks), len(live.chunks[0]))


def test_what_another_tab_records_is_no_leftover(browser, server):
    with browser.new_context(base_url=server.url, permissions=["microphone"]) as context:
        page = context.new_page()
        page.goto("/login")
        live = Live(page)
        live.begin()
        live.wait_for_acknowledged(2)
        other = context.new_page()
        other.goto("/login")
        leftovers = """async () => {
            const { IndexedDbQueue } = await import("/client/sercuescribe.js");
            return (await new IndexedDbQueue().leftovers()).length;
        }"""
        assert other.evaluate(leftovers) == 0
        page.close()
        eventually(lambda: other.evaluate(leftovers) == 1)


def test_a_compressed_stream_goes_on_as_a_new_part(live, rest, tmp_path):
    """A MediaRecorder cannot go on in the same file after a reload, but the session does, without encoding."""
    parameters = live.begin(mode="compressed")
    assert (parameters["mode"], parameters["format"]) == ("compressed", "webm")
    live.wait_for_acknowledged(8)
    session_id = live.page.evaluate("live.recorder.sessionId")
    live.page.reload()
    live.begin(mode="compressed")
    live.wait_for_acknowledged(8)
    session = live.stop()
    assert session["session_id"] == session_id
    files = {name: tmp_path / f"{name}.webm" for name in ("recording", "before", "after")}
    files["recording"].write_bytes(rest.download(session_id))
    for name, life in zip(("before", "after"), live.lives, strict=True):
        files[name].write_bytes(b"".join(life))
    recording, before, after = (hashes(file) for file in files.values())
    assert recording[-len(after) :] == after
    # A quarter of a second has a dozen packets.
    assert_kept(recording[: -len(after)], before, 15)


def test_another_microphone_goes_on_in_the_same_recording(live, rest):
    live.begin()
    live.hear()
    devices = live.page.evaluate("""async () => {
        const { Microphone } = await import("/client/sercuescribe.js");
        return (await Microphone.devices()).map(({ deviceId, label }) => [deviceId, label]);
    }""")
    device_id, label = devices[-1]
    assert live.page.evaluate("live.microphone.label") != label
    live.page.evaluate(NOTE_ORDER)
    assert live.switch_to(deviceId=device_id) == label
    order = live.page.evaluate("order")
    assert order.index("the new one hears") < len(order) - 1 - order[::-1].index("the old one gives")
    live.hear()
    assert_recorded(rest, live.stop(), live)
    assert len(live.lives) == 2


def test_another_microphone_hears_nothing_in_a_pause(live, rest):
    live.begin()
    live.hear()
    live.page.evaluate("live.pause()")
    live.switch_to()
    assert live.page.evaluate("live.isPaused")
    assert live.lives[-1] == []
    live.wait_for("() => live.recorder.state === 'paused' && !live.recorder.pendingChunks")
    assert live.lives[-1] == []
    live.page.evaluate("live.resume()")
    live.hear()
    assert_recorded(rest, live.stop(), live)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_microphone_that_is_disconnected(live, rest, goes_on):
    """The sound so far is kept, silence is not recorded, and the recording is continued or finished."""
    live.begin()
    live.page.evaluate("live.microphone.addEventListener('lost', () => (window.losses = (window.losses ?? 0) + 1))")
    live.hear()
    live.lose()
    assert live.page.evaluate("[live.isLost, live.isPaused, losses]") == [True, False, 1]
    seconds = live.page.evaluate("live.seconds")
    if goes_on:
        live.switch_to()
        assert not live.page.evaluate("live.isLost")
        live.hear()
        assert live.page.evaluate("live.seconds") > seconds
    else:
        assert live.page.evaluate("live.seconds") == seconds
    assert_recorded(rest, live.stop(), live)


def test_a_disconnected_microphone_of_a_compressed_stream(live, rest, tmp_path):
    """A MediaRecorder ends with its device. The next one begins a new part."""
    live.begin(mode="compressed")
    live.wait_for_acknowledged(8)
    live.lose()
    live.switch_to()
    live.wait_for_acknowledged(8)
    session = live.stop()
    files = {name: tmp_path / f"{name}.webm" for name in ("recording", "before", "after")}
    files["recording"].write_bytes(rest.download(session["session_id"]))
    for name, life in zip(("before", "after"), live.lives, strict=True):
        files[name].write_bytes(b"".join(life))
    recording, before, after = (hashes(file) for file in files.values())
    assert recording == before + after


def test_the_screen_stays_on_while_it_records(browser, server):
    """A browser releases the lock when the page is hidden, and the page asks again when it is visible."""
    released = "() => locks.map((lock) => lock.released)"
    with browser.new_context(base_url=server.url, permissions=["microphone", "screen-wake-lock"]) as context:
        page = context.new_page()
        page.goto("/login")
        page.evaluate(NOTE_LOCKS)
        live = Live(page)
        live.begin()
        assert page.evaluate(released) == [False]
        page.evaluate("locks[0].release()")
        page.evaluate(SHOW, "hidden")
        assert page.evaluate(released) == [True]
        page.evaluate(SHOW, "visible")
        live.wait_for("() => locks.length === 2")
        # A lock that is still held is enough.
        page.evaluate(SHOW, "visible")
        assert page.evaluate(released) == [True, False]
        live.stop()
        assert page.evaluate(released) == [True, True]
        page.evaluate(SHOW, "visible")
        assert page.evaluate(released) == [True, True]
