"""Every route and method, tried by everybody. A route without a row fails."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from audio.access import COMMAND, issue
from audio.models import BackgroundTask, Project, Role
from audio.webhooks import endpoints
from tests.access.people import Caller, person, with_key, with_token
from tests.api.rows import make_chunks, make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]

OPEN, ANY, READ, RECORD, MANAGE, STAFF = "open", "any", "read", "record", "manage", "staff"
# What each method of a route needs; `{...}` are filled in. The routes of the admin are tested in tests/admin.
ROWS = {
    "session-list": {"GET": READ, "POST": RECORD},
    "session-detail": {"GET": ANY, "PATCH": RECORD, "DELETE": MANAGE},
    "session-close": {"POST": RECORD},
    "session-chunks": {"GET": READ},
    "session-chunk": {"GET": READ},
    "session-audio": {"GET": READ},
    "session-waveform": {"GET": READ},
    "session-markers": {"GET": READ, "POST": RECORD},
    "session-marker": {"PATCH": RECORD, "DELETE": RECORD},
    "session-tokens": {"GET": RECORD, "POST": RECORD},
    "session-token": {"DELETE": RECORD},
    "project-list": {"GET": ANY, "POST": STAFF},
    "project-detail": {"GET": ANY, "PATCH": MANAGE},
    "project-members": {"GET": MANAGE, "POST": MANAGE},
    "project-member": {"PATCH": MANAGE, "DELETE": MANAGE},
    "key-list": {"GET": MANAGE, "POST": MANAGE},
    "key-detail": {"DELETE": MANAGE},
    "task-list": {"GET": READ, "POST": READ},
    "task-detail": {"GET": READ, "DELETE": RECORD},
    "events": {"GET": READ},
    "webhook-list": {"GET": MANAGE, "POST": MANAGE},
    "webhook-detail": {"GET": MANAGE, "PATCH": MANAGE, "DELETE": MANAGE},
    "webhook-rotate": {"POST": MANAGE},
    "webhook-test": {"POST": MANAGE},
    "webhook-deliveries": {"GET": MANAGE},
    "webhook-replay": {"POST": MANAGE},
    "websocket": {"GET": OPEN},
    "websocket-session": {"GET": OPEN},
    "health": {"GET": OPEN},
    "health-ready": {"GET": OPEN},
    "metrics": {"GET": STAFF},
    "schema": {"GET": ANY},
    "asyncapi": {"GET": ANY},
    "asyncapi-file": {"GET": ANY},
    "docs": {"GET": ANY},
    "redoc": {"GET": ANY},
    "redoc-script": {"GET": OPEN},
    "client-file": {"GET": OPEN},
}
# Pages and the admin have doors of their own.
OTHER_DOORS = (
    *("admin", "home", "session", "projects", "project", "record"),
    *("login", "logout", "openid", "openid-callback"),
)
DOCUMENTS = ("schema", "asyncapi", "asyncapi-file", "docs", "redoc")
LISTS = ("session-list", "task-list", "key-list", "project-list", "webhook-list", "events")
GRANTS = {
    "viewer": {ANY, OPEN, READ},
    "recorder": {ANY, OPEN, READ, RECORD},
    "manager": {ANY, OPEN, READ, RECORD, MANAGE},
    "staff": {ANY, OPEN, READ, RECORD, MANAGE, STAFF},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def routes(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The name and the path of each route below these patterns."""
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver) and not path.startswith("admin"):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield pattern.name or path, path


@pytest.fixture(autouse=True)
def _asks(settings: Any) -> None:
    settings.REQUIRE_AUTH = True


@pytest.fixture
def project() -> Project:
    return Project.objects.create(name="clinic")


