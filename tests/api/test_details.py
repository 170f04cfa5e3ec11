"""The details of sessions over HTTP: names, metadata, retention, and the filters by them."""

import json
import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audio import ingest
from audio.access import ANYONE, issue
from audio.models import AudioSession, AuditEntry, MetadataEntry, Project
from audio.storage import session_file
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]

SESSIONS = "/api/audio/sessions"
DETAILS = {
    "name": "Interview Zoë",
    "metadata": {"room": "4", "Fall/Nr.": "ü = ö"},
    "retention_days": 30,
    "legal_hold": False,
}
TOO_MANY = {str(number): "" for number in range(51)}


@pytest.fixture(autouse=True)
def storage(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path


def create(client, **fields):
    return client.post(SESSIONS, json.dumps(fields), content_type="application/json")


def change(client, session_id, **fields):
    return client.patch(f"{SESSIONS}/{session_id}", json.dumps(fields), content_type="application/json")


def details(shown):
    return {name: shown[name] for name in DETAILS}


def listed(client, **filters):
    answer = client.get(SESSIONS, filters)
    assert answer.status_code == 200, answer.json()
    return {session["session_id"] for session in answer.json()["results"]}


def test_a_session_has_the_details_that_it_was_created_with(client):
    shown = create(client, **DETAILS).json()
    assert details(shown) == DETAILS
    assert shown["project"] == "default"
    assert details(client.get(f"{SESSIONS}/{shown['session_id']}").json()) == DETAILS


def test_a_session_has_no_details_unless_somebody_gives_it_some(client):
    assert details(create(client).json()) == {
        "name": None, "metadata": {}, "retention_days": None, "legal_hold": False,
    }  # fmt: skip


def test_a_form_can_set_details(client):
    answer = client.post(SESSIONS, {"name": "N", "retention_days": "7", "legal_hold": "true", "metadata": ""})
    assert answer.status_code == 201, answer.json()
    assert details(answer.json()) == {"name": "N", "metadata": {}, "retention_days": 7, "legal_hold": True}


@pytest.mark.parametrize(
    ("field", "value", "parameter", "limit"),
    [
        ("name", "", "name", None),
        ("name", "n" * 256, "name", 255),
        ("name", "a\nb", "name", 255),
        ("name", ["a"], "name", None),
        ("metadata", "room=4", "metadata", None),
        ("metadata", [["room", "4"]], "metadata", None),
        ("metadata", {"room": 4}, "metadata.room", None),
        ("metadata", {"room": {"floor": "1"}}, "metadata.room", None),
        ("metadata", {"room": "a\0b"}, "metadata.room", None),
        ("metadata", {"": "4"}, "metadata", 255),
        ("metadata", {"k" * 256: "4"}, "metadata", 255),
        ("metadata", {"a\tb": "4"}, "metadata", 255),
        ("metadata", TOO_MANY, "metadata", 50),
        ("metadata", {"k": "x" * 8192}, "metadata", 8192),
        ("metadata", {"k": "ü" * 4096}, "metadata", 8192),
        ("retention_days", -1, "retention_days", 36500),
        ("retention_days", 36501, "retention_days", 36500),
        ("retention_days", 1.5, "retention_days", 36500),
        ("retention_days", True, "retention_days", 36500),
        ("retention_days", "soon", "retention_days", 36500),
        ("legal_hold", 1, "legal_hold", None),
        ("legal_hold", "yes", "legal_hold", None),
        ("legal_hold", None, "legal_hold", None),
        ("colour", "red", "colour", None),
    ],
)
def test_wrong_details_are_rejected(client, field, value, parameter, limit):
    session = make_session()
    for answer in (create(client, **{field: value}), change(client, session.pk, **{field: value})):
        assert answer.status_code == 400, answer.json()
        error = answer.json()
        assert (error["code"], error["parameter"], error.get("limit")) == ("invalid_parameter", parameter, limit)
    assert AudioSession.objects.count() == 1


def test_as_much_metadata_as_there_may_be(client):
    full = {"k" * 92: "x" * 8000, **{f"{number:02}": "" for number in range(49)}, "last": ""}
    del full["00"]
    assert len(full) == 50
    shown = create(client, metadata=full)
    assert shown.status_code == 201, shown.json()
    answer = change(client, shown.json()["session_id"], metadata={"one": "more"})
    assert (answer.status_code, answer.json()["limit"]) == (400, 50)


def test_a_change_keeps_what_it_does_not_name(client):
    session_id = create(client, **DETAILS).json()["session_id"]
    shown = change(
        client, session_id, metadata={"room": None, "floor": "2", "absent": None}, retention_days=None
    ).json()
    expected = DETAILS | {"metadata": {"Fall/Nr.": "ü = ö", "floor": "2"}, "retention_days": None}
    assert details(shown) == expected
    assert details(change(client, session_id).json()) == expected
    shown = change(client, session_id, name=None, metadata=None, retention_days=0).json()
    assert details(shown) == {"name": None, "metadata": {}, "retention_days": 0, "legal_hold": False}


def test_a_closed_session_can_be_changed(client):
    session = make_session(status="completed")
    assert change(client, session.pk, name="afterwards").json()["name"] == "afterwards"


def test_a_change_of_what_is_not_there(client):
    answer = change(client, "123e4567-e89b-42d3-a456-426614174000", name="nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    assert change(client, "nonsense", name="nobody").json()["code"] == "invalid_session_id"


def test_a_change_is_in_the_storage_too(client):
    """The journals have what the session was when its audio came."""
    session = make_session()
    change(client, session.pk, name="later", metadata={"a": "b"}, legal_hold=True)
    stored = session_file.read(session.pk)
    assert {name: stored[name] for name in DETAILS} == {
        "name": "later", "metadata": {"a": "b"}, "retention_days": None, "legal_hold": True,
    }  # fmt: skip


def test_sessions_are_found_by_their_details(client):
    one = create(client, name="Interview 1", metadata={"room": "4", "case": "7"}).json()["session_id"]
    two = create(client, name="Interview 20", metadata={"room": "4"}).json()["session_id"]
    other = create(client, name="interview 3", metadata={"room": "44", "a=b": "c"}).json()["session_id"]
    assert listed(client) == {one, two, other}
    assert listed(client, name="Interview") == {one, two}
    assert listed(client, name="Interview 2") == {two}
    assert listed(client, name="%") == listed(client, name="nterview") == set()
    assert listed(client, project="default", name="Interview 2") == {two}
    assert listed(client, project="nobody") == set()
    assert listed(client, **{"metadata.room": "4"}) == {one, two}
    assert listed(client, **{"metadata.room": "4", "metadata.case": "7"}) == {one}
    assert listed(client, **{"metadata.a=b": "c"}) == {other}
    assert listed(client, **{"metadata.a": "b=c"}) == listed(client, **{"metadata.room": ""}) == set()
    change(client, one, metadata={"room": "5"})
    assert listed(client, **{"metadata.room": "4"}) == {two}
    assert listed(client, **{"metadata.room": "5", "metadata.case": "7"}) == {one}


def test_a_page_of_a_filtered_list_leads_to_the_next(client):
    for _ in range(3):
        create(client, name="N", metadata={"room": "4"})
    first = client.get(SESSIONS, {"metadata.room": "4", "name": "N", "page_size": 2}).json()
    assert len(first["results"]) == 2
    assert len(client.get(first["next"]).json()["results"]) == 1


@pytest.mark.parametrize("query", [{"metadata.": "4"}, {"metadata.a": "a\0b"}, {"name": "a\0b"}, {"metadata": "a"}])
def test_a_filter_that_makes_no_sense(client, query):
    answer = client.get(SESSIONS, query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


def test_filters_by_details_use_an_index(client):
    # Enough that reading all of them costs more than the index, as far as the statistics of PostgreSQL tell.
    for number in range(300):
        ingest.index_metadata(make_session(name=f"name {number:03}", metadata={"n": str(number)}))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    for query, used in (
        ({"name": "name 007"}, "session_by_name"),
        ({"metadata.n": "7"}, r"\(digest=\?\)|Index Cond.*digest"),
    ):
        with CaptureQueriesContext(connection) as queries:
            assert len(listed(client, **query)) == 1
        tables = re.compile(r'FROM "audio_(audiosession|metadataentry)"')
        plans = [plan(each["sql"]) for each in queries.captured_queries if tables.search(each["sql"])]
        assert any(re.search(used, each) for each in plans), plans


def plan(sql: str) -> str:
    """How the database answers; PostgreSQL is kept from reading a small table whatever the index."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"{'EXPLAIN' if connection.vendor == 'postgresql' else 'EXPLAIN QUERY PLAN'} {sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def test_sessions_of_another_project_are_found_by_it(client):
    other = make_session(project=Project.objects.create(name="other"))
    make_session()
    assert listed(client, project="other") == {str(other.pk)}
    assert client.get(f"{SESSIONS}/{other.pk}").json()["project"] == "other"


def test_the_rows_of_the_index_go_with_the_session(client):
    session_id = create(client, metadata={"a": "b"}).json()["session_id"]
    assert MetadataEntry.objects.count() == 1
    assert client.delete(f"{SESSIONS}/{session_id}").status_code == 204
    assert MetadataEntry.objects.count() == 0


# Who may, and the audit


def key_with(*scopes):
    project = Project.objects.get(name="default")
    return issue.key(project, "program", scopes, ANYONE)[1]


def as_program(client, key, method, path, **fields):
    return client.generic(
        method, path, json.dumps(fields), content_type="application/json", headers={"Authorization": f"Bearer {key}"}
    )


@pytest.mark.parametrize(
    ("field", "value", "scope"),
    [
        ("name", "N", "record"),
        ("metadata", {}, "record"),
        ("retention_days", 1, "manage"),
        ("legal_hold", True, "manage"),
    ],
)
def test_each_field_has_its_scope(client, settings, field, value, scope):
    settings.REQUIRE_AUTH = True
    path = f"{SESSIONS}/{make_session().pk}"
    for others in ({"read", "record", "manage"} - {scope}, {"read"}):
        answer = as_program(client, key_with(*others), "PATCH", path, **{field: value})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert as_program(client, key_with("read", scope), "PATCH", path, **{field: value}).status_code == 200
    created = as_program(client, key_with("read", "record"), "POST", SESSIONS, **{field: value})
    assert created.status_code == (201 if scope == "record" else 403)


def test_the_session_of_another_project_is_not_there(client, settings):
    settings.REQUIRE_AUTH = True
    other = make_session(project=Project.objects.create(name="other"), name="N", metadata={"a": "b"})
    ingest.index_metadata(other)
    key = key_with("read", "record", "manage")
    answer = as_program(client, key, "PATCH", f"{SESSIONS}/{other.pk}", legal_hold=True)
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    for query in ({"name": "N"}, {"metadata.a": "b"}, {"project": "other"}):
        found = client.get(SESSIONS, query, headers={"Authorization": f"Bearer {key}"}).json()
        assert found["results"] == []


def test_changes_are_audited(client):
    session = make_session()
    change(client, session.pk, name="N", metadata={"a": "secret"}, legal_hold=True)
    change(client, session.pk, legal_hold=False)
    entries = list(AuditEntry.objects.order_by("pk").values_list("action", "session_id", "project", "details"))
    assert entries == [
        ("legal_hold.set", session.pk, "default", {}),
        ("session.changed", session.pk, "default", {"changed": ["metadata", "name"]}),
        ("legal_hold.lifted", session.pk, "default", {}),
    ]
