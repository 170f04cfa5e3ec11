"""Projects and their members over REST: what managers and staff may change, and what the audit has of it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from audio.models import AuditEntry, Membership, Project, Role
from tests.access.people import Caller, person, with_key, with_token
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _asks(settings: Any) -> None:
    settings.REQUIRE_AUTH = True


@pytest.fixture
def project() -> Project:
    return Project.objects.create(name="clinic")


@pytest.fixture
def manager(project: Project) -> Caller:
    return person("ana", Role.MANAGER, project)


@pytest.fixture
def staff() -> Caller:
    return person("staff", is_staff=True)


def members(project: Project) -> dict[str, str]:
    return dict(project.memberships.values_list("user__username", "role"))


def audited(action: str) -> list[tuple[str, str, Any]]:
    return list(AuditEntry.objects.filter(action=action).values_list("project", "actor", "details"))


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_staff_create_a_project(staff):
    answer = staff.call("POST", "/api/projects", {"name": "new", "retention_days": 0, "max_open_sessions": 5})
    assert answer.status_code == 201
    shown = answer.json()
    new = Project.objects.get(name="new")
    assert shown == {
        "id": new.pk,
        "name": "new",
        "scopes": ["read", "record", "manage"],
        "retention_days": 0,
        "max_open_sessions": 5,
        "max_openings_per_minute": None,
        "max_bytes_per_day": None,
        "max_requests_per_second": None,
    }
    assert staff.call("GET", answer["Location"]).json() == shown
    ((name, actor, details),) = audited("project.created")
    assert (name, actor, details) == ("new", "user staff", {"fields": ["name", "retention_days", "max_open_sessions"]})


def test_nobody_else_creates_a_project(project, manager):
    for caller in (manager, with_key("read", "record", "manage", project=project)):
        assert code(caller.call("POST", "/api/projects", {"name": "new"})) == (403, "not_allowed")
    assert not Project.objects.filter(name="new").exists()


@pytest.mark.parametrize("name", ["", "Clinic", "-a", "a b", "a" * 51, "é", None, 5.5, ["a"]])
def test_a_name_that_is_none(staff, name):
    answer = staff.call("POST", "/api/projects", {"name": name})
    assert code(answer) == (400, "invalid_parameter")
    assert answer.json()["parameter"] == "name"


def test_a_name_that_another_project_has(staff, project):
    path = f"/api/projects/{Project.objects.create(name='other').pk}"
    for answer in (
        staff.call("POST", "/api/projects", {"name": "clinic"}),
        staff.call("PATCH", path, {"name": "clinic"}),
    ):
        assert code(answer) == (400, "invalid_parameter")
        assert answer.json()["detail"] == "Another project has this name."


def test_a_manager_changes_the_retention_and_not_the_limits(project, manager, staff):
    path = f"/api/projects/{project.pk}"
    assert manager.call("PATCH", path, {"retention_days": 30}).json()["retention_days"] == 30
    assert audited("project.changed") == [("clinic", "user ana", {"fields": ["retention_days"]})]
    for field, value in {"name": "mine", "max_open_sessions": 9, "max_bytes_per_day": 9}.items():
        answer = manager.call("PATCH", path, {"retention_days": 1, field: value})
        assert code(answer) == (403, "not_allowed")
        assert answer.json()["parameter"] == field
    project.refresh_from_db()
    assert (project.retention_days, project.name, project.max_open_sessions) == (30, "clinic", None)
    answer = staff.call("PATCH", path, {"name": "ward", "max_open_sessions": 9, "max_bytes_per_day": 2**40})
    assert (answer.json()["name"], answer.json()["max_bytes_per_day"]) == ("ward", 2**40)
    # What stays as it is can be sent too, and is not in the audit.
    assert manager.call("PATCH", path, {"name": "ward", "max_open_sessions": 9}).status_code == 200
    assert len(audited("project.changed")) == 2
    assert staff.call("PATCH", path, {"max_open_sessions": None}).json()["max_open_sessions"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retention_days", -1),
        ("retention_days", "x"),
        ("retention_days", 10**9),
        ("max_open_sessions", 0),
        ("max_open_sessions", 2**31),
        ("max_bytes_per_day", 2**63),
        ("max_requests_per_second", 1.5),
        ("max_openings_per_minute", "many"),
        ("id", 7),
        ("scopes", ["manage"]),
    ],
)
def test_a_value_that_is_not_valid(staff, project, field, value):
    answer = staff.call("PATCH", f"/api/projects/{project.pk}", {field: value})
    assert code(answer) == (400, "invalid_parameter")
    assert answer.json()["parameter"] == field


@pytest.mark.parametrize("text", ["0", "999999999", "9" * 30, "clinic", "-1", "1.0", "٣"])
def test_a_project_that_does_not_exist(manager, text):
    for path in (f"/api/projects/{text}", f"/api/projects/{text}/members"):
        assert code(manager.call("GET", path)) == (404, "project_not_found")


def test_a_session_token_sees_its_project_and_not_the_members(project):
    listener = with_token(make_session(project=project), "listen")
    path = f"/api/projects/{project.pk}"
    assert listener.call("GET", path).json()["scopes"] == ["read"]
    assert listener.call("PATCH", path, {"retention_days": 1}).status_code == 403
    assert listener.call("GET", f"{path}/members").status_code == 403


def test_a_manager_adds_changes_and_removes_members(project, manager):
    User.objects.create_user("bo")
    path = f"/api/projects/{project.pk}/members"
    added = manager.call("POST", path, {"user": "bo", "role": "viewer"})
    assert added.status_code == 201
    bo = added.json()
    assert (bo["user"], bo["role"]) == ("bo", "viewer")
    assert [member["user"] for member in manager.call("GET", path).json()["results"]] == ["ana", "bo"]
    assert manager.call("PATCH", f"{path}/{bo['id']}", {"role": "recorder"}).json() == {**bo, "role": "recorder"}
    assert members(project) == {"ana": "manager", "bo": "recorder"}
    assert manager.call("DELETE", f"{path}/{bo['id']}").status_code == 204
    assert members(project) == {"ana": "manager"}
    assert code(manager.call("DELETE", f"{path}/{bo['id']}")) == (404, "member_not_found")
    assert audited("member.added") == [("clinic", "user ana", {"user": "bo", "role": "viewer"})]
    assert audited("member.changed") == [("clinic", "user ana", {"user": "bo", "role": "recorder"})]
    assert audited("member.removed") == [("clinic", "user ana", {"user": "bo", "role": "recorder"})]


def test_a_list_of_members_has_pages(project, manager):
    for number in range(3):
        project.memberships.create(user=User.objects.create_user(f"person-{number}"))
    path: Any = f"/api/projects/{project.pk}/members?page_size=3"
    first = manager.call("GET", path).json()
    second = manager.call("GET", first["next"]).json()
    assert [len(page["results"]) for page in (first, second)] == [3, 1]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"user": "nobody", "role": "viewer"}, "user"),
        ({"user": "gone", "role": "viewer"}, "user"),
        ({"user": "ana", "role": "viewer"}, "user"),
        ({"user": "bo", "role": "owner"}, "role"),
        ({"user": "bo"}, "role"),
        ({"role": "viewer"}, "user"),
        ({"user": "b\0o", "role": "viewer"}, "user"),
        ({"user": "bo", "role": "viewer", "project": "other"}, "project"),
    ],
)
def test_a_member_who_can_not_be_added(project, manager, body, parameter):
    User.objects.create_user("bo")
    User.objects.create_user("gone", is_active=False)
    answer = manager.call("POST", f"/api/projects/{project.pk}/members", body)
    assert code(answer) == (400, "invalid_parameter")
    assert answer.json()["parameter"] == parameter
    assert members(project) == {"ana": "manager"}


def test_a_member_of_another_project_does_not_exist(project, manager):
    other = Project.objects.create(name="other")
    theirs = other.memberships.create(user=User.objects.create_user("bo"), role=Role.VIEWER)
    for base in (f"/api/projects/{project.pk}", f"/api/projects/{other.pk}"):
        for method in ("PATCH", "DELETE"):
            assert manager.call(method, f"{base}/members/{theirs.pk}", {"role": "manager"}).status_code == 404
    assert members(other) == {"bo": "viewer"}


def test_the_last_manager_stays_unless_staff_remove_them(project, manager, staff):
    bo = project.memberships.create(user=User.objects.create_user("bo"), role=Role.RECORDER)
    ana = project.memberships.get(user__username="ana")
    path = f"/api/projects/{project.pk}/members/{ana.pk}"
    assert code(manager.call("PATCH", path, {"role": "viewer"})) == (409, "last_manager")
    assert code(manager.call("DELETE", path)) == (409, "last_manager")
    assert manager.call("PATCH", f"/api/projects/{project.pk}/members/{bo.pk}", {"role": "manager"}).status_code == 200
    assert manager.call("PATCH", path, {"role": "viewer"}).status_code == 200
    assert code(manager.call("PATCH", path, {"role": "manager"})) == (403, "not_allowed")
    assert staff.call("DELETE", f"/api/projects/{project.pk}/members/{bo.pk}").status_code == 204
    assert members(project) == {"ana": "viewer"}


def test_two_managers_can_not_remove_each_other_at_once(project, manager):
    other = person("bo", Role.MANAGER, project)
    ids = dict(project.memberships.values_list("user__username", "pk"))
    paths = {name: f"/api/projects/{project.pk}/members/{key}" for name, key in ids.items()}

    def remove(caller: Caller, name: str) -> int:
        try:
            return int(caller.call("DELETE", paths[name]).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(remove, [manager, other], ["bo", "ana"]))
    assert answers.count(204) == 1
    assert list(members(project).values()) == ["manager"]


def test_nobody_promotes_themselves(project, manager):
    recorder = person("bo", Role.RECORDER, project)
    bo = project.memberships.get(user__username="bo")
    path = f"/api/projects/{project.pk}/members"
    assert recorder.call("PATCH", f"{path}/{bo.pk}", {"role": "manager"}).status_code == 403
    assert recorder.call("POST", path, {"user": "bo", "role": "manager"}).status_code == 403
    assert members(project) == {"ana": "manager", "bo": "recorder"}


def test_a_key_gives_no_role_that_can_do_more_than_it(project):
    User.objects.create_user("bo")
    path = f"/api/projects/{project.pk}/members"
    key = with_key("manage", project=project)
    for role in ("viewer", "recorder", "manager"):
        assert code(key.call("POST", path, {"user": "bo", "role": role})) == (403, "not_allowed")
    key = with_key("read", "manage", project=project)
    assert key.call("POST", path, {"user": "bo", "role": "viewer"}).status_code == 201
    bo = Membership.objects.get(user__username="bo")
    assert code(key.call("PATCH", f"{path}/{bo.pk}", {"role": "manager"})) == (403, "not_allowed")
    assert members(project) == {"bo": "viewer"}


def test_a_login_needs_the_token_of_a_page_to_change_something(project, manager):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(User.objects.get(username="ana"))
    path = f"/api/projects/{project.pk}"
    answer = browser.generic("PATCH", path, '{"retention_days": 1}', "application/json")
    assert answer.status_code == 403
    project.refresh_from_db()
    assert project.retention_days is None


def test_where_the_server_asks_nobody_everybody_is_staff(settings):
    settings.REQUIRE_AUTH = False
    answer = Client().post("/api/projects", {"name": "new", "max_open_sessions": 2}, "application/json")
    assert answer.status_code == 201
    assert audited("project.created")[0][1] == "anyone"
