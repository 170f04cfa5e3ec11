"""A page that records with the JavaScript client, as a test drives it. What its microphone gave is kept here."""

import base64
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.e2e.sound import CLEAR, correlations
from tests.server import DEADLINE_SECONDS

CLEAR_WINDOWS = 3
DEADLINE_MS = 1000 * DEADLINE_SECONDS
BEGIN = """async ([server, options, first]) => {
    const scribe = await import("/client/sercuescribe.js");
    window.queue = new scribe.IndexedDbQueue();
    window.warnings = [];
    window.heardCount = 0;
    // A page that was reloaded lets go of its recording a moment later.
    const leftBehind = () => new Promise((resolve) => {
        queue.leftovers({ onChange: () => resolve(leftBehind()) }).then(([found]) => found && resolve(found));
    });
    const leftover = first ? await leftBehind() : undefined;
    const listen = (microphone, life) => microphone.addEventListener("chunk", async ({ detail }) => {
        const bytes = new Uint8Array(detail instanceof Blob ? await detail.arrayBuffer() : detail);
        // Spread over an argument list, a chunk of a stream that is not live would be too long.
        await window.heard(life, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
        window.heardCount += 1;
    });
    const { open } = scribe.Microphone;
    let opened = 0;
    scribe.Microphone.open = async (options) => {
        const microphone = await open(options);
        listen(microphone, first + opened);
        opened += 1;
        return microphone;
    };
    window.live = await scribe.record({ server, queue, ...options, leftover });
    live.recorder.addEventListener("warning", ({ detail }) => warnings.push(detail.code));
    return { mode: live.microphone.mode, ...live.microphone.parameters };
}"""


class Live:
    """Drives a page; `lives` is what each microphone has given, in each life of the page."""

    def __init__(self, page: Page, server: str = "") -> None:
        self.page = page
        self.server = server
        self.lives: list[list[bytes]] = []
        self.sample_rate_hz = 0
        page.expose_function("heard", self._hear)

    def _hear(self, life: int, chunk: str) -> None:
        while len(self.lives) <= life:
            self.lives.append([])
        self.lives[life].append(base64.b64decode(chunk))

    def begin(self, **options: Any) -> dict[str, Any]:
        """Record, or go on with what an earlier life of the page has left; return what is recorded."""
        server = self.server or self.page.evaluate("location.origin")
        first = len(self.lives)
        self.lives.append([])
        found: dict[str, Any] = self.page.evaluate(BEGIN, [server, options, first])
        self.sample_rate_hz = found.get("sample_rate", 0)
        return found

    def switch_to(self, **options: Any) -> str:
        """Go on with another microphone, and return its label."""
        self.lives.append([])
        label: str = self.page.evaluate(
            "(options) => live.switchTo(options).then(() => live.microphone.label)", options
        )
        return label

    def lose(self) -> None:
        """Disconnect the microphone."""
        self.page.evaluate("""() => {
            const [track] = live.microphone.stream.getAudioTracks();
            track.stop();
            track.dispatchEvent(new Event("ended"));
        }""")

    @property
    def chunks(self) -> list[bytes]:
        """What the microphone has given in all lives of the page."""
        return [chunk for life in self.lives for chunk in life]

    def wait_for(self, condition: str, argument: Any = None) -> None:
        """Wait until an expression of the page is true."""
        self.page.wait_for_function(condition, arg=argument, timeout=DEADLINE_MS)

    def wait_for_acknowledged(self, count: int) -> None:
        """Wait until the page knows that so many more chunks are stored."""
        now = self.page.evaluate("live.recorder.acknowledgedChunks")
        self.wait_for("(count) => live.recorder.acknowledgedChunks >= count", now + count)

    def wait_for_pending(self, count: int) -> None:
        """Wait until so many chunks wait for the network."""
        self.wait_for("(count) => live.recorder.pendingChunks >= count", count)

    def hear(self, clear_windows: int = CLEAR_WINDOWS) -> None:
        """Wait until this life has so many half-seconds that are like the sound: a busy browser loses some of it."""
        while self.clear_windows(self.lives[-1]) < clear_windows:
            self.wait_for_chunks(len(self.lives[-1]) + 5)

    def wait_for_chunks(self, count: int) -> None:
        """Wait until the microphone has given so many chunks in this life."""
        self.wait_for("(count) => window.heardCount >= count", count)

    def clear_windows(self, life: list[bytes]) -> int:
        """How many half-seconds of PCM are like the sound that the microphone hears."""
        with tempfile.NamedTemporaryFile(suffix=".pcm") as file:
            file.write(b"".join(life))
            file.flush()
            options = ("-f", "s16le", "-ar", str(self.sample_rate_hz), "-ac", "1")
            return sum(each > CLEAR for each in correlations(Path(file.name), *options, channels=1))

    def stop(self) -> dict[str, Any]:
        """Stop, and return the session with its recording."""
        session: dict[str, Any] = self.page.evaluate("live.stop()")
        return session
