"""Attacks on a real server that asks who is there: it answers each with a clear error, and tells nothing else."""

import contextlib
import json
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.access.attacks import HEADER_BYTES, JSON_VALUES, Answer, ask, get, handshake, mangled
from tests.server import Server
from tests.services import REPOSITORY

# Always the same attacks: a test that finds something else each time is a test of nobody's change.
attacks = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
SESSIONS = "/api/audio/sessions"
METRICS_TOKEN = "a-token-for-prometheus-alone"
REJECTED = {"not_authenticated", "not_allowed", "session_not_found", "invalid_parameter", "invalid_session_id"}


class Target:
    """A server that asks, with a session, and the secrets that open something."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = self.new_key("clinic", "read", "record", "manage")
        self.rest = httpx.Client(
            base_url=server.url, timeout=90, limits=httpx.Limits(max_keepalive_connections=0), headers=bearer(self.key)
        )
        self.session_id, self.other_id = (self.new_session() for _ in range(2))
        self.token = self.new_token(self.session_id)
        self.listener = self.new_token(self.session_id, purpose="listen")
        self.secrets = [self.key, self.token, self.listener]

    def new_key(self, project: str, *scopes: str) -> str:
        """A new API key, made by the command."""
        options = [option for scope in scopes for option in ("--scope", scope)]
        made = self.server.manage("apikey", "create", "app", *options, "--project", project, "--create-project")
        return made.strip()

    def new_session(self) -> str:
        """A new session of the key's project."""
        session_id: str = self.rest.post(SESSIONS, json={"format": "wav"}).json()["session_id"]
        return session_id

    def new_token(self, session_id: str, **wanted: Any) -> str:
        """A new token of a session."""
        token: str = self.rest.post(f"{SESSIONS}/{session_id}/tokens", json=wanted).json()["token"]
        return token

    def check(self, answer: Answer) -> None:
        """Checks that an answer is honest, and tells nothing of the machine."""
        assert answer.status < 500, answer
        assert answer.close_code in (None, 1008, 1013), answer
        said = answer.head + answer.body + json.dumps(answer.message).encode()
        for told in (b"Traceback", str(REPOSITORY).encode(), str(self.server.folder).encode(), b"site-packages"):
            assert told not in said, answer
        for secret in self.secrets:
            assert secret[-40:].encode() not in said, answer


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def target(run_module_server):
    target = Target(
        run_module_server(
            REQUIRE_AUTH="true", METRICS_TOKEN=METRICS_TOKEN, DISCONNECT_GRACE_SECONDS="3600", LOG_LEVEL="debug"
        )
    )
    with contextlib.closing(target.rest):
        yield target
        # What all tests of this file have left in the log.
        log = target.server.read_log()
        assert "Traceback" not in log
        assert METRICS_TOKEN not in log
        for secret in target.secrets:
            assert secret[-40:] not in log


PLACES = ("bearer", "token", "basic", "bare", "twice", "query", "ticket", "cookie", "project")


def placed(place: str, secret: bytes) -> tuple[bytes, list[bytes]]:
    """The query and the headers that show a secret in one of many places."""
    shown = {
        "bearer": [b"Authorization: Bearer " + secret],
        "token": [b"Authorization: tOkEn   " + secret],
        "basic": [b"Authorization: Basic " + secret],
        "bare": [b"Authorization: " + secret],
        "twice": [b"Authorization: Bearer " + secret] * 2,
        "cookie": [b"Cookie: sessionid=" + secret, b"Origin: http://localhost"],
    }
    quoted = quote_from_bytes(secret).encode()
    query = {"query": b"?token=" + quoted, "ticket": b"?ticket=" + quoted, "project": b"?project=" + quoted}
    return query.get(place, b""), shown.get(place, [])


def test_nearly_right_secrets_open_nothing_over_http(target):
    paths = [
        SESSIONS,
        f"{SESSIONS}/{target.session_id}",
        f"{SESSIONS}/{target.session_id}/audio",
        "/api/keys",
        "/metrics",
    ]
    paths += ["/api/projects", "/api/schema"]

    @attacks
    @given(secret=mangled(target.secrets), place=st.sampled_from(PLACES), path=st.sampled_from(paths))
    def attack(secret: bytes, place: str, path: str) -> None:
        query, headers = placed(place, secret)
        answer = ask(target.server, get(path.encode() + query, *headers))
        target.check(answer)
        assert answer.status in (302, 400, 401, 404, 431), answer

    attack()