@pytest.fixture
def values(project: Project) -> dict[str, str]:
    """What the parts of the paths are: a session of the project with all that it may have."""
    session = make_session(project=project)
    make_chunks(session, 1)
    task = BackgroundTask.objects.create(session=session, kind="transcode", format="mp3")
    key, _ = issue.key(project, "old", ["read"], COMMAND)
    endpoint, _ = endpoints.create(project.pk, "https://example.com/hook", [])
    token = session.tokens.create(prefix="x" * 12, digest="0" * 64)
    member = project.memberships.create(user=User.objects.create_user("member"), role=Role.VIEWER)
    return {
        "session_id": str(session.pk),
        "sequence": "1",
        "task_id": str(task.pk),
        "key_id": str(key.pk),
        "token_id": str(token.pk),
        "webhook_id": str(endpoint.pk),
        "delivery_id": str(endpoints.test(endpoint).pk),
        "marker_id": "1",
        "project_id": str(project.pk),
        "member_id": str(member.pk),
        "format": "json",
        "name": "sercuescribe.js",
    }


@pytest.fixture
def callers(project: Project) -> dict[str, Caller]:
    """Everybody who has a role, as a person, and as a program where there is a key for it."""
    return {
        "viewer": person("viewer", Role.VIEWER, project),
        "recorder": person("recorder", Role.RECORDER, project),
        "manager": person("manager", Role.MANAGER, project),
        "staff": person("staff", is_staff=True),
    }


