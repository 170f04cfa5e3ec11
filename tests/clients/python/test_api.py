"""The HTTP API through the client: sessions, downloads, markers, tokens, keys, webhooks, tasks and events."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from sercuescribe_client import (
    AsyncClient,
    Client,
    ConflictError,
    DownloadDamagedError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
)

from tests.docs.proxy import cutting_proxy
from tests.server import eventually
from tests.sound import samples_of, speech, wav_bytes

SOUND = speech(4, 16000, 2)


@pytest.fixture(scope="module")
def recorded(server, key) -> str:
    """A session with a recording of some hundred kilobytes."""
    with Client(server.url, key) as client:
        with client.record(name="Shared", metadata={"kind": "shared"}) as recorder:
            recorder.send(wav_bytes(SOUND, 16000))
        client.sessions.wait_until_ready(recorder.session_id)
    return recorder.session_id


async def test_sessions_are_created_changed_listed_closed_and_deleted(client):
    made = await client.sessions.create(name="First", metadata={"room": "7", "day": "1"}, user_id="Ana", format="wav")
    assert "ticket=" in made["websocket_url"]
    other = await client.sessions.create(metadata={"room": "7"})
    changed = await client.sessions.update(made["session_id"], name="Second", metadata={"day": None})
    assert (changed["name"], changed["metadata"]) == ("Second", {"room": "7"})
    page = await client.sessions.list(metadata={"room": "7"}, page_size=1)
    assert [session["session_id"] for session in page.items] == [other["session_id"]]
    page = await client.sessions.list(metadata={"room": "7"}, page_size=1, cursor=page.next_cursor)
    assert [session["session_id"] for session in page.items] == [made["session_id"]]
    named = [session["session_id"] async for session in client.sessions.iterate(name="Sec", status="active")]
    assert named == [made["session_id"]]
    assert (await client.sessions.close(made["session_id"]))["status"] == "completed"
    with pytest.raises(NotFoundError, match="recording_empty"):
        await client.sessions.wait_until_ready(made["session_id"])
    for session in (made, other):
        await client.sessions.delete(session["session_id"])
    with pytest.raises(NotFoundError, match="session_not_found"):
        await client.sessions.get(made["session_id"])
    with pytest.raises(InvalidRequestError, match="invalid_session_id"):
        await client.sessions.get("nothing")
    with pytest.raises(NotFoundError, match="not_found"):
        await client.sessions.get("../../keys")


async def test_a_session_that_stays_open_is_not_ready_in_time(client):
    made = await client.sessions.create()
    with pytest.raises(TimeoutError, match="not ready after"):
        await client.sessions.wait_until_ready(made["session_id"], timeout_seconds=0)
    await client.sessions.delete(made["session_id"])


async def test_a_download_continues_after_cuts_of_the_network(server, key, client, recorded, tmp_path):
    seen = []
    whole = (await client.sessions.get(recorded))["recording"]
    cuts = [100_000, 0, 50_000]
    async with cutting_proxy(server.url, cuts, of_answers=True) as proxy:
        async with AsyncClient(f"http://{proxy.address}", key) as cut_off:
            done = await cut_off.sessions.download(
                recorded, tmp_path / "a.wav", on_progress=lambda *at: seen.append(at)
            )
        assert proxy.connections > len(cuts)
    assert (done.sha256, done.size_bytes, done.is_verified) == (whole["sha256"], whole["size_bytes"], True)
    assert samples_of(done.path.read_bytes()) == SOUND.tobytes()
    assert seen[-1] == (whole["size_bytes"], whole["size_bytes"])
    # A download that started again from the beginning would go back.
    assert seen == sorted(seen)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


async def interrupted(client: AsyncClient, session_id: str, path: Path) -> Path:
    """Interrupt a download in its middle, and return what it has left."""

    class InterruptionError(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        raise InterruptionError

    with pytest.raises(InterruptionError):
        await client.sessions.download(session_id, path, on_progress=interrupt)
    part = path.with_name(f"{path.name}.part")
    assert part.stat().st_size > 0
    return part


async def test_a_second_attempt_continues_what_the_first_one_left(client, recorded, tmp_path):
    await interrupted(client, recorded, tmp_path / "a.wav")
    size_bytes = 1000
    with (tmp_path / "a.wav.part").open("r+b") as part:
        part.truncate(size_bytes)
    seen = []
    done = await client.sessions.download(recorded, tmp_path / "a.wav", on_progress=lambda *at: seen.append(at))
    assert samples_of(done.path.read_bytes()) == SOUND.tobytes() and done.is_verified
    assert seen[0][0] > size_bytes and seen[-1] == (done.size_bytes, done.size_bytes)


async def test_the_rest_of_another_version_of_the_file_is_not_appended(client, recorded, tmp_path):
    part = await interrupted(client, recorded, tmp_path / "a.wav")
    part.write_bytes(b"another version")
    (tmp_path / "a.wav.part.json").write_text(json.dumps({"etag": '"another"'}))
    done = await client.sessions.download(recorded, tmp_path / "a.wav")
    assert samples_of(done.path.read_bytes()) == SOUND.tobytes()


async def test_a_wrong_sha256_is_noticed_and_nothing_wrong_is_kept(client, recorded, tmp_path):
    part = await interrupted(client, recorded, tmp_path / "a.wav")
    with part.open("r+b") as file:
        file.seek(100)
        file.write(b"wrong")
        file.truncate(1000)
    with pytest.raises(DownloadDamagedError, match="its SHA-256 is"):
        await client.sessions.download(recorded, tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []
    assert (await client.sessions.download(recorded, tmp_path / "a.wav")).is_verified


async def test_a_complete_part_needs_no_byte_more(client, recorded, tmp_path):
    done = await client.sessions.download(recorded, tmp_path / "b.wav")
    part = await interrupted(client, recorded, tmp_path / "a.wav")
    part.write_bytes(done.path.read_bytes())
    assert (await client.sessions.download(recorded, tmp_path / "a.wav")).sha256 == done.sha256


async def test_other_formats_are_made_with_progress(client, recorded, tmp_path):
    seen = []
    done = await client.sessions.download(recorded, tmp_path / "a.flac", format="flac", on_making=seen.append)
    assert done.path.read_bytes().startswith(b"fLaC") and not done.is_verified
    assert all(0 <= fraction <= 1 for fraction in seen)
    task = await client.sessions.transcode(recorded, "mp3", on_progress=seen.append)
    assert (task["status"], task["progress"], task["format"]) == ("completed", 1.0, "mp3")
    assert task["task_id"] in {each["task_id"] for each in await client.tasks.list(recorded)}
    with pytest.raises(ConflictError, match="task_ended"):
        await client.tasks.revoke(task["task_id"])
    with pytest.raises(InvalidRequestError, match="invalid_parameter"):
        await client.sessions.download(recorded, tmp_path / "a.aiff", format="aiff")
    checked = await client.tasks.wait((await client.tasks.start("verify", recorded))["task_id"])
    assert checked["result"]["problem_count"] == 0


async def test_the_waveform_has_the_points_that_were_asked_for(client, recorded):
    shown = await client.sessions.waveform(recorded, points=50, start=1, end=2)
    assert len(shown["minimum"]) == len(shown["maximum"]) == 50
    assert (shown["start_seconds"], shown["end_seconds"], shown["duration_seconds"]) == (1.0, 2.0, 4.0)


async def test_markers_are_added_changed_and_deleted_and_downloaded_as_cue_points(client, recorded, tmp_path):
    made = await client.markers.add(recorded, "Früh", 1.5)
    other = await client.markers.add(recorded, "End")
    changed = await client.markers.update(recorded, made["marker_id"], label="Frueh")
    assert (changed["label"], changed["position_seconds"]) == ("Frueh", 1.5)
    assert (await client.markers.update(recorded, made["marker_id"], position_seconds=2))["position_seconds"] == 2
    cued = await client.sessions.download(recorded, tmp_path / "a.wav", markers=True)
    assert b"cue " in cued.path.read_bytes() and not cued.is_verified
    await client.markers.delete(recorded, other["marker_id"])
    assert [marker["label"] for marker in await client.markers.list(recorded)] == ["Frueh"]


async def test_keys_and_tokens_give_what_they_say(server, client):
    made = await client.keys.create("reader", ["read"], expires_at="2999-01-01T00:00:00Z")
    assert made["id"] in {key["id"] for key in await client.keys.list("default")}
    async with AsyncClient(server.url, made["key"]) as reader:
        assert (await reader.sessions.list()).items is not None
        with pytest.raises(NotAllowedError):
            await reader.sessions.create()
        assert (await client.keys.revoke(made["id"]))["revoked_at"]
    session = await client.sessions.create()
    token = await client.tokens.create(session["session_id"], expires_in_seconds=600)
    device = AsyncClient(server.url, token["token"])
    async with device, device.record(session_id=session["session_id"]) as recorder:
        await recorder.send(b"\0" * 320)
    listener = await client.tokens.create(session["session_id"], "listen")
    listed = await client.tokens.list(session["session_id"])
    assert {each["purpose"] for each in listed} == {"record", "listen"}
    assert (await client.tokens.revoke(session["session_id"], listener["id"]))["revoked_at"]


async def test_webhooks_are_managed(client):
    hook = await client.webhooks.create("http://127.0.0.1:9/hook", ["recording.ready"], description="a test")
    assert hook["secret"] and hook["id"] in {each["id"] for each in await client.webhooks.list()}
    assert (await client.webhooks.rotate(hook["id"]))["secret"] != hook["secret"]
    sent = await client.webhooks.test(hook["id"])
    assert sent["event_type"] == "webhook.test"
    assert sent["id"] in [each["id"] async for each in client.webhooks.deliveries(hook["id"])]
    assert (await client.webhooks.replay(hook["id"], sent["id"]))["id"] == sent["id"]
    assert not (await client.webhooks.update(hook["id"], is_enabled=False))["is_enabled"]
    assert (await client.webhooks.get(hook["id"]))["event_types"] == ["recording.ready"]
    await client.webhooks.delete(hook["id"])
    with pytest.raises(NotFoundError, match="webhook_not_found"):
        await client.webhooks.get(hook["id"])


async def test_events_continue_after_a_cut_without_a_hole_and_without_a_duplicate(server, key, client):
    session = await client.sessions.create(format="wav", sample_rate=16000, channels=1)
    session_id = session["session_id"]
    opened = asyncio.Event()

    async def listen(to: AsyncClient) -> list[str]:
        types = []
        async for event in to.events([session_id], after="0"):
            opened.set()
            assert event.data["session_id"] == session_id
            assert (event.id is None) == (event.position is None) == (event.type == "session.progress")
            types += [event.type] if event.id else []
            if event.type == "recording.ready":
                return types
        return []

    # The first connection is cut after its headers and the first event.
    async with cutting_proxy(server.url, [800], of_answers=True) as proxy:
        async with AsyncClient(f"http://{proxy.address}", key) as cut_off:
            listening = asyncio.create_task(listen(cut_off))
            await opened.wait()
            async with client.record(session_id=session_id) as recorder:
                await recorder.send(b"\0" * 3200)
            assert await listening == ["session.opened", "session.closed", "recording.ready"]
        assert proxy.connections > 1


async def test_a_live_recording_is_followed_to_its_end(client):
    sound = speech(2).tobytes()
    async with client.record(format="wav", sample_rate=16000, channels=1) as recorder:
        await recorder.send(sound[:32000])
        await recorder.flush()
        followed = bytearray()

        async def follow() -> None:
            async for block in client.sessions.follow(recorder.session_id):
                followed.extend(block)

        following = asyncio.create_task(follow())
        await asyncio.to_thread(eventually, lambda: len(followed) > 32000)
        await recorder.send(sound[32000:])
    await following
    assert followed[4:8] == followed[76:80] == b"\xff\xff\xff\xff"
    assert bytes(followed[80:]) == sound
    ready = b"".join([block async for block in client.sessions.follow(recorder.session_id)])
    session = await client.sessions.get(recorder.session_id)
    assert hashlib.sha256(ready).hexdigest() == session["recording"]["sha256"]
