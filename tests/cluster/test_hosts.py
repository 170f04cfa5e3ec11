"""Hosts that die, hang, or are cut off: the others go on, and what comes back too late can commit nothing more."""

import asyncio
import contextlib
import itertools
import socket

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Recorder, recorder
from tests.cluster.clients import chunk, load, samples
from tests.cluster.hosts import why_not
from tests.cluster.stack import Cluster, Web
from tests.server import DEADLINE_SECONDS, eventually

# A transaction that has locked rows and waits for its client.
IN_TRANSACTION = """
    SELECT 1 FROM pg_stat_activity
    WHERE state = 'idle in transaction' AND backend_xid IS NOT NULL AND application_name = %s
"""

HOSTS = "SELECT host FROM audio_ingestprocess ORDER BY host"
OUTAGE = f"the process is stopped ({why_not()})" if why_not() else "the link of its network namespace is cut"


@pytest.mark.parametrize("outage", [OUTAGE])
async def test_a_host_that_was_cut_off_can_commit_nothing_more_of_a_source_that_was_taken_over(
    cluster: Cluster, outage: str
):
    """It is back while what it had in flight is still tried: the epoch rejects that."""
    a, b = cluster.web
    assert [host for (host,) in cluster.database.query(HOSTS)] == expected_hosts(cluster)
    async with recorder(a.ws_url, source="mic") as old:
        flood = asyncio.create_task(send_without_end(old))
        await asyncio.to_thread(eventually, lambda: a.rest.session(old.session_id)["total_chunks"] > 20)
        cluster.cut_off(a.host)
        async with recorder(b.ws_url, old.session_id, source="mic") as new:
            stored = new.greeting["source_chunk_count"]
            cluster.reconnect(a.host)
            assert await old.close_code() == 4409
            await flood
            assert await new.store(chunk(2, 1)) == [stored + 1]
            await new.close_session()
    recorded = samples(await asyncio.to_thread(b.rest.download, old.session_id))
    assert recorded == b"".join([*(chunk(1, number) for number in range(1, stored + 1)), chunk(2, 1)])
    await asyncio.to_thread(cluster.until_whole)


async def send_without_end(client: Recorder) -> None:
    with contextlib.suppress(ConnectionClosed):
        for number in itertools.count(1):
            await client.send(chunk(1, number))
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("outage", [OUTAGE])
async def test_the_sessions_of_a_host_that_stays_away_are_closed_after_their_grace(cluster: Cluster, outage: str):
    """Its connections count as dropped after some missed heartbeats; when it is back it takes part as before."""
    a, b = cluster.web
    async with recorder(a.ws_url) as client:
        await client.store(chunk(1, 1))
        cluster.cut_off(a.host)
        await client.send(chunk(1, 2))
        await asyncio.to_thread(eventually, lambda: b.rest.session(client.session_id)["connections"] == 0)
        detail = await asyncio.to_thread(b.rest.finished, client.session_id)
        assert (detail["status"], detail["total_chunks"]) == ("completed", 1)
        cluster.reconnect(a.host)
        assert await client.close_code() in (1000, 1008)
    assert samples(await asyncio.to_thread(b.rest.download, client.session_id)) == chunk(1, 1)
    await asyncio.to_thread(cluster.until_whole)
    async with load([a], count=2) as clients:
        await clients.progress()
        await clients.finish(b.rest)


def expected_hosts(cluster: Cluster) -> list[str]:
    return sorted(host.name if host.has_link else socket.gethostname() for host in cluster.hosts)


async def test_kill_9_of_a_web_process_while_the_other_goes_on(cluster: Cluster):
    """Clients go on at the other; a session whose client does not come back is closed after its grace."""
    a, b = cluster.web
    async with load(cluster.web) as clients, recorder(a.ws_url, source="mic") as abandoned:
        await abandoned.store(chunk(99, 1))
        await clients.progress()
        await asyncio.to_thread(a.kill)
        await clients.progress()
        assert all(client.connections > 1 for client in clients.clients[::2])
        await clients.finish(b.rest)
    detail = await asyncio.to_thread(b.rest.finished, abandoned.session_id)
    assert (detail["status"], detail["connections"]) == ("completed", 0)
    assert samples(await asyncio.to_thread(b.rest.download, abandoned.session_id)) == chunk(99, 1)
    assert (
        cluster.database.query("SELECT application_name FROM pg_stat_activity WHERE application_name = %s", a.name)
        == []
    )
    assert len(cluster.database.query(HOSTS)) == 1


async def test_a_process_that_hangs_in_a_commit_keeps_nobody_waiting(cluster: Cluster):
    """Its transaction holds the locks of its sessions: the database gives it up, and the sources are taken over."""
    a, b = cluster.web
    async with load([a], count=4) as clients:
        await clients.progress()
        await freeze_in_a_transaction(cluster, a)
        for client in clients.clients:
            async with asyncio.timeout(DEADLINE_SECONDS), recorder(b.ws_url, client.session_id, source="mic") as taken:
                stored = taken.greeting["source_chunk_count"]
                assert client.acknowledged <= stored <= client.sent
                assert await taken.store(chunk(client.number, stored + 1)) == [stored + 1]
        a.thaw()


async def freeze_in_a_transaction(cluster: Cluster, web: Web) -> None:
    def is_in_one() -> bool:
        web.freeze()
        if cluster.database.query(IN_TRANSACTION, web.name):
            return True
        web.thaw()
        return False

    await asyncio.to_thread(eventually, is_in_one)
