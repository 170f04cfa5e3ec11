"""PostgreSQL becomes read-only, as after a failover or at a provider's limit: that is as if it were away."""

import asyncio
from urllib.parse import urlsplit

import psycopg

from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import DEADLINE_SECONDS, ROLES, Server, eventually

CHUNK = bytes(3200)


def set_read_only(url: str, value: str) -> None:
    """Make the database read-only or writable, for those who connect from now on, and have everybody connect anew."""
    name = urlsplit(url).path.lstrip("/")
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid != pg_backend_pid()"
        connection.execute(others, [name])


async def test_nothing_ends_and_all_goes_on_when_it_is_writable_again(run_server: RunServer, postgres_url: str):
    server = run_server(DATABASE_URL=postgres_url, DISCONNECT_GRACE_SECONDS="3600", SWEEP_INTERVAL_SECONDS="0.2")
    rest = Rest(server.url).http
    children = {role: server.child(role) for role in ROLES}
    async with recorder(server.ws_url, source="mic") as client:
        assert await client.store(CHUNK) == [1]
        await asyncio.to_thread(set_read_only, postgres_url, "on")
        await client.send(CHUNK)
        answer = await client.answer()
        assert (answer["code"], answer["retryable"]) == ("database_unavailable", True)
        assert await client.close_code() == 1013
    rejected = rest.post("/api/audio/sessions", json={})
    assert (rejected.status_code, rejected.json()["code"]) == (503, "database_unavailable")
    rejected = rest.delete(f"/api/audio/sessions/{client.session_id}")
    assert (rejected.status_code, rejected.json()["code"]) == (503, "database_unavailable")
    assert rest.get(f"/api/audio/sessions/{client.session_id}").status_code == 200
    health = rest.get("/health/ready")
    assert (health.status_code, health.json()["down"]) == (503, ["database"])
    eventually(lambda: "sweep_put_off" in server.read_log())
    set_read_only(postgres_url, "off")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await stored_one_more(server, client.session_id):  # noqa: ASYNC110 - until all have connected anew
            await asyncio.sleep(0.2)
    assert (await asyncio.to_thread(Rest(server.url).download, client.session_id)).endswith(2 * CHUNK)
    assert {role: server.child(role) for role in ROLES} == children
    assert "Traceback" not in server.read_log()


async def stored_one_more(server: Server, session_id: str) -> bool:
    """Store a second chunk and close the session; return whether the server was ready for it."""
    async with recorder(server.ws_url, session_id, source="mic") as client:
        if client.greeting.get("retryable"):
            return False
        assert client.greeting["source_chunk_count"] == 1
        assert await client.store(CHUNK) == [2]
        await client.close_session()
    return True
