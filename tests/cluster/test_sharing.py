"""Several processes serve one session: it goes on elsewhere, is written to from two, closed and paused from another."""

import asyncio
import contextlib
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psycopg
import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from audio import events
from tests.client import Recorder, recorder
from tests.cluster.clients import chunk, samples
from tests.cluster.stack import Cluster
from tests.server import DEADLINE_SECONDS, eventually
from tests.sound import wav_bytes

CHUNKS = 40
EPOCH = "SELECT epoch FROM audio_audiosource WHERE session_id = %s"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'"


def chunks(client: int, first: int = 1, last: int = CHUNKS) -> list[bytes]:
    return [chunk(client, number) for number in range(first, last + 1)]


async def test_a_session_goes_on_on_another_process(cluster: Cluster):
    a, b = cluster.web
    async with recorder(a.ws_url) as first:
        await first.store(*chunks(1))
    async with recorder(b.ws_url, first.session_id) as second:
        assert second.greeting["message"] == "Audio session resumed"
        assert second.greeting["chunk_count"] == CHUNKS
        assert await second.store(*chunks(2)) == list(range(CHUNKS + 1, 2 * CHUNKS + 1))
    async with recorder(a.ws_url, first.session_id) as third:
        await third.store(*chunks(3))
        assert (await third.close_session())["chunk_count"] == 3 * CHUNKS
    recorded = samples(await asyncio.to_thread(b.rest.download, first.session_id))
    assert recorded == b"".join(chunks(1) + chunks(2) + chunks(3))


async def test_a_ticket_of_one_process_opens_the_session_on_the_other(cluster: Cluster):
    a, b = cluster.web
    created = a.rest.http.post("/api/audio/sessions", json={}).json()
    (ticket,) = parse_qs(urlsplit(created["websocket_url"]).query)["ticket"]
    async with recorder(b.ws_url, created["session_id"], ticket=ticket) as client:
        assert await client.store(chunk(1, 1)) == [1]
    async with recorder(a.ws_url, created["session_id"], ticket=ticket) as again:
        assert again.greeting["code"] == "not_allowed"


async def test_a_source_is_taken_over_by_another_process(cluster: Cluster):
    """The old connection goes on sending all that it has; the new one sends what the greeting does not count."""
    a, b = cluster.web
    payloads = chunks(1, last=3 * CHUNKS)
    async with recorder(a.ws_url, source="mic") as old:
        await old.store(*payloads[:CHUNKS])
        flood = asyncio.create_task(send_on(old, payloads[CHUNKS:]))
        async with recorder(b.ws_url, old.session_id, source="mic") as new:
            stored = new.greeting["source_chunk_count"]
            assert CHUNKS <= stored <= len(payloads)
            await new.store(*payloads[stored:])
            assert await old.close_code() == 4409
            await flood
            assert (await new.close_session())["chunk_count"] == len(payloads)
    assert samples(await asyncio.to_thread(b.rest.download, old.session_id)) == b"".join(payloads)


async def send_on(client: Recorder, payloads: list[bytes]) -> None:
    with contextlib.suppress(ConnectionClosed):
        for payload in payloads:
            await client.send(payload)
            await asyncio.sleep(0.002)


async def test_what_the_channel_layer_loses_is_found_with_a_heartbeat(cluster: Cluster):
    """A take-over and a close on the other process, of connections that send nothing themselves."""
    a, b = cluster.web
    key = f"sercuescribe:group:{events.GROUP}"
    async with recorder(a.ws_url, source="mic") as old, recorder(a.ws_url) as bystander:
        with redis.Redis.from_url(cluster.broker.url()) as client:
            listeners = dict(client.zrange(key, 0, -1, withscores=True))
            client.delete(key)
            async with asyncio.timeout(DEADLINE_SECONDS), recorder(b.ws_url, old.session_id, source="mic") as new:
                b.rest.http.post(f"/api/audio/sessions/{bystander.session_id}/close")
                assert await old.close_code() == 4409
                assert await bystander.close_code() == 1000
                await new.store(chunk(1, 1))
            client.zadd(key, listeners)


