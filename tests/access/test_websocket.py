"""The door of the WebSocket, on a real server that asks who is there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import connect

from tests.client import Recorder, recorder
from tests.server import Server, eventually

SESSIONS = "/api/audio/sessions"


@pytest.fixture(scope="module")
def server(run_module_server) -> Server:
    return run_module_server(REQUIRE_AUTH="true")


def new_key(server: Server, *scopes: str, project: str = "clinic") -> str:
    """An API key, made by the command."""
    options = [option for scope in scopes for option in ("--scope", scope)]
    return server.manage("apikey", "create", "program", *options, "--project", project, "--create-project").strip()


@pytest.fixture(scope="module")
def key(server) -> str:
    return new_key(server, "read", "record", "manage")


@pytest.fixture
def rest(server, key):
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


@contextlib.asynccontextmanager
async def opened(server: Server, path: str = "", **options: Any) -> AsyncIterator[Recorder]:
    """A connection with these headers or subprotocols."""
    url = f"{server.ws_url}/api/ws/audio{path}"
    async with connect(url, compression=None, open_timeout=90, **options) as socket:
        yield Recorder(socket, json.loads(await socket.recv()))


def bearer(secret: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {secret}"}}


@pytest.mark.parametrize("options", [{}, bearer("nonsense"), {"subprotocols": ["bearer", "nonsense"]}])
async def test_a_stranger_is_told_what_is_missing(server, options):
    async with opened(server, **options) as client:
        assert client.greeting["code"] == "not_authenticated"
        assert client.greeting["retryable"] is False
        assert await client.close_code() == 1008
    async with opened(server, "/123e4567-e89b-42d3-a456-426614174000", **options) as client:
        assert client.greeting["code"] == "not_authenticated"


async def test_a_key_opens_sessions_of_its_project_alone(server, key, rest):
    async with opened(server, **bearer(key)) as client:
        await client.store(b"abcd")
        session_id = client.session_id
    assert rest.get(f"{SESSIONS}/{session_id}").status_code == 200
    other = new_key(server, "read", "record", "manage", project="elsewhere")
    async with opened(server, f"/{session_id}", **bearer(other)) as client:
        assert client.greeting["code"] == "session_not_found"
    reader = new_key(server, "read")
    async with opened(server, f"/{session_id}", **bearer(reader)) as client:
        assert client.greeting["code"] == "not_allowed"
    async with opened(server, **bearer(reader)) as client:
        assert client.greeting["code"] == "not_allowed"
    async with opened(server, "?project=elsewhere", **bearer(key)) as client:
        assert client.greeting["code"] == "project_not_found"


async def test_a_browser_with_a_token_reconnects_until_the_session_closes(server, rest):
    """It can set no header: the token is a subprotocol, or is in the query."""
    session_id = rest.post(SESSIONS, json={"format": "wav", "sample_rate": 8000}).json()["session_id"]
    made = rest.post(f"{SESSIONS}/{session_id}/tokens", json={})
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    token, url = made.json()["token"], made.json()["websocket_url"]
    assert url == f"{server.ws_url}/api/ws/audio/{session_id}"
    for number in range(3):
        async with opened(server, f"/{session_id}?source=tab", subprotocols=["bearer", token]) as client:
            assert client.socket.subprotocol == "bearer"
            assert client.greeting["source_chunk_count"] == number
            await client.store(b"abcd")
    async with recorder(server.ws_url, session_id, source="tab", token=token) as client:
        assert client.greeting["source_chunk_count"] == 3
        await client.close_session()
    async with recorder(server.ws_url, session_id, source="tab", token=token) as client:
        assert client.greeting["code"] == "session_closed"
    other = rest.post(SESSIONS, json={}).json()["session_id"]
    async with recorder(server.ws_url, other, token=token) as client:
        assert client.greeting["code"] == "session_not_found"
    async with recorder(server.ws_url, token=token) as client:
        assert client.greeting["code"] == "not_allowed"


async def test_a_token_to_listen_does_not_record(server, rest):
    session_id = rest.post(SESSIONS, json={}).json()["session_id"]
    made = rest.post(f"{SESSIONS}/{session_id}/tokens", json={"purpose": "listen"}).json()
    assert made["websocket_url"] is None
    async with recorder(server.ws_url, session_id, token=made["token"]) as client:
        assert client.greeting["code"] == "not_allowed"


async def test_a_revoked_token_ends_its_connection_and_keeps_what_was_acknowledged(server, rest):
    session_id = rest.post(SESSIONS, json={}).json()["session_id"]
    made = rest.post(f"{SESSIONS}/{session_id}/tokens", json={}).json()
    async with recorder(server.ws_url, session_id, token=made["token"]) as client:
        assert await client.store(b"abcd") == [1]
        revoked = await asyncio.to_thread(rest.delete, f"{SESSIONS}/{session_id}/tokens/{made['id']}")
        assert revoked.json()["revoked_at"] is not None
        assert (await client.answer())["code"] == "not_authenticated"
        assert await client.close_code() == 1008
    async with recorder(server.ws_url, session_id, token=made["token"]) as client:
        assert client.greeting["code"] == "not_authenticated"
    assert rest.get(f"{SESSIONS}/{session_id}").json()["total_chunks"] == 1


async def test_a_token_that_is_revoked_while_a_connection_is_being_opened_ends_it_at_once(run_server, postgres_url):
    """The opening waits for the row of the session, which the test has locked. No heartbeat comes to help."""
    server = run_server(DATABASE_URL=postgres_url, REQUIRE_AUTH="true", HEARTBEAT_SECONDS="3600")
    key = {"Authorization": f"Bearer {new_key(server, 'record')}"}
    async with httpx.AsyncClient(base_url=server.url, headers=key, timeout=60) as rest:
        path = f"{SESSIONS}/{(await rest.post(SESSIONS, json={})).json()['session_id']}"
        token = (await rest.post(f"{path}/tokens", json={})).json()

        async def connection() -> tuple[dict[str, Any], dict[str, Any], int]:
            async with opened(server, f"/{token['session_id']}?token={token['token']}") as client:
                return client.greeting, await client.answer(), await client.close_code()

        with psycopg.connect(postgres_url) as database:
            database.execute("SELECT id FROM audio_audiosession FOR UPDATE")
            connecting = asyncio.create_task(connection())
            await asyncio.to_thread(eventually, lambda: _waits_for_lock(postgres_url))
            assert (await rest.delete(f"{path}/tokens/{token['id']}")).status_code == 200
        greeting, answer, close_code = await connecting
        assert "error" not in greeting
        assert (answer["code"], close_code) == ("not_authenticated", 1008)


def _waits_for_lock(url: str) -> bool:
    with psycopg.connect(url) as database:
        found = database.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
        return bool(found and found[0])


async def test_a_revoked_key_ends_the_connections_of_its_tokens_too(server, rest):
    created = rest.post("/api/keys", json={"name": "phone", "scopes": ["record"]}).json()
    phone = {"Authorization": f"Token {created['key']}"}
    session_id = rest.post(SESSIONS, json={}, headers=phone).json()["session_id"]
    token = rest.post(f"{SESSIONS}/{session_id}/tokens", json={}, headers=phone).json()["token"]
    program_opens = opened(server, **bearer(created["key"]))
    async with program_opens as program, recorder(server.ws_url, session_id, token=token) as browser:
        await asyncio.to_thread(server.manage, "apikey", "revoke", created["prefix"])
        for client in (program, browser):
            assert (await client.answer())["code"] == "not_authenticated"
            assert await client.close_code() == 1008


async def test_a_revoked_key_ends_its_tickets_and_their_connections(server, rest):
    """A thief of a key must not go on with the tickets that the key has made."""
    created = rest.post("/api/keys", json={"name": "stolen", "scopes": ["record"]}).json()
    stolen = {"Authorization": f"Bearer {created['key']}"}
    used, unused = (rest.post(SESSIONS, json={}, headers=stolen).json()["websocket_url"] for _ in range(2))
    async with opened(server, used.removeprefix(f"{server.ws_url}/api/ws/audio")) as client:
        assert await client.store(b"abcd") == [1]
        await asyncio.to_thread(rest.delete, f"/api/keys/{created['id']}")
        assert (await client.answer())["code"] == "not_authenticated"
        assert await client.close_code() == 1008
    async with opened(server, unused.removeprefix(f"{server.ws_url}/api/ws/audio")) as client:
        assert client.greeting["code"] == "not_authenticated"
        assert await client.close_code() == 1008


async def test_a_ticket_does_not_outlive_the_role_of_its_maker(server):
    """The heartbeat notices it."""
    script = (
        "from django.contrib.auth.models import User; from django.test import Client; from audio.models import *;"
        "user = User.objects.create_user('eve', password='long enough'); client = Client(); client.force_login(user);"
        "project, _ = Project.objects.get_or_create(name='clinic');"
        "Membership.objects.create(user=user, project=project, role='recorder');"
        f"made = lambda: client.post('{SESSIONS}', headers={{'host': 'localhost'}}).json()['websocket_url'];"
        "print(made(), made(), made())"
    )
    urls = (await asyncio.to_thread(server.manage, "shell", "-v", "0", "-c", script)).split()
    used, unused, late = (url.partition("/api/ws/audio")[2] for url in urls)
    change = "from audio.models import *; from django.contrib.auth.models import User; {}"
    async with opened(server, used) as client:
        assert await client.store(b"abcd") == [1]
        lower = change.format("Membership.objects.filter(user__username='eve').update(role='viewer')")
        await asyncio.to_thread(server.manage, "shell", "-v", "0", "-c", lower)
        assert (await client.answer())["code"] == "not_authenticated"
    async with opened(server, unused) as client:
        assert client.greeting["code"] == "not_authenticated"
    disable = change.format("User.objects.filter(username='eve').update(is_active=False)")
    await asyncio.to_thread(server.manage, "shell", "-v", "0", "-c", disable)
    async with opened(server, late) as client:
        assert client.greeting["code"] == "not_authenticated"


async def test_a_login_works_from_pages_of_this_server_alone(server):
    """A page of another site that a person visits has their cookie too (cross-site WebSocket hijacking)."""
    script = (
        "from django.contrib.auth.models import User; from django.test import Client;"
        "user = User.objects.create_user('ada', password='long enough', is_staff=True); client = Client();"
        "client.force_login(user); print(client.cookies['sessionid'].value)"
    )
    cookie = f"sessionid={server.manage('shell', '-v', '0', '-c', script).strip()}"
    host = httpx.URL(server.url).netloc.decode()
    others = [("https://elsewhere.example", "not_authenticated"), (None, "not_authenticated")]
    for origin, code in [(f"http://{host}", None), *others]:
        headers = {"Cookie": cookie} | ({"Origin": origin} if origin else {})
        async with opened(server, additional_headers=headers) as client:
            assert client.greeting.get("code") == code


async def test_a_crowd_beyond_a_limit_hears_of_it_and_others_record(server, key):
    """Most of the crowd is held, and its greeting comes later. What it says is the same."""
    crowd = new_key(server, "record", project="crowd")
    script = "from audio.models import Project; Project.objects.filter(name='crowd').update(max_open_sessions=1)"
    server.manage("shell", "-v", "0", "-c", script)

    async def rejected() -> None:
        for _ in range(2):
            async with opened(server, **bearer(crowd)) as client:
                assert (client.greeting["code"], client.greeting["limit"]) == ("limit_reached", 1)
                assert client.greeting["retry_after_seconds"] > 0
                assert await client.close_code() == 1013

    async with opened(server, **bearer(crowd)) as first:
        attempts = asyncio.gather(*(rejected() for _ in range(60)))
        async with opened(server, **bearer(key)) as client:
            assert await client.store(b"abcd") == [1]
        await attempts
        assert await first.store(b"abcd") == [1]
        await first.close_session()
    async with asyncio.timeout(90):
        while True:
            async with opened(server, **bearer(crowd)) as client:
                if "code" not in client.greeting:
                    break


async def test_a_project_is_held_to_its_limits(server):
    busy = new_key(server, "record", "read", project="busy")
    script = "from audio.models import Project; Project.objects.filter(name='busy').update({})"
    server.manage("shell", "-v", "0", "-c", script.format("max_open_sessions=1"))
    async with opened(server, **bearer(busy)):
        async with opened(server, **bearer(busy)) as second:
            assert second.greeting["code"] == "limit_reached"
            assert (second.greeting["limited"], second.greeting["limit"]) == ("max_open_sessions", 1)
            assert second.greeting["retryable"] and second.greeting["retry_after_seconds"] > 0
            assert await second.close_code() == 1013
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {busy}"}, timeout=60) as rest:
            answer = await asyncio.to_thread(rest.post, SESSIONS, json={})
            assert (answer.status_code, answer.json()["code"]) == (429, "limit_reached")
            assert int(answer.headers["Retry-After"]) > 0
    server.manage("shell", "-v", "0", "-c", script.format("max_open_sessions=None, max_bytes_per_day=4"))
    async with opened(server, **bearer(busy)) as client:
        await client.store(b"abcd")
        # The heartbeat finds it.
        assert (await client.answer())["limited"] == "max_bytes_per_day"
        assert await client.close_code() == 1013
    async with opened(server, **bearer(busy)) as client:
        assert client.greeting["limited"] == "max_bytes_per_day"


def test_secrets_are_stored_nowhere(server, key, rest):
    session_id = rest.post(SESSIONS, json={}).json()["session_id"]
    token = rest.post(f"{SESSIONS}/{session_id}/tokens", json={"purpose": "listen"}).json()["token"]
    assert httpx.get(f"{server.url}{SESSIONS}/{session_id}/audio", params={"token": token}).status_code == 404
    found = [path for path in server.folder.rglob("*") if path.is_file() and holds(path.read_bytes(), key, token)]
    assert found == []
    assert not holds(server.log.read_bytes(), key, token)


def holds(content: bytes, *secrets: str) -> bool:
    return any(secret[-40:].encode() in content for secret in secrets)


def test_the_audit_tells_who_did_what(server, key, rest):
    session_id = rest.post(SESSIONS, json={}).json()["session_id"]
    rest.post(f"{SESSIONS}/{session_id}/close")
    rest.delete(f"{SESSIONS}/{session_id}")
    lines = server.manage("audit", "export", "--session", session_id).splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["action"] for entry in entries] == ["session.created", "session.closed", "session.deleted"]
    prefix = key.split("_")[2]
    assert {(entry["actor"], entry["project"], entry["address"]) for entry in entries} == {
        (f"key {prefix}", "clinic", "127.0.0.1")
    }
    assert "Traceback" not in server.read_log()
