"""Any one part is stopped, killed and started again under load: no acknowledged chunk is lost, clients finish."""

import asyncio
import signal
from typing import Any

import pytest

from tests.client import recorder
from tests.cluster.clients import chunk, load, samples
from tests.cluster.stack import Cluster, Web
from tests.server import DEADLINE_SECONDS, eventually

# uvicorn ends by the signal that it was sent, after everything is settled.
CLEAN = {0, -signal.SIGTERM}


async def ready(*parts) -> None:
    """Waits until the parts, which were launched, work."""
    for part in parts:
        await asyncio.to_thread(part.wait_until_ready)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["fast", "kill -9"])
async def test_postgresql_is_restarted(cluster: Cluster, number):
    async with load(cluster.web) as clients:
        await clients.progress()
        await asyncio.to_thread(cluster.database.stop, number)
        cluster.database.launch()
        await ready(cluster.database)
        await clients.progress()
        await clients.finish(cluster.web[0].rest)


async def test_redis_loses_everything(cluster: Cluster):
    async with load(cluster.web) as clients:
        await clients.progress()
        await asyncio.to_thread(cluster.broker.kill)
        await clients.progress()
        # A worker looks for it at short intervals, however long it is away.
        worker = cluster.workers[0]
        await asyncio.to_thread(eventually, lambda: worker.read_log().count("Trying again in 2.00 seconds") >= 4)
        assert worker.read_log().count("Trying again in") == worker.read_log().count("Trying again in 2.00 seconds")
        cluster.broker.launch()
        await ready(cluster.broker)
        await clients.finish(cluster.web[0].rest)


async def test_redis_hangs(cluster: Cluster):
    """It takes connections and says nothing. What is only a hint is given up after some seconds, or as many sessions
    as there are threads for opening and closing (four) would be the last of a process."""
    web = cluster.web[0]
    async with load(cluster.web, count=2) as clients:
        await clients.progress()
        cluster.broker.freeze()
        await clients.progress()
        async with asyncio.timeout(3 * DEADLINE_SECONDS):
            recorded = await asyncio.gather(*[record_one(web, number) for number in range(4)])
            recorded.append(await record_one(web, 4))
        cluster.broker.thaw()
        await clients.finish(web.rest)
    for number, session_id in enumerate(recorded):
        assert samples(await asyncio.to_thread(web.rest.download, session_id)) == chunk(number, 1)


async def record_one(web: Web, number: int) -> str:
    async with recorder(web.ws_url) as client:
        await client.store(chunk(number, 1))
        await client.close_session()
        return client.session_id


async def test_every_process_is_restarted_one_after_the_other(cluster: Cluster):
    """As for an upgrade: SIGTERM, and started again; one web process and one worker at a time."""
    async with load(cluster.web) as clients:
        await clients.progress()
        for parts in zip(cluster.web, cluster.workers, strict=True):
            for part in parts:
                assert await asyncio.to_thread(part.stop) in CLEAN
                part.launch()
            await ready(*parts)
            await clients.progress(10)
        await clients.finish(cluster.web[1].rest)
        assert {code for client in clients.clients for code in client.close_codes} <= {1000, 1012}


async def test_a_web_process_stops_in_order_while_the_database_is_away(cluster: Cluster):
    """What can't be committed is not acknowledged, and the clients are told to reconnect."""
    web = cluster.web[0]
    async with recorder(web.ws_url, source="mic") as client:
        await client.store(chunk(1, 1))
        await asyncio.to_thread(cluster.database.kill)
        assert await asyncio.to_thread(web.stop) in CLEAN
        assert await client.close_code() == 1012
    assert "Traceback" not in web.read_log()
    cluster.database.launch()
    await ready(cluster.database)
    # A process may find out with the first request that its connections to the database are gone.
    greeting = {"retryable": True}
    async with asyncio.timeout(DEADLINE_SECONDS):
        while greeting.get("retryable"):
            greeting = await greeted(cluster.web[1], client.session_id)
    assert greeting["source_chunk_count"] == 1


async def greeted(web: Web, session_id: str) -> dict[str, Any]:
    """Connect as the source once more; return the first message."""
    async with recorder(web.ws_url, session_id, source="mic") as again:
        return again.greeting