@pytest.mark.parametrize("mode", ["stream", "files"])
async def test_two_processes_write_to_one_session_at_once(cluster: Cluster, mode):
    """The places in the session are dense, each producer's are in its order, and the recording is in theirs."""
    a, b = cluster.web
    payloads = [chunks(number) for number in (1, 2)]
    if mode == "files":
        payloads = [[wav_bytes(np.frombuffer(each, "<i2")[:, None], 44100) for each in some] for some in payloads]
    async with recorder(a.ws_url, chunks=mode) as first, recorder(b.ws_url, first.session_id) as second:
        places = await asyncio.gather(*[one_by_one(*each) for each in zip((first, second), payloads, strict=True)])
        await first.close_session()
        assert await second.close_code() == 1000
    assert sorted(places[0] + places[1]) == list(range(1, 2 * CHUNKS + 1))
    assert all(each == sorted(each) for each in places)
    # Both really wrote at the same time.
    assert places[0] != list(range(1, CHUNKS + 1))
    assert places[1] != list(range(1, CHUNKS + 1))
    expected = dict(zip(places[0] + places[1], chunks(1) + chunks(2), strict=True))
    recorded = samples(await asyncio.to_thread(b.rest.download, first.session_id))
    assert recorded == b"".join(expected[place] for place in sorted(expected))


async def one_by_one(client: Recorder, payloads: list[bytes]) -> list[int]:
    return [(await client.store(payload))[0] for payload in payloads]


async def test_closing_over_rest_on_one_process_ends_the_connections_of_the_other(cluster: Cluster):
    a, b = cluster.web
    async with recorder(b.ws_url) as client:
        await client.store(*chunks(1))
        answer = await asyncio.to_thread(a.rest.http.post, f"/api/audio/sessions/{client.session_id}/close")
        assert answer.json()["success"]
        last = await client.answer()
        assert (last["message"], last["status"]) == ("Session closed successfully", "completed")
        assert await client.close_code() == 1000
    assert samples(await asyncio.to_thread(b.rest.download, client.session_id)) == b"".join(chunks(1))


async def test_a_pause_on_one_process_rejects_on_the_other(cluster: Cluster):
    a, b = cluster.web
    async with recorder(a.ws_url) as first, recorder(b.ws_url, first.session_id) as second:
        assert await second.store(chunk(2, 1)) == [1]
        await first.control("pause")
        await second.send(chunk(2, 2))
        assert (await second.answer())["code"] == "session_paused"
        await second.control("resume")
        assert await first.store(chunk(1, 1)) == [2]


async def test_the_limit_on_connections_counts_those_of_every_process(cluster: Cluster):
    a, b = cluster.web
    async with recorder(a.ws_url) as first:
        opened = [recorder(web.ws_url, first.session_id) for web in (a, b, b, a)]
        others = [await each.__aenter__() for each in opened]
        assert [other.greeting.get("code") for other in others] == [None] * 4
        for web in (a, b):
            async with recorder(web.ws_url, first.session_id) as one_too_many:
                assert one_too_many.greeting["code"] == "too_many_connections"
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in opened))


async def test_a_deletion_never_meets_a_commit_in_a_circle(cluster: Cluster):
    """Both lock a session before its sources: while a commit holds the one, a deletion does not hold the others."""
    a, _ = cluster.web
    async with recorder(a.ws_url, source="mic") as client:
        await client.store(chunk(1, 1))
        await client.close_session()
    with psycopg.connect(cluster.database.url()) as commit:
        commit.execute("SELECT 1 FROM audio_audiosession WHERE id = %s FOR UPDATE", [client.session_id])
        path = f"/api/audio/sessions/{client.session_id}"
        deletion = asyncio.create_task(asyncio.to_thread(a.rest.http.delete, path))
        await asyncio.to_thread(eventually, lambda: cluster.database.query(WAITING))
        sources = "SELECT 1 FROM audio_audiosource WHERE session_id = %s FOR UPDATE NOWAIT"
        assert commit.execute(sources, [client.session_id]).fetchall() == [(1,)]
    assert (await deletion).status_code == 204


async def test_a_client_that_lost_its_patience_is_not_superseded_by_its_own_older_attempt(cluster: Cluster):
    """What it gave up on one process, because the database let it wait, is done after it is connected to the other."""
    a, b = cluster.web
    async with recorder(a.ws_url, source="mic") as client:
        await client.store(chunk(1, 1))
    with psycopg.connect(cluster.database.url()) as slow:
        slow.execute("SELECT 1 FROM audio_audiosession WHERE id = %s FOR UPDATE", [client.session_id])
        async with connect(f"{a.ws_url}/api/ws/audio/{client.session_id}?source=mic"):
            await asyncio.to_thread(eventually, lambda: cluster.database.query(WAITING))
    async with recorder(b.ws_url, client.session_id, source="mic") as again:
        assert again.greeting["source_chunk_count"] == 1
        assert cluster.database.query(EPOCH, client.session_id) == [(2,)]
        await asyncio.to_thread(eventually, lambda: b.rest.session(client.session_id)["connections"] == 1)
        assert await again.store(chunk(1, 2)) == [2]