def filled(path: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        path = path.replace(f"<str:{name}>", value)
    assert "<" not in path, f"the table has no value for {path}"
    return f"/{path}"


def body(name: str, values: dict[str, str]) -> dict[str, Any] | None:
    """What a POST sends."""
    bodies: dict[str, dict[str, Any]] = {
        "session-list": {"project": "clinic"},
        "key-list": {"name": "new", "scopes": ["read"], "project": "clinic"},
        "session-detail": {"name": "Interview"},
        "session-markers": {"label": "Question"},
        "session-marker": {"label": "Question"},
        "project-list": {"name": "another"},
        "project-detail": {"retention_days": 7},
        "project-members": {"user": "nobody", "role": "viewer"},
        "project-member": {"role": "recorder"},
        "webhook-list": {"url": "https://example.com/other", "project": "clinic"},
        "task-list": {"task": "transcode", "format": "mp3", "session_id": values["session_id"]},
    }
    return bodies.get(name)


def all_routes() -> list[tuple[str, str]]:
    found = [(name.removesuffix("-slash"), path) for name, path in routes(get_resolver().url_patterns)]
    return [(name, path) for name, path in found if name not in OTHER_DOORS and "static" not in path and name in ROWS]


def test_each_route_has_a_row():
    found = {name.removesuffix("-slash") for name, path in routes(get_resolver().url_patterns) if "static" not in path}
    assert found - set(ROWS) <= {*OTHER_DOORS, "favicon.ico"}
    assert set(ROWS) <= found


@pytest.mark.parametrize("name", ROWS)
def test_a_stranger_is_asked_who_they_are(name, values):
    for path in [filled(path, values) for route, path in all_routes() if route == name]:
        for method in METHODS:
            answer = Client().generic(method, path, "{}", "application/json")
            if ROWS[name].get("GET" if method == "HEAD" else method) == OPEN:
                assert answer.status_code not in (401, 403, 500)
            else:
                assert answer.status_code in (401, 405), (method, path)
            if answer.status_code == 401:
                assert answer["WWW-Authenticate"].startswith("Bearer")
                assert method == "HEAD" or name in DOCUMENTS or b"API key" in answer.content


@pytest.mark.parametrize("name", ROWS)
def test_everybody_may_do_what_their_role_says_and_no_more(name, values, callers):
    path = next(filled(path, values) for route, path in all_routes() if route == name)
    for who, caller in callers.items():
        for method, scope in ROWS[name].items():
            if method == "DELETE" and who == "staff":
                continue  # the manager has deleted it
            answer = caller.call(method, path, body(name, values))
            is_allowed = scope in GRANTS[who]
            assert (answer.status_code in (401, 403)) != is_allowed, (who, method, path, answer.status_code)
            # The rows of the chunk name a journal that is not there.
            assert answer.status_code < 500 or answer.json()["code"] == "chunk_damaged"


@pytest.mark.parametrize("name", ROWS)
def test_what_belongs_to_another_project_does_not_exist(name, values, db):
    other = Project.objects.create(name="elsewhere")
    keys = [with_key("read", "record", "manage", project=other), person("other", Role.MANAGER, other)]
    path = next(filled(path, values) for route, path in all_routes() if route == name)
    for caller in keys:
        for method, scope in ROWS[name].items():
            answer = caller.call(method, path, body(name, values))
            if scope in (OPEN, STAFF) or name in DOCUMENTS:
                continue
            if name in LISTS and method == "GET":
                assert values["session_id"] not in answer.content.decode()
                assert "clinic" not in answer.content.decode()
            else:
                assert answer.status_code == 404, (method, path)


def test_a_token_opens_its_session_alone(values, project):
    mine = make_session(project=project)
    listener, recorder = with_token(mine, "listen"), with_token(mine, "record")
    for caller in (listener, recorder):
        assert caller.call("GET", f"/api/audio/sessions/{mine.pk}").status_code == 200
        assert caller.call("GET", f"/api/audio/sessions/{values['session_id']}").status_code == 404
        assert caller.call("DELETE", f"/api/audio/sessions/{mine.pk}").status_code == 403
        assert caller.call("POST", f"/api/audio/sessions/{mine.pk}/tokens", {}).status_code == 403
        assert caller.call("POST", "/api/audio/sessions", {}).status_code == 403
    shown = listener.call("GET", "/api/audio/sessions").json()["results"]
    assert [session["session_id"] for session in shown] == [str(mine.pk)]
    assert recorder.call("GET", "/api/audio/sessions").status_code == 403
    assert recorder.call("GET", f"/api/audio/sessions/{mine.pk}/audio").status_code == 403
    assert recorder.call("POST", f"/api/audio/sessions/{mine.pk}/close").status_code == 200
    assert listener.call("GET", f"/api/audio/sessions/{mine.pk}/audio").json()["code"] == "recording_empty"


def test_a_token_changes_nothing_after_the_close(project):
    session = make_session(project=project)
    recorder = with_token(session, "record")
    path = f"/api/audio/sessions/{session.pk}"
    assert recorder.call("PATCH", path, {"name": "Interview"}).status_code == 200
    marker = recorder.call("POST", f"{path}/markers", {"label": "one"}).json()["marker_id"]
    assert recorder.call("POST", f"{path}/close").status_code == 200
    attempts: list[tuple[str, str, Any]] = [
        ("PATCH", path, {"name": "changed"}),
        ("POST", f"{path}/markers", {"label": "two"}),
        ("PATCH", f"{path}/markers/{marker}", {"label": "two"}),
        ("DELETE", f"{path}/markers/{marker}", None),
    ]
    for method, where, changes in attempts:
        answer = recorder.call(method, where, changes)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), (method, where)
    shown = recorder.call("GET", path).json()
    assert (shown["name"], shown["status"]) == ("Interview", "completed")
    # A repeated close still succeeds, and whoever has a key goes on.
    assert recorder.call("POST", f"{path}/close").status_code == 200
    key = with_key("record", project=project)
    assert key.call("PATCH", f"{path}/markers/{marker}", {"label": "two"}).status_code == 200


def test_a_player_may_have_its_token_in_the_query(values, project):
    session = make_session(project=project)
    secret = with_token(session, "listen").key
    for media in ("audio", "waveform"):
        answer = Client().get(f"/api/audio/sessions/{session.pk}/{media}?token={secret}")
        assert answer.json()["code"] == "recording_empty"
    answer = Client().get(f"/api/audio/sessions/{session.pk}?token={secret}")
    assert answer.status_code == 401


