"""The event stream of a real server."""

import asyncio
import socket
import subprocess
import sys
import uuid
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from audio.access.identity import ANYONE
from audio.streams import MAX_WAITING, Listener, News
from audio.webhooks.subscriptions import Subscription
from tests.client import recorder
from tests.server import DEADLINE_SECONDS, Server, eventually
from tests.services import REPOSITORY
from tests.sound import speech
from tests.webhooks.listening import Listening, listening

pytestmark = pytest.mark.services
NOBODY = "123e4567-e89b-42d3-a456-426614174000"
_LOGIN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_user("bo"))
print(client.cookies["sessionid"].value)
"""
# More than what fits between a server and a client that does not read.
_MANY_EVENTS = """
import uuid
from audio.models import Project, WebhookEvent
project, pad = Project.objects.get(name="slow"), "x" * 20_000
WebhookEvent.objects.bulk_create(
    [
        WebhookEvent(
            type="session.opened", project=project, session_id=uuid.uuid4(), data={"pad": pad}, position=1000 + each
        )
        for each in range(2500)
    ],
    batch_size=100,
)
"""
LIFE = ["session.opened", "session.closed", "recording.ready"]


@pytest.fixture(scope="module")
def server(run_module_server) -> Server:
    return run_module_server()


async def call(function, *arguments, **options):
    """Calls a function that blocks, while this test goes on to listen."""
    return await asyncio.to_thread(function, *arguments, **options)


async def record(server: Server, **query) -> str:
    async with recorder(server.ws_url, **query) as connection:
        await connection.store(speech(1).tobytes())
        await connection.close_session()
    return connection.session_id


async def test_a_page_hears_of_new_sessions_and_their_progress(server):
    async with listening(server.url) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        async with recorder(server.ws_url, sample_rate=16000, user_id="Ana") as connection:
            session_id = connection.session_id

            def progress() -> list[dict]:
                mine = [each.data for each in stream.heard if each.id is None]
                return [data for data in mine if data["session_id"] == session_id]

            await stream.until(lambda: stream.types(session_id) == LIFE[:1])
            sound = speech(2).tobytes()
            await connection.store(sound[:32000])
            await stream.until(lambda: any(data["total_chunks"] == 1 for data in progress()))
            await connection.store(sound[32000:])
            await stream.until(lambda: any(data["duration_seconds"] == 2.0 for data in progress()))
            await connection.close_session()
        await stream.until(lambda: stream.types(session_id) == LIFE)
        assert progress()[-1]["user_id"] == "Ana"
        positions = [each.id for each in stream.events]
        assert positions == sorted(set(positions))


async def test_a_page_hears_of_one_session_alone(server):
    async with recorder(server.ws_url) as connection, listening(server.url, session_id=connection.session_id) as stream:
        await stream.until(lambda: any(each.type == "session.progress" for each in stream.heard))
        await record(server)
        await connection.store(speech(1).tobytes())
        await connection.close_session()
        await stream.until(lambda: stream.types(connection.session_id)[-2:] == LIFE[1:])
        assert {each.data["session_id"] for each in stream.heard} == {connection.session_id}


async def test_a_page_that_was_away_hears_what_it_missed_and_nothing_twice(server):
    async with listening(server.url) as stream:
        first = await record(server)
        await stream.until(lambda: stream.types(first) == LIFE)
        last = stream.events[-1].id
    missed = await record(server)
    await call(eventually, lambda: server_state(server, missed) == "ready")
    async with listening(server.url, headers={"Last-Event-ID": str(last)}) as stream:
        new = await record(server)
        await stream.until(lambda: stream.types(new) == LIFE)
        assert stream.types(first) == []
        assert stream.types(missed) == LIFE
        assert [each.id for each in stream.events] == list(range(last + 1, last + 7))
    async with listening(server.url, last_event_id=0) as stream:
        await stream.until(lambda: stream.types(new) == LIFE)
        assert stream.types(first) == stream.types(missed) == LIFE


def server_state(server: Server, session_id: str) -> str:
    detail = httpx.get(f"{server.url}/api/audio/sessions/{session_id}").json()
    return detail["recording"]["state"] if detail["recording"]["sha256"] else ""


async def test_listeners_cost_no_threads(server):
    await record(server)
    async with listening(server.url):
        process = psutil.Process(server.child("web").pid)
        before = process.num_threads()
        async with asyncio.TaskGroup() as group, asyncio.timeout(120):
            release = asyncio.Event()

            async def listen() -> None:
                async with listening(server.url, last_event_id=0) as stream:
                    await stream.until(lambda: len(stream.events) >= 3)
                    await release.wait()

            listeners = [group.create_task(listen()) for _ in range(40)]
            await asyncio.sleep(0)
            metrics = f"{server.url}/metrics"
            await call(eventually, lambda: "sercuescribe_event_listeners 41.0" in httpx.get(metrics).text)
            assert process.num_threads() < before + 10
            release.set()
            await asyncio.gather(*listeners)


async def test_a_stream_lives_while_nothing_happens(server):
    async with listening(server.url) as stream:
        await stream.until(lambda: stream.comments)
        session_id = await record(server)
        await stream.until(lambda: stream.types(session_id) == LIFE)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("session_id=x", 400, "invalid_session_id"),
        (f"session_id={NOBODY}", 404, "session_not_found"),
        ("last_event_id=-1", 400, "invalid_parameter"),
        ("last_event_id=9999999999999999999999", 400, "invalid_parameter"),
        ("sessions=1", 400, "invalid_parameter"),
        ("&".join([f"session_id={NOBODY}"] * 51), 400, "invalid_parameter"),
    ],
)
def test_an_invalid_request_is_rejected(server, query, status, code):
    answer = httpx.get(f"{server.url}/api/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_other_methods_are_no_streams(server):
    assert httpx.head(f"{server.url}/api/events").status_code == 200
    assert httpx.post(f"{server.url}/api/events").status_code == 405


async def test_a_server_that_stops_ends_its_streams(make_server):
    server = make_server()
    server.start()
    async with listening(server.url) as stream:
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        await stream.until(lambda: stream.is_over)
        await stopping
    assert "drain_timed_out" not in server.read_log()
    assert "Traceback" not in server.read_log()


def test_a_listener_that_reads_too_slowly_is_disconnected():
    session_id = uuid.uuid4()
    listener = Listener(Subscription(ANYONE), 0)
    for _ in range(MAX_WAITING + 5):
        listener.put(News(1, session_id, b"x"))
    assert listener.is_over


@pytest.fixture(scope="module")
def guarded(run_module_server) -> Server:
    return run_module_server("guarded", REQUIRE_AUTH="true")


class TestAccess:
    @staticmethod
    def manage(server: Server, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=server.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def key(self, server: Server, project: str, *scopes: str) -> dict[str, str]:
        options = [option for scope in scopes for option in ("--scope", scope)]
        secret = self.manage(server, "apikey", "create", "test", "--project", project, "--create-project", *options)
        return {"Authorization": f"Bearer {secret}"}

    async def test_a_page_hears_nothing_of_another_project(self, guarded):
        # Other tests have sessions in other projects of this server.
        mine, other = self.key(guarded, "one", "read", "record"), self.key(guarded, "another", "read", "record")
        url = f"{guarded.url}/api/audio/sessions"
        async with listening(guarded.url, headers=other) as foreign, listening(guarded.url, headers=mine) as stream:
            theirs = (await call(httpx.post, url, headers=other)).json()["session_id"]
            own = (await call(httpx.post, url, headers=mine)).json()["session_id"]
            await stream.until(lambda: stream.types(own))
            await foreign.until(lambda: foreign.types(theirs))
            assert {each.data["session_id"] for each in stream.heard} == {own}
            assert {each.data["session_id"] for each in foreign.heard} == {theirs}
        async with listening(guarded.url, headers={**other, "Last-Event-ID": "0"}) as foreign:
            await foreign.until(lambda: foreign.types(theirs))
            assert {each.data["session_id"] for each in foreign.heard} == {theirs}
        answer = await call(httpx.get, f"{guarded.url}/api/events", params={"session_id": own}, headers=other)
        assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")

    def test_strangers_and_those_who_may_only_record_are_rejected(self, guarded):
        url = f"{guarded.url}/api/events"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer x"}).status_code == 401
        assert httpx.get(url, headers=self.key(guarded, "mine", "record")).status_code == 403

    async def test_a_token_hears_of_its_session_until_it_is_revoked(self, guarded):
        mine = self.key(guarded, "mine", "read", "record")
        url = f"{guarded.url}/api/audio/sessions"
        session_id = (await call(httpx.post, url, headers=mine)).json()["session_id"]
        tokens = f"{url}/{session_id}/tokens"
        token = (await call(httpx.post, tokens, headers=mine, json={"purpose": "listen"})).json()
        async with listening(guarded.url, token=token["token"]) as stream:
            await call(httpx.post, url, headers=mine)
            await call(httpx.post, f"{url}/{session_id}/close", headers=mine)
            await stream.until(lambda: stream.types(session_id)[-1:] == ["session.closed"])
            assert {each.data["session_id"] for each in stream.heard} == {session_id}
            await call(httpx.delete, f"{tokens}/{token['id']}", headers=mine)
            await stream.until(lambda: stream.is_over)
        assert token["token"] not in guarded.read_log()

    async def test_a_revoked_key_ends_its_stream_at_once(self, guarded):
        manager = self.key(guarded, "revoking", "read", "record", "manage")
        keys = f"{guarded.url}/api/keys"
        made = (await call(httpx.post, keys, headers=manager, json={"name": "page", "scopes": ["read"]})).json()
        async with listening(guarded.url, headers={"Authorization": f"Bearer {made['key']}"}) as stream:
            await self.hears(guarded, stream, manager)
            comments = stream.comments
            await call(httpx.delete, f"{keys}/{made['id']}", headers=manager)
            await stream.until(lambda: stream.is_over)
            # It did not wait for the next heartbeat.
            assert stream.comments == comments

    async def test_who_is_no_member_any_more_hears_nothing_more(self, guarded):
        manager = self.key(guarded, "left", "read", "record", "manage")
        cookie = (await call(self.manage, guarded, "shell", "-v", "0", "-c", _LOGIN)).splitlines()[-1]
        projects = (await call(httpx.get, f"{guarded.url}/api/projects", headers=manager)).json()
        members = f"{guarded.url}/api/projects/{projects[0]['id']}/members"
        added = await call(httpx.post, members, headers=manager, json={"user": "bo", "role": "viewer"})
        async with listening(guarded.url, headers={"Cookie": f"sessionid={cookie}"}) as stream:
            await self.hears(guarded, stream, manager)
            comments = stream.comments
            await call(httpx.delete, f"{members}/{added.json()['id']}", headers=manager)
            await stream.until(lambda: stream.is_over)
            assert stream.comments == comments

    async def test_a_revoked_key_ends_a_stream_that_is_still_told_what_it_missed(self, guarded):
        """Its client reads slowly, so that the end of what it has missed is far away."""
        manager = self.key(guarded, "slow", "read", "record", "manage")
        keys = f"{guarded.url}/api/keys"
        made = (await call(httpx.post, keys, headers=manager, json={"name": "page", "scopes": ["read"]})).json()
        mine = {"Authorization": f"Bearer {made['key']}"}
        await call(self.manage, guarded, "shell", "-v", "0", "-c", _MANY_EVENTS)
        address = urlsplit(guarded.url)
        with socket.create_connection((address.hostname, address.port), DEADLINE_SECONDS) as slow:
            headers = "".join(f"{name}: {value}\r\n" for name, value in mine.items())
            slow.sendall(f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 999\r\n{headers}\r\n".encode())
            heard = await call(slow.recv, 65536)
            assert heard.startswith(b"HTTP/1.1 200")
            async with listening(guarded.url, headers=mine) as stream:
                await self.hears(guarded, stream, manager)
                await call(httpx.delete, f"{keys}/{made['id']}", headers=manager)
                # The same reading of the server finds both streams.
                await stream.until(lambda: stream.is_over)
            while part := await call(slow.recv, 1 << 20):
                heard += part
        assert b"id: 1000\n" in heard
        assert b"id: 3499\n" not in heard

    @staticmethod
    async def hears(server: Server, stream: Listening, key: dict[str, str]) -> None:
        """Waits until a stream has told of a new session of the project of a key."""
        made = await call(httpx.post, f"{server.url}/api/audio/sessions", headers=key)
        await stream.until(lambda: stream.types(made.json()["session_id"]))