def test_nearly_right_secrets_open_no_websocket(target):
    paths = ["/api/ws/audio", f"/api/ws/audio/{target.session_id}", f"/api/ws/audio/{target.other_id}/"]

    @attacks
    @given(secret=mangled(target.secrets), place=st.sampled_from(PLACES), path=st.sampled_from(paths))
    def attack(secret: bytes, place: str, path: str) -> None:
        query, headers = placed(place, secret)
        answer = ask(target.server, handshake(path.encode() + query, *headers))
        target.check(answer)
        assert answer.status in (400, 403, 414, 431) or answer.message["code"] in REJECTED, answer

    attack()


def test_nearly_right_subprotocols_open_no_websocket(target):
    lists = st.lists(mangled(target.secrets) | st.sampled_from([b"bearer", b"Bearer", b"", b"graphql-ws"]), max_size=5)

    @attacks
    @given(offered=lists, separator=st.sampled_from([b", ", b",", b" ", b";", b"\r\nSec-WebSocket-Protocol: "]))
    def attack(offered: list[bytes], separator: bytes) -> None:
        path = f"/api/ws/audio/{target.session_id}".encode()
        answer = ask(target.server, handshake(path, b"Sec-WebSocket-Protocol: " + separator.join(offered)))
        target.check(answer)
        assert answer.status in (400, 403, 431) or answer.message["code"] in REJECTED, answer

    attack()


def test_a_handshake_of_anything_is_answered(target):
    names = st.sampled_from(
        [b"Origin", b"Host", b"Cookie", b"Sec-WebSocket-Extensions", b"X-Forwarded-For", b"Upgrade"]
    )

    @attacks
    @given(headers=st.lists(st.tuples(names, HEADER_BYTES), max_size=4), path=HEADER_BYTES, query=HEADER_BYTES)
    def attack(headers: list[tuple[bytes, bytes]], path: bytes, query: bytes) -> None:
        lines = [name + b": " + value for name, value in headers]
        where = f"/api/ws/audio/{quote_from_bytes(path)}".encode() + b"?" + query.replace(b" ", b"+")
        target.check(ask(target.server, handshake(where, *lines)))

    attack()


def test_bodies_of_anything_are_answered(target):
    fields = (
        "name",
        "scopes",
        "project",
        "expires_at",
        "purpose",
        "expires_in_seconds",
        "session_id",
        "task",
        "format",
    )
    likely = st.sampled_from(
        [
            ["read"],
            ["read", "read"],
            "record",
            "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00+14:00",
            10**30,
            1e308,
            "\0",
            0,
        ]
    )
    bodies = JSON_VALUES | st.dictionaries(st.sampled_from(fields), likely | JSON_VALUES, max_size=5)
    paths = ["/api/keys", SESSIONS, f"{SESSIONS}/{target.session_id}/tokens", "/api/tasks"]

    @attacks
    @given(body=bodies, path=st.sampled_from(paths))
    def attack(body: Any, path: str) -> None:
        answer = target.rest.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        target.check(Answer(answer.status_code, b"", b"" if answer.status_code == 201 else answer.content))
        assert answer.status_code in (201, 202, 400, 403, 404, 409), answer.text

    attack()


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"name":"\xff"}', b'{"name":"\\ud800","scopes":["read"]}', b"NaN", b'{"a":1e999}', b"\0"]
)
def test_bodies_that_are_no_json_are_answered(target, body):
    for path in ("/api/keys", f"{SESSIONS}/{target.session_id}/tokens"):
        headers = b"Authorization: Bearer " + target.key.encode()
        answer = ask(target.server, get(path.encode(), headers, method=b"POST", body=body))
        target.check(answer)
        assert answer.status == 400, answer


