"""Hostile media through a real server: nothing else is opened, and the client is told why there is no audio."""

import contextlib
import struct

import pytest

from tests import bait
from tests.client import Rest, recorder


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture
def trap(tmp_path):
    with bait.set_in(tmp_path) as trap:
        yield trap


def assert_nothing_leaked(server, trap):
    trap.assert_untouched()
    assert bait.SECRET.decode() not in server.read_log()
    for path in server.folder.rglob("*"):
        assert not path.name.startswith("work-")
        # The server goes on working on its own files.
        with contextlib.suppress(FileNotFoundError):
            assert not path.is_file() or bait.SECRET not in path.read_bytes()


@pytest.mark.parametrize("audio_format", [name for name in bait.FORMATS if name not in ("mp3", "aac")])
async def test_lists_in_disguise(server, trap, audio_format):
    rest = Rest(server.url)
    # One session of whole files, one of a stream for each kind; the first magic is the whole of it.
    payloads = [bait.MAGIC[audio_format][0] + trap.bait(kind) for kind in bait.LISTS]
    sent = [("files", payloads), *(("stream", [payload]) for payload in payloads)]
    for chunk_mode, messages in sent:
        async with recorder(server.ws_url, format=audio_format, chunks=chunk_mode) as client:
            assert await client.store(*messages) == list(range(1, len(messages) + 1))
            await client.close_session()
        recording = rest.finished(client.session_id)["recording"]
        assert recording["state"] == "failed", recording
        answer = rest.http.get(f"/api/audio/sessions/{client.session_id}/audio")
        assert answer.status_code == 409
        assert answer.json()["code"] == "recording_failed"
        assert answer.json()["reason"] == "undecodable_chunk"
        assert answer.json()["sequence"] == 1
        assert str(server.folder) not in answer.text
        assert rest.session(client.session_id)["total_chunks"] == len(messages)
    assert_nothing_leaked(server, trap)


@pytest.mark.parametrize("audio_format", ["flac", "webm", "ogg", "mp4"])
async def test_a_list_as_it_is_is_not_even_stored(server, trap, audio_format):
    async with recorder(server.ws_url, format=audio_format) as client:
        for kind in bait.LISTS:
            await client.send(trap.bait(kind))
            assert (await client.answer())["code"] == "missing_header"
        assert (await client.close_session())["chunk_count"] == 0
    assert Rest(server.url).session(client.session_id)["recording"]["state"] == "empty"
    assert_nothing_leaked(server, trap)


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
async def test_a_list_behind_the_header_of_one_frame_makes_no_recording(server, trap, audio_format):
    async with recorder(server.ws_url, format=audio_format) as client:
        for kind in bait.LISTS:
            await client.send(bait.MAGIC[audio_format][0] + trap.bait(kind))
            await client.answer()
        await client.close_session()
    rest = Rest(server.url)
    if rest.session(client.session_id)["total_chunks"]:
        assert rest.finished(client.session_id)["recording"]["state"] == "failed"
    assert_nothing_leaked(server, trap)


@pytest.mark.parametrize(("rate_hz", "channels"), [(1, 1), (4_000_000_000, 1), (16000, 65535), (16000, 0)])
async def test_an_absurd_wav_header_is_rejected(server, trap, rate_hz, channels):
    layout = struct.pack("<IHHIIHH", 16, 1, channels, rate_hz, 0, 2 * channels & 0xFFFF, 16)
    async with recorder(server.ws_url, format="wav") as client:
        await client.store(bytes(3200), b"RIFF\0\0\0\0WAVEfmt " + layout + b"data\0\0\0\0" + bytes(100))
        await client.close_session()
    rest = Rest(server.url)
    assert rest.finished(client.session_id)["recording"]["state"] == "failed"
    answer = rest.http.get(f"/api/audio/sessions/{client.session_id}/audio").json()
    assert (answer["reason"], answer["sequence"]) == ("unsupported_media", 2)
    assert_nothing_leaked(server, trap)


async def test_the_server_records_on_beside_them(server, trap):
    samples = bytes(range(250)) * 64
    async with recorder(server.ws_url, format="wav") as client:
        await client.store(samples)
        await client.close_session()
    assert Rest(server.url).download(client.session_id)[80:] == samples
    assert_nothing_leaked(server, trap)
