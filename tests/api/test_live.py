"""Live recordings over REST: a reader gets what has been sent, although the schedule has no window for it yet."""

import asyncio
import io
import json
import wave
from typing import Any

import httpx
import pytest

from audio.assembly import wanted
from tests.client import Rest, recorder
from tests.server import Server
from tests.sound import speech
from tests.webhooks.listening import listening

RATE_HZ = 16000


@pytest.fixture(scope="module")
def server(run_module_server) -> Server:
    """A server that makes no window by itself before the close."""
    return run_module_server(WINDOW_SECONDS="3600", DISCONNECT_GRACE_SECONDS="300")


async def get(server: Server, path: str, **options: Any) -> httpx.Response:
    return await asyncio.to_thread(Rest(server.url).http.get, f"/api/audio/sessions/{path}", **options)


def samples_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    with wave.open(io.BytesIO(answer.content)) as file:
        return file.readframes(file.getnframes())


async def until_a_window_is_old() -> None:
    """Waits until the last window is too old for a reader. Until then what it made is served as it is."""
    await asyncio.sleep(wanted.FRESH_SECONDS + 0.2)


async def test_a_download_has_what_was_sent_before_it(server):
    sound = speech(3).tobytes()
    async with recorder(server.ws_url, sample_rate=RATE_HZ, format="wav") as client:
        for second in range(3):
            await client.store(sound[second * 32000 : (second + 1) * 32000])
            assert samples_of(await get(server, f"{client.session_id}/audio")) == sound[: (second + 1) * 32000]
            await until_a_window_is_old()


async def test_the_audit_has_one_entry_for_a_player_that_loads_again_and_again(server):
    async with recorder(server.ws_url, sample_rate=RATE_HZ, format="wav") as client:
        await client.store(speech(1).tobytes())
        for _ in range(3):
            assert (await get(server, f"{client.session_id}/audio")).status_code == 200
        assert await asyncio.to_thread(downloads, server, client.session_id) == 1
        await client.close_session()
    await asyncio.to_thread(Rest(server.url).download, client.session_id)
    assert await asyncio.to_thread(downloads, server, client.session_id) == 2


def downloads(server: Server, session_id: str) -> int:
    """How many downloads of a session the audit has."""
    entries = map(json.loads, server.manage("audit", "export").splitlines())
    return sum((e["action"], e["session_id"]) == ("recording.downloaded", session_id) for e in entries)


async def test_a_waveform_and_markers_have_it_too(server):
    async with recorder(server.ws_url, sample_rate=RATE_HZ, format="wav") as client:
        await client.store(speech(1).tobytes())
        await client.socket.send(json.dumps({"type": "marker", "label": "here"}))
        await client.answer()
        await client.store(speech(1).tobytes())
        shown = (await get(server, f"{client.session_id}/waveform")).json()
        assert shown["duration_seconds"] == 2.0
        await client.store(speech(1).tobytes())
        await until_a_window_is_old()
        assert (await get(server, f"{client.session_id}/waveform")).json()["duration_seconds"] == 3.0
        (marker,) = (await get(server, f"{client.session_id}/markers")).json()["results"]
        assert marker["position_seconds"] == 1.0


async def test_a_download_that_continues_does_not_change_the_version_that_it_continues(server):
    async with recorder(server.ws_url, sample_rate=RATE_HZ, format="wav") as client:
        await client.store(speech(1).tobytes())
        first = await get(server, f"{client.session_id}/audio")
        await client.store(speech(1).tobytes())
        await until_a_window_is_old()
        rest = {"Range": "bytes=1000-", "If-Range": first.headers["ETag"]}
        answer = await get(server, f"{client.session_id}/audio", headers=rest)
        assert (answer.status_code, answer.content) == (206, first.content[1000:])
        assert len((await get(server, f"{client.session_id}/audio")).content) == len(first.content) + 32000


async def test_a_page_that_listens_to_a_session_sees_it_grow(server):
    async with (
        recorder(server.ws_url, sample_rate=RATE_HZ, format="wav") as client,
        listening(server.url, session_id=client.session_id) as stream,
    ):
        for seconds in (1.0, 2.0, 3.0):
            await client.store(speech(1).tobytes())
            await stream.until(lambda: stream.heard and stream.heard[-1].data["duration_seconds"] == seconds)  # noqa: B023
