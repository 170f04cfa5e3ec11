"""The recorder against a real server: exact recordings through pauses, markers, limits and broken connections."""

import asyncio

import pytest
from sercuescribe_client import (
    AsyncClient,
    Client,
    ConflictError,
    IncompleteError,
    InvalidRequestError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    RecordOptions,
    ServerUnreachableError,
    UsageError,
)

from tests.docs.proxy import cutting_proxy
from tests.server import free_port
from tests.sound import cut, samples_of, speech, wav_bytes

PCM = RecordOptions(format="wav", sample_rate=16000, channels=1)


async def samples(client: AsyncClient, session_id: str) -> bytes:
    await client.sessions.wait_until_ready(session_id)
    return samples_of(b"".join([block async for block in client.sessions.read(session_id)]))


async def test_it_records_exactly_with_details_pauses_and_markers(client):
    sound = speech(2).tobytes()
    first, second = sound[:32000], sound[32000:]
    options = RecordOptions(name="A talk", metadata={"room": "4"}, user_id="Ana", source="desk")
    async with client.record(**PCM, **options) as recorder:
        for chunk in cut(first, 3200):
            await recorder.send(chunk)
        await recorder.pause()
        with pytest.raises(InvalidRequestError, match="paused"):
            await recorder.send(b"lost")
        await recorder.resume()
        await recorder.marker("Half")
        for chunk in cut(second, 3200):
            await recorder.send(chunk)
        await recorder.flush()
        assert (recorder.acknowledged_chunk_count, recorder.pending_bytes) == (20, 0)
        with pytest.raises(InvalidRequestError, match="invalid_marker"):
            await recorder.marker("")
    assert recorder.acknowledged_bytes == len(sound)
    assert await samples(client, recorder.session_id) == sound
    session = await client.sessions.get(recorder.session_id)
    assert (session["name"], session["metadata"], session["user_id"]) == ("A talk", {"room": "4"}, "Ana")
    (marker,) = await client.markers.list(recorder.session_id)
    assert (marker["label"], marker["position_seconds"]) == ("Half", 1.0)
    await recorder.close()
    with pytest.raises(UsageError, match="closed"):
        await recorder.send(b"more")


@pytest.mark.parametrize("spool", [False, True])
async def test_cuts_of_the_network_leave_no_gap_and_no_duplicate(server, key, client, spool):
    sound = speech(4).tobytes()
    cuts = [20_000, 0, 1, 30_000, 1500]
    options: RecordOptions = {**PCM, "spool": spool, "max_pending_bytes": 20_000}
    async with cutting_proxy(server.url, cuts) as proxy, AsyncClient(f"http://{proxy.address}", key) as cut_off:
        async with cut_off.record(**options) as recorder:
            for chunk in cut(sound, 3200, 1, 1000):
                await recorder.send(chunk)
            await recorder.marker("End")
        assert proxy.connections > len(cuts)
        assert recorder.reconnect_count
    assert await samples(client, recorder.session_id) == sound
    assert "End" in [marker["label"] for marker in await client.markers.list(recorder.session_id)]


def test_the_plain_client_records_exactly(server, key):
    sound = speech(1, 22050, 2)
    with Client(server.url, key) as client:
        with client.record(source="desk") as recorder:
            for chunk in cut(wav_bytes(sound, 22050), 4096):
                recorder.send(chunk)
            recorder.flush()
            recorder.marker("End")
            acknowledged = recorder.acknowledged_chunk_count
        assert acknowledged == recorder.acknowledged_chunk_count == 22
        session = client.sessions.wait_until_ready(recorder.session_id)
        assert (session["sample_rate"], session["channels"]) == (22050, 2)
        assert samples_of(b"".join(client.sessions.read(recorder.session_id))) == sound.tobytes()
        assert recorder.session_id in {found["session_id"] for found in client.sessions.iterate()}
        with pytest.raises(NotFoundError), client.record(session_id="123e4567-e89b-42d3-a456-426614174000"):
            pass


async def test_an_exception_leaves_the_session_open_and_another_recorder_continues_it(client):
    sound = speech(1).tobytes()
    with pytest.raises(ZeroDivisionError):
        async with client.record(**PCM, source="desk") as recorder:
            await recorder.send(sound[:16000])
            await recorder.flush()
            raise ZeroDivisionError
    assert (await client.sessions.get(recorder.session_id))["status"] == "active"
    async with client.record(session_id=recorder.session_id, source="desk") as later:
        assert later.resumed_chunk_count == 1
        await later.send(sound[16000:])
    assert await samples(client, recorder.session_id) == sound