@pytest.mark.parametrize("text", ["", "x", "scribe_key_", "scribe_key_abcdefghijkl_" + "A" * 43, "é" * 50])
def test_what_is_no_key_is_told_apart_from_nothing(text, db):
    answer = Client().get("/api/audio/sessions", headers={"Authorization": f"Bearer {text}".encode().decode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert "not valid" in answer.json()["detail"]
    assert 'error="invalid_token"' in answer["WWW-Authenticate"]


def test_a_key_ends_when_it_expires_or_is_revoked_and_its_tokens_end_with_it(project, settings):
    manager = with_key("read", "record", "manage", project=project)
    created = manager.call("POST", "/api/keys", {"name": "bridge", "scopes": ["record", "read"]}).json()
    program = Caller(Client(), headers={"Authorization": f"Token {created['key']}"})
    session_id = program.call("POST", "/api/audio/sessions", {}).json()["session_id"]
    token = program.call("POST", f"/api/audio/sessions/{session_id}/tokens", {}).json()["token"]
    browser = Caller(Client(), headers={"Authorization": f"Bearer {token}"})
    assert browser.call("GET", f"/api/audio/sessions/{session_id}").status_code == 200
    revoked = manager.call("DELETE", f"/api/keys/{created['id']}")
    assert revoked.json()["revoked_at"] is not None
    assert "key" not in revoked.json()
    assert program.call("GET", "/api/audio/sessions").status_code == 401
    assert browser.call("GET", f"/api/audio/sessions/{session_id}").status_code == 401
    assert manager.call("GET", f"/api/audio/sessions/{session_id}").status_code == 200


def test_nobody_gives_what_they_do_not_have(project):
    manager = with_key("manage", project=project)
    answer = manager.call("POST", "/api/keys", {"name": "more", "scopes": ["record"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    answer = with_key("record", project=project).call("POST", "/api/keys", {"name": "more", "scopes": ["record"]})
    assert answer.status_code == 403


def test_the_metrics_have_a_token_of_their_own(db, settings):
    settings.METRICS_TOKEN = "a-secret-of-the-monitoring"
    get = Client().get
    assert get("/metrics", headers={"Authorization": "Bearer a-secret-of-the-monitoring"}).status_code == 200
    assert get("/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
    answer = get("/api/audio/sessions", headers={"Authorization": "Bearer a-secret-of-the-monitoring"})
    assert answer.status_code == 401


def test_a_person_with_several_projects_names_one(project):
    other = Project.objects.create(name="elsewhere")
    both = person("both", Role.RECORDER, project)
    other.memberships.create(user_id=both.client.session["_auth_user_id"], role=Role.VIEWER)
    answer = both.call("POST", "/api/audio/sessions", {})
    assert (answer.status_code, answer.json()["valid_values"]) == (400, ["clinic", "elsewhere"])
    assert both.call("POST", "/api/audio/sessions", {"project": "clinic"}).status_code == 201
    assert both.call("POST", "/api/audio/sessions", {"project": "elsewhere"}).status_code == 403
    answer = both.call("POST", "/api/audio/sessions", {"project": "default"})
    assert (answer.status_code, answer.json()["code"]) == (404, "project_not_found")


def test_a_person_who_is_nowhere_sees_nothing(values):
    nobody = person("nobody")
    assert nobody.call("GET", "/api/projects").json() == []
    assert nobody.call("GET", "/api/audio/sessions").status_code == 403
    assert nobody.call("GET", f"/api/audio/sessions/{values['session_id']}").status_code == 404
    assert nobody.call("GET", f"/api/audio/sessions/{uuid4()}").status_code == 404


def test_where_the_server_asks_nobody_everybody_may_do_everything(values, settings):
    settings.REQUIRE_AUTH = False
    assert Client().get(f"/api/audio/sessions/{values['session_id']}").status_code == 200
    assert person("nobody").call("GET", f"/api/audio/sessions/{values['session_id']}").status_code == 200
    elsewhere = with_key("read", project=Project.objects.create(name="elsewhere"))
    assert elsewhere.call("GET", f"/api/audio/sessions/{values['session_id']}").status_code == 404
