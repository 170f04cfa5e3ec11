"""Somebody listens in a browser to what is still being recorded, and it goes on without a click."""

import contextlib
import json
import time
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection, connect

from tests.clients.gate import gate
from tests.server import DEADLINE_SECONDS, Server, eventually
from tests.sound import cut, encoded_live

RATE_HZ = 48000
SECONDS = 120
LOWEST_HZ, HZ_PER_SECOND = 300, 60
# What a sender gives at once, as often as it is heard.
STEP_SECONDS = 0.2
# Each continuation is a load of the file.
LOADS = 3
# A stream may be cut off within a frame. A browser does not play what is just before.
CUT_SECONDS = 0.4
# A moment of the sound that a busy page does not look at, or that a reload repeats.
MOST_UNHEARD_SECONDS = 1.5
PCM = {"format": "wav", "encoding": "s16le", "sample_rate": RATE_HZ, "channels": 1}
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "250000")
ENCODERS = {
    "mp3": ("mp3",),
    "aac": ("adts",),
    "flac": ("flac",),
    "ogg": ("ogg", "-c:a", "libopus"),
    "webm": ("webm", "-c:a", "libopus", "-cluster_time_limit", "250"),
    "mp4": ("mp4", "-c:a", "libopus", *FRAGMENTS),
}
# A player of its own for each session. What it gives to hear is looked at: the pitch tells the moment of the sound.
LISTEN = """async ([ids, lowest, slope]) => {
    const { Client, LivePlayer } = await import("/client/sercuescribe.js");
    const client = new Client();
    const context = new AudioContext({ sampleRate: 48000 });
    window.listening = {};
    const start = async (name, sessionId) => {
        const audio = new Audio();
        const analyser = new AnalyserNode(context, { fftSize: 4096, smoothingTimeConstant: 0 });
        context.createMediaElementSource(audio).connect(analyser);
        const player = new LivePlayer(audio, { client, sessionId });
        const found = { audio, player, heard: [], loads: 0, told: [] };
        listening[name] = found;
        audio.addEventListener("loadedmetadata", () => (found.loads += 1));
        player.addEventListener("complete", () => found.told.push("complete"));
        player.addEventListener("error", ({ detail }) => found.told.push(detail.message));
        const levels = new Float32Array(analyser.frequencyBinCount);
        setInterval(() => {
            analyser.getFloatFrequencyData(levels);
            const loudest = levels.reduce((best, level, bin) => (level > levels[best] ? bin : best), 0);
            const seconds = ((loudest * 48000) / 4096 - lowest) / slope;
            if (levels[loudest] > -30) found.heard.push(seconds);
        }, 50);
        await player.load();
        await player.play();
    };
    await Promise.all(Object.entries(ids).map(([name, id]) => start(name, id)));
}"""

COUNT_LOADS = """() => {
    window.loads = 0;
    document.querySelector("audio").addEventListener("loadedmetadata", () => (window.loads += 1));
}"""


def rising(seconds: float, first: float = 0) -> np.ndarray:
    """A tone whose pitch tells the moment: int16, one row a frame."""
    time = first + np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * (LOWEST_HZ * time + HZ_PER_SECOND * time**2 / 2)
    return (16000 * np.sin(phase)).astype("<i2")[:, None]


def sound(audio_format: str) -> bytes:
    """Return the tone as a live encoder writes it."""
    samples = rising(SECONDS)
    return samples.tobytes() if audio_format == "wav" else encoded_live(samples, RATE_HZ, *ENCODERS[audio_format])


@contextlib.contextmanager
def session(server: Server, **query: Any) -> Iterator[tuple[ClientConnection, str]]:
    with connect(f"{server.ws_url}/api/ws/audio?{urlencode(query)}") as socket:
        yield socket, json.loads(socket.recv())["session_id"]


def send(socket: ClientConnection, content: bytes) -> None:
    for piece in cut(content, 1 << 20):
        socket.send(piece)
        assert "error" not in json.loads(socket.recv())


def close(socket: ClientConnection) -> None:
    socket.send(json.dumps({"type": "control", "action": "close_session"}))
    socket.recv()


class Broadcast:
    """Sends a sound as fast as it is heard, until it is stopped; then the session is closed."""

    def __init__(self, server: Server, audio_format: str) -> None:
        self.session_id = ""
        self._server = server
        self._query = PCM if audio_format == "wav" else {"format": audio_format}
        self._content = sound(audio_format)
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: self.session_id)

    def _run(self) -> None:
        with session(self._server, **self._query) as (socket, self.session_id):
            begun = time.monotonic()
            for number, piece in enumerate(cut(self._content, round(len(self._content) * STEP_SECONDS / SECONDS)), 1):
                send(socket, piece)
                if self._stopped.wait(max(0, begun + number * STEP_SECONDS - time.monotonic())):
                    break
            close(socket)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE_SECONDS)


@pytest.fixture
def page(page: Page) -> Page:
    page.goto("/login")
    return page