async def test_a_newer_connection_ends_the_older_one(client):
    with pytest.raises(ConflictError, match="superseded"):
        async with client.record(**PCM, source="desk") as older:
            await older.send(b"\0" * 320)
            await older.flush()
            async with client.record(session_id=older.session_id, source="desk"):
                await older.marker("never")


async def test_a_session_that_is_closed_elsewhere_ends_the_recording(client):
    async with client.record(**PCM) as idle:
        await client.sessions.close(idle.session_id)
        with pytest.raises(ConflictError, match="session_closed"):
            while True:
                await idle.marker("late")
    with pytest.raises((ConflictError, IncompleteError)) as caught:
        async with client.record(**PCM) as recorder:
            await client.sessions.close(recorder.session_id)
            while True:
                await recorder.send(b"\0" * 320)
                await asyncio.sleep(0)
    assert isinstance(caught.value, IncompleteError) or caught.value.code == "session_closed"


async def test_a_lost_answer_to_the_close_is_looked_up(server, key, client):
    """The proxy cuts the connection when it has passed the close on, so that the answers may be lost."""
    sound = speech(1).tobytes()
    for size in (len(sound) + 3000, len(sound) + 700, len(sound) + 500):
        async with cutting_proxy(server.url, [size]) as proxy, AsyncClient(f"http://{proxy.address}", key) as cut_off:
            async with cut_off.record(**PCM) as recorder:
                for chunk in cut(sound, 3200):
                    await recorder.send(chunk)
            assert recorder.acknowledged_bytes == len(sound)
        assert await samples(client, recorder.session_id) == sound


async def test_what_the_server_rejects_is_raised_with_its_code(client, server, key):
    with pytest.raises(InvalidRequestError, match="sample_rate must be one of") as caught:
        async with client.record(format="wav", sample_rate=12345):
            pass
    assert caught.value.code == "invalid_parameter" and 16000 in caught.value.details["valid_values"]
    with pytest.raises(InvalidRequestError, match="format_mismatch"):
        async with client.record(format="mp3") as recorder:
            await recorder.send(wav_bytes(speech(1), 16000))
            await recorder.flush()
    async with client.record(**PCM) as recorder:
        with pytest.raises(InvalidRequestError, match="message_too_large"):
            await recorder.send(bytes(recorder.greeting["max_message_size_bytes"] + 1))
    async with AsyncClient(server.url, "scribe_key_wrong") as stranger:
        with pytest.raises(NotAuthenticatedError):
            async with stranger.record():
                pass
    limited = await client.keys.create("listener", ["read"])
    async with AsyncClient(server.url, limited["key"]) as listener:
        with pytest.raises(NotAllowedError, match="not_allowed"):
            async with listener.record():
                pass


async def test_a_server_that_is_not_there_is_unreachable(monkeypatch):
    monkeypatch.setattr("sercuescribe_client.recorder.FIRST_GREETING_SECONDS", 0.0)
    monkeypatch.setattr("sercuescribe_client.transport.MAX_ATTEMPTS", 1)
    async with AsyncClient(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(ServerUnreachableError, match="does not answer"):
            async with client.record():
                pass
        with pytest.raises(ServerUnreachableError, match="does not answer"):
            await client.sessions.list()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://scribe.example.org", "http://", "http://host/?a=b"])
def test_an_address_that_is_none_is_rejected(url):
    with pytest.raises(UsageError, match="must look like"):
        AsyncClient(url)


async def test_the_environment_names_the_server_and_the_key(server, key, monkeypatch):
    monkeypatch.setenv("SERCUESCRIBE_URL", server.url)
    monkeypatch.setenv("SERCUESCRIBE_API_KEY", key)
    async with AsyncClient() as client:
        assert client.url == server.url
        assert [project["name"] for project in await client.projects.list()] == ["default"]
    monkeypatch.delenv("SERCUESCRIBE_API_KEY")
    async with AsyncClient() as stranger:
        with pytest.raises(NotAuthenticatedError):
            await stranger.projects.list()


async def test_an_answer_that_is_not_that_of_a_sercuescribe_says_so(server, monkeypatch):
    monkeypatch.setattr("sercuescribe_client.recorder.FIRST_GREETING_SECONDS", 0.0)
    async with AsyncClient(f"{server.url}/elsewhere") as client:
        with pytest.raises(NotFoundError):
            await client.sessions.list()
        with pytest.raises(NotAllowedError, match="rejected the connection with"):
            async with client.record():
                pass