def test_ids_and_filters_of_anything_are_answered(target):
    ids = st.text(max_size=40) | st.sampled_from([str(uuid4()), target.session_id, "..", "%2e%2e%2f", "\0", "0" * 32])
    shapes = ["/api/keys/{}", SESSIONS + "/{}", SESSIONS + "/{}/tokens", SESSIONS + "/{}/tokens/{}", "/api/tasks/{}"]
    shapes += [
        "/api/projects/{}",
        "/api/projects/{}/members",
        "/api/projects/{}/members/{}",
        SESSIONS + "/{}/markers/{}",
    ]
    filters = st.sampled_from(
        ["project", "cursor", "page_size", "status", "user_id", "started_after", "token", "session_id"]
    )

    @attacks
    @given(
        shape=st.sampled_from(shapes),
        parts=st.tuples(ids, ids),
        query=st.dictionaries(filters, st.text(max_size=40), max_size=3),
        method=st.sampled_from(["GET", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
    )
    def attack(shape: str, parts: tuple[str, str], query: dict[str, str], method: str) -> None:
        path = shape.format(*(quote_from_bytes(part.encode(errors="replace"), safe="%") for part in parts))
        # Deleting what is there would spoil the other attacks.
        if method == "DELETE" and target.session_id in parts:
            method = "GET"
        with contextlib.suppress(httpx.InvalidURL):
            answer = target.rest.request(method, path, params=query)
            target.check(Answer(answer.status_code, b"", answer.content))

    attack()


async def test_a_secret_in_the_wrong_place_opens_nothing(target):
    """Secrets that are valid: of another session, for something else, or where none is expected."""
    elsewhere = target.new_key("elsewhere", "read", "record", "manage")
    target.secrets.append(elsewhere)
    wrong = [
        (handshake(f"/api/ws/audio/{target.other_id}?token={target.token}".encode()), "session_not_found"),
        (handshake(f"/api/ws/audio/{target.session_id}?token={target.listener}".encode()), "not_allowed"),
        (handshake(f"/api/ws/audio/{target.session_id}?token={elsewhere}".encode()), "session_not_found"),
        (handshake(f"/api/ws/audio/{target.session_id}?ticket={target.token}".encode()), "not_allowed"),
        (handshake(f"/api/ws/audio?token={target.token}".encode()), "not_allowed"),
        (handshake(f"/api/ws/audio?token={METRICS_TOKEN}".encode()), "not_authenticated"),
        (handshake(b"/api/ws/audio", b"Cookie: sessionid=" + target.key.encode()), "not_authenticated"),
        (handshake(b"/api/ws/audio", b"Authorization: Basic " + target.key.encode()), "not_authenticated"),
    ]
    for request, code in wrong:
        answer = ask(target.server, request)
        target.check(answer)
        assert (answer.message["code"], answer.close_code) == (code, 1008), (request, answer)
    for path in (SESSIONS, "/api/keys", f"{SESSIONS}/{target.session_id}"):
        answer = ask(target.server, get(f"{path}?token={target.key}".encode()))
        target.check(answer)
        assert answer.status == 401
    # A header takes precedence, so that nothing in a URL that somebody sends can change who asks.
    media = f"{SESSIONS}/{target.session_id}/audio?token={target.listener}".encode()
    answer = ask(target.server, get(media, b"Authorization: Bearer " + elsewhere.encode()))
    assert answer.status == 404


async def test_what_has_ended_opens_nothing(target):
    """Secrets that have expired, were revoked, or were used up."""
    session = target.rest.post(SESSIONS, json={}).json()
    session_id = session["session_id"]
    token = target.new_token(session_id)
    target.secrets.append(token)
    query = session["websocket_url"].partition("?")[2]
    with_ticket = handshake(f"/api/ws/audio/{session_id}?{query}".encode())
    with_token = handshake(f"/api/ws/audio/{session_id}".encode(), b"Sec-WebSocket-Protocol: bearer, " + token.encode())
    assert "error" not in ask(target.server, with_ticket).message
    assert ask(target.server, with_ticket).message["code"] == "not_allowed"
    assert "error" not in ask(target.server, with_token).message
    script = "from audio.models import SessionToken; from django.utils.timezone import now;"
    expire = f"SessionToken.objects.filter(session='{session_id}').update(expires_at=now())"
    target.server.manage("shell", "-v", "0", "-c", script + expire)
    answer = ask(target.server, with_token)
    assert (answer.message["code"], answer.close_code) == ("not_authenticated", 1008)
    answer = ask(target.server, get(f"{SESSIONS}/{session_id}".encode(), b"Authorization: Bearer " + token.encode()))
    assert answer.status == 401