def listen(page: Page, **session_ids: str) -> None:
    """Listen to sessions. There is one click on Play for each, and no other."""
    page.evaluate(LISTEN, [session_ids, LOWEST_HZ, HZ_PER_SECOND])


def of(page: Page, expression: str, name: str = "wav") -> Any:
    """Return the current value of an expression about a player."""
    return page.evaluate(
        f"(name) => {{ const {{ audio, player, heard, loads, told }} = listening[name]; return {expression}; }}", name
    )


def until(page: Page, condition: str, name: str = "wav") -> None:
    """Wait until an expression about a player is true."""
    eventually(lambda: of(page, condition, name))


def unheard(heard: list[float], seconds: float) -> float:
    """The longest part of the sound that was not heard."""
    moments = np.sort(np.clip([0, *heard, seconds], 0, seconds))
    return float(np.diff(moments).max())


def test_all_of_a_growing_recording_is_heard_without_another_click(page, server, rest):
    """In each format. The end of what there is may be in the middle of a frame, and the length may be unknown."""
    broadcasts = {name: Broadcast(server, name) for name in ("wav", *ENCODERS)}
    eventually(lambda: all(rest.session(each.session_id)["total_chunks"] for each in broadcasts.values()))
    listen(page, **{name: each.session_id for name, each in broadcasts.items()})
    for name in broadcasts:
        until(page, f"loads >= {LOADS} || told.length", name)
    for each in broadcasts.values():
        each.stop()
    for name, each in broadcasts.items():
        until(page, "told.length", name)
        assert of(page, "told", name) == ["complete"], name
        seconds = rest.finished(each.session_id)["duration_seconds"]
        assert of(page, "audio.currentTime", name) == pytest.approx(seconds, abs=CUT_SECONDS), name
        assert unheard(of(page, "heard", name), seconds) < MOST_UNHEARD_SECONDS, name


def test_who_pauses_at_the_end_goes_on_there(page, server):
    with session(server, **PCM) as (socket, session_id):
        send(socket, rising(4).tobytes())
        listen(page, wav=session_id)
        until(page, "player.isWaiting")
        page.evaluate("listening.wav.player.pause()")
        assert not of(page, "player.isWaiting")
        page.evaluate("listening.wav.heard.length = 0")
        page.evaluate("void listening.wav.player.play()")
        assert of(page, "player.isWaiting")
        send(socket, rising(6, first=4).tobytes())
        until(page, "audio.currentTime > 6")
        assert min(of(page, "heard")) > 3


def test_who_seeks_at_the_end_is_not_moved(page, server):
    with session(server, **PCM) as (socket, session_id):
        send(socket, rising(4).tobytes())
        listen(page, wav=session_id)
        until(page, "player.isWaiting")
        page.evaluate("listening.wav.audio.currentTime = 1")
        until(page, "!player.isWaiting")
        send(socket, rising(6, first=4).tobytes())
        page.evaluate("listening.wav.audio.play()")
        # It plays to the end of what it had, and from there on.
        until(page, "audio.currentTime > 6")
        assert of(page, "told") == []


def test_a_seek_in_a_file_that_has_grown_meanwhile(page, server):
    with session(server, **PCM) as (socket, session_id):
        send(socket, rising(SECONDS).tobytes())
        listen(page, wav=session_id)
        until(page, "audio.currentTime > 0.5")
        send(socket, rising(4, first=SECONDS).tobytes())
        page.evaluate(f"listening.wav.audio.currentTime = {SECONDS - 10}")
        until(page, f"heard.some((seconds) => seconds > {SECONDS - 9.5})")
        assert of(page, "told") == []
        page.evaluate("listening.wav.player.seekToLive()")
        until(page, f"heard.some((seconds) => seconds > {SECONDS + 3})")


def test_a_network_that_is_away_at_the_end_is_waited_for(page, server):
    with gate(server.url) as network, session(server, **PCM) as (socket, session_id):
        page.goto(f"{network.url}/login")
        send(socket, rising(4).tobytes())
        listen(page, wav=session_id)
        network.close()
        until(page, "player.isWaiting")
        send(socket, rising(6, first=4).tobytes())
        network.open()
        until(page, "audio.currentTime > 6")
        assert of(page, "told") == []


def test_the_page_of_a_session_plays_on(page, server, rest):
    live = Broadcast(server, "wav")
    eventually(lambda: rest.session(live.session_id)["duration_seconds"])
    page.goto(f"/sessions/{live.session_id}")
    page.wait_for_selector("session-page[aria-busy=false] .controls:not([inert])")
    page.evaluate(COUNT_LOADS)
    page.keyboard.press("Space")
    eventually(lambda: page.evaluate("window.loads >= 2"))
    eventually(lambda: page.evaluate("!document.querySelector('audio').paused"))
    expect(page.locator(".to-play")).to_have_attribute("aria-label", "Pause", timeout=90_000)
    live.stop()
    seconds = rest.finished(live.session_id)["duration_seconds"]
    eventually(lambda: page.evaluate("document.querySelector('audio').currentTime") > seconds - 0.3)
    expect(page.locator(".to-play")).to_have_attribute("aria-label", "Play", timeout=90_000)
