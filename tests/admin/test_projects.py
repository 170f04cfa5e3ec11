"""The admin by project: a manager sees and does what belongs to their projects, and nothing else exists."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from audio import access
from audio.access import issue
from audio.models import ApiKey, AudioSession, AuditEntry, BackgroundTask, Membership, Project, SessionToken
from audio.webhooks import endpoints
from tests.api.rows import make_chunks, make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

MISSING = "00000000-0000-4000-8000-000000000000"
# The lists of which a manager sees a part, and those that are for staff alone.
LISTS = [
    *("audiosession", "recording", "audiosource", "audiochunk", "backgroundtask"),
    *("project", "apikey", "sessiontoken", "auditentry"),
    *("webhookendpoint", "webhookdelivery", "webhookevent"),
]
STAFF_ONLY = [
    "audio/openidaccount",
    "auth/user",
    "auth/group",
    "admin/logentry",
    "django_celery_results/taskresult",
]


class Tenant:
    """A project with a session, a row of each kind, and a manager."""

    def __init__(self, name: str) -> None:
        self.project = Project.objects.create(name=name)
        self.manager = User.objects.create_user(f"manager-of-{name}")
        self.membership = Membership.objects.create(project=self.project, user=self.manager, role="manager")
        self.session = make_session(
            {"state": "ready", "format": "wav", "size_bytes": 3200, "file_name": "a.wav", "duration_seconds": 1},
            project=self.project,
            status="completed",
            user_id=f"user-of-{name}",
        )
        make_chunks(self.session, 2)
        self.task = BackgroundTask.objects.create(session=self.session, kind="waveform")
        identity = access.COMMAND
        self.key, self.secret = issue.key(self.project, f"key-of-{name}", ["read"], identity)
        self.token, _ = issue.token(self.session, "listen", timedelta(hours=1), identity)
        self.webhook, _ = endpoints.create(self.project.pk, f"https://{name}.example.com/hook", [])
        self.delivery = endpoints.test(self.webhook)

    @property
    def rows(self) -> dict[str, object]:
        """The key of a row of each list."""
        return {
            "audiosession": self.session.pk,
            "recording": self.session.pk,
            "audiosource": self.session.sources.get().pk,
            "audiochunk": self.session.chunks.first().pk,
            "backgroundtask": self.task.pk,
            "project": self.project.pk,
            "apikey": self.key.pk,
            "sessiontoken": self.token.pk,
            "webhookendpoint": self.webhook.pk,
            "webhookdelivery": self.delivery.pk,
            "webhookevent": self.delivery.event_id,
            "auditentry": AuditEntry.objects.filter(project=self.project.name).first().pk,
        }

    def client(self) -> Client:
        """A browser in which the manager has logged in."""
        client = Client()
        client.force_login(self.manager)
        return client


@pytest.fixture(autouse=True)
def doors(settings):
    settings.REQUIRE_AUTH = True


@pytest.fixture
def ours():
    return Tenant("ours")


@pytest.fixture
def theirs():
    return Tenant("theirs")


@pytest.fixture
def client(ours):
    return ours.client()


def listed(client, name, **query):
    answer = client.get(f"/admin/audio/{name}/", query)
    assert answer.status_code == 200
    return {row.pk for row in answer.context["cl"].result_list}


def page(client, path):
    answer = client.get(f"/admin/audio/{path}")
    assert answer.status_code == 200, answer
    return answer.content.decode()


def missing(answer):
    """Whether a page is the one of a row that does not exist: Django leads back to the start page."""
    return answer.status_code == 404 or (answer.status_code == 302 and answer["Location"] == "/admin/")


# What exists


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_the_rows_of_the_own_project(client, ours, theirs, name):
    found = listed(client, name)
    assert ours.rows[name] in found
    assert theirs.rows[name] not in found
    assert theirs.rows[name] not in listed(client, name, q=str(theirs.session.pk))


@pytest.mark.parametrize("name", LISTS)
def test_another_project_s_row_does_not_exist(client, ours, theirs, name):
    assert client.get(f"/admin/audio/{name}/{ours.rows[name]}/change/").status_code == 200
    for key in (theirs.rows[name], MISSING if name != "project" else 10**9):
        for view in ("change", "history", "delete"):
            answer = client.get(f"/admin/audio/{name}/{key}/{view}/", follow=False)
            assert missing(answer) or answer.status_code == 403, (name, view, answer)
        assert client.get(f"/admin/audio/{name}/{key}/change/").status_code == 302
        answer = client.post(f"/admin/audio/{name}/{key}/change/", {"name": "x"})
        assert missing(answer) or answer.status_code == 403


@pytest.mark.parametrize("path", STAFF_ONLY)
def test_what_is_for_staff_alone(client, path):
    assert client.get(f"/admin/{path}/").status_code == 403
    assert client.get(f"/admin/{path}/add/").status_code == 403


def test_the_start_page_has_no_other_list(client):
    start = client.get("/admin/").content.decode()
    assert set(re.findall(r'href="/admin/(\w+/\w+)/"', start)) == {f"audio/{name}" for name in LISTS}


def test_no_page_names_another_project(client, ours, theirs):
    for name in LISTS:
        paths = [f"{name}/", f"{name}/{ours.rows[name]}/change/"]
        for path in paths:
            assert "theirs" not in page(client, path)
    assert "theirs" not in page(client, "apikey/add/")
    assert "theirs" not in page(client, "project/?q=theirs").replace('value="theirs"', "")


@pytest.mark.parametrize("term", ["user-of-theirs", "user-of"])
def test_a_search_finds_nothing_of_another_project(client, ours, theirs, term):
    assert listed(client, "audiosession", q=term) <= {ours.session.pk}
    assert theirs.session.pk not in listed(client, "audiosession", recording="ready")
    assert theirs.session.pk not in listed(client, "audiosession", project="theirs")
    assert theirs.rows["auditentry"] not in listed(client, "auditentry", project="theirs")


@pytest.mark.parametrize("role", ["viewer", "recorder"])
def test_only_managers_may_enter(client, ours, role):
    Membership.objects.update(role=role)
    assert client.get("/admin/").status_code == 302
    assert client.get("/admin/audio/audiosession/").status_code == 302


def test_an_inactive_manager_may_not_enter(client, ours):
    User.objects.update(is_active=False)
    assert client.get("/admin/").status_code == 302


def test_a_manager_of_two_projects_sees_both(client, ours, theirs):
    Membership.objects.create(project=theirs.project, user=ours.manager, role="manager")
    assert {ours.session.pk, theirs.session.pk} <= listed(client, "audiosession")
    assert listed(client, "audiosession", project="theirs") == {theirs.session.pk}
    assert listed(client, "apikey", project="ours") == {ours.key.pk}


def test_staff_see_everything_that_their_permissions_allow(client, ours, theirs):
    staff = User.objects.create_user("staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename="view_audiosession"))
    Membership.objects.create(project=ours.project, user=staff, role="manager")
    client.force_login(staff)
    assert {ours.session.pk, theirs.session.pk} <= listed(client, "audiosession")
    assert client.get("/admin/audio/apikey/").status_code == 403


def test_the_lists_of_a_manager_cost_few_queries(client, ours, theirs, django_assert_max_num_queries):
    for name in LISTS:
        with django_assert_max_num_queries(12):
            listed(client, name)


# What a manager does


def act(client, name, action, *keys, **more):
    return client.post(f"/admin/audio/{name}/", {"action": action, "_selected_action": keys, **more}, follow=True)


def test_an_action_on_the_own_session(client, ours):
    act(client, "audiosession", "verify_selected", ours.session.pk)
    assert BackgroundTask.objects.filter(session=ours.session, kind="verify").exists()
    entry = AuditEntry.objects.get(action="recording.verified")
    assert (entry.project, entry.actor, entry.session_id) == ("ours", "user manager-of-ours", ours.session.pk)
    assert entry.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("action", "more"),
    [("close_selected", {}), ("verify_selected", {}), ("rebuild_selected", {}), ("delete_selected", {"post": "yes"})],
)
def test_an_action_on_a_session_of_another_project(client, ours, theirs, action, more):
    AudioSession.objects.filter(pk=theirs.session.pk).update(status="active")
    before = list(AudioSession.objects.filter(pk=theirs.session.pk).values())
    act(client, "audiosession", action, theirs.session.pk, **more)
    path = f"/admin/audio/audiosession/{theirs.session.pk}"
    assert client.post(f"{path}/act/", {"action": action, **more}).status_code == 404
    assert client.post(f"{path}/delete/", {"post": "yes"}).status_code == 404
    assert list(AudioSession.objects.filter(pk=theirs.session.pk).values()) == before
    assert BackgroundTask.objects.filter(session=theirs.session).count() == 1


def new_key(client, **fields):
    data = {"name": "back end", "scopes": ["read", "record"], "expires_at": "", **fields}
    return client.post("/admin/audio/apikey/add/", data)


def test_a_new_key_is_shown_once(client, ours):
    answer = new_key(client, project=ours.project.pk)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    (secret,) = re.findall(r'value="(scribe_key_\w+[\w-]*)"', answer.content.decode())
    identity = access.by_secret(secret)
    assert identity.scopes == {ours.project.pk: frozenset(["read", "record"])}
    key = ApiKey.objects.get(name="back end")
    assert (key.created_by, key.project) == (ours.manager, ours.project)
    pages = [page(client, path) for path in ("apikey/", f"apikey/{key.pk}/change/", "auditentry/")]
    pages += [client.get("/admin/").content.decode()]
    assert not [shown for shown in pages if secret in shown or key.digest in shown]
    assert secret not in str(answer.cookies)
    assert key.prefix in pages[0]
    assert AuditEntry.objects.filter(action="key.created", project="ours", actor="user manager-of-ours").exists()


def test_a_key_that_ends_by_itself(client, ours):
    new_key(client, project=ours.project.pk, expires_at="2100-01-01T12:30")
    assert ApiKey.objects.get(name="back end").expires_at.isoformat() == "2100-01-01T12:30:00+00:00"


def test_a_key_of_another_project_can_not_be_made(client, ours, theirs):
    answer = new_key(client, project=theirs.project.pk)
    assert "Select a valid choice" in answer.content.decode()
    assert ApiKey.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scopes": []}, "This field is required"),
        ({"scopes": ["all"]}, "Select a valid choice. all is not one"),
        ({"expires_at": "2020-01-01T00:00"}, "Choose a time in the future."),
    ],
)
def test_a_key_that_can_not_be_one(client, ours, fields, sentence):
    assert sentence in new_key(client, project=ours.project.pk, **fields).content.decode()
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("name", ["apikey", "sessiontoken"])
def test_secrets_are_revoked_and_kept(client, ours, theirs, name):
    answer = act(client, name, "revoke_selected", ours.rows[name], theirs.rows[name])
    assert [str(message) for message in answer.context["messages"]] == ["1 revoked."]
    model: Any = {"apikey": ApiKey, "sessiontoken": SessionToken}[name]
    assert model.objects.get(pk=ours.rows[name]).revoked_at
    assert not model.objects.get(pk=theirs.rows[name]).revoked_at
    assert "revoked" in page(client, f"{name}/{ours.rows[name]}/change/")
    for view in ("change", "delete"):
        assert client.post(f"/admin/audio/{name}/{ours.rows[name]}/{view}/", {"post": "yes"}).status_code == 403
    assert AuditEntry.objects.filter(action__endswith=".revoked", project="ours").count() == 1


def test_a_key_shows_no_digest(client, ours):
    for path in (f"apikey/{ours.key.pk}/change/", f"sessiontoken/{ours.token.pk}/change/"):
        shown = page(client, path)
        assert ours.key.digest not in shown
        assert ours.token.digest not in shown


def members(*rows, initial=0):
    data = {"memberships-TOTAL_FORMS": len(rows), "memberships-INITIAL_FORMS": initial}
    for number, row in enumerate(rows):
        data |= {f"memberships-{number}-{name}": value for name, value in row.items()}
    return data


def test_a_manager_changes_retention_and_members(client, ours):
    User.objects.create_user("bo")
    path = f"/admin/audio/project/{ours.project.pk}/change/"
    own = {"id": ours.membership.pk, "project": ours.project.pk, "user": ours.manager.username, "role": "manager"}
    added = {"project": ours.project.pk, "user": "bo", "role": "recorder"}
    assert f'value="{ours.manager.username}"' in page(client, f"project/{ours.project.pk}/change/")
    answer = client.post(
        path, {"retention_days": "7", "max_open_sessions": "9", "name": "renamed", **members(own, added, initial=1)}
    )
    assert answer.status_code == 302
    ours.project.refresh_from_db()
    # The name and the limits are for staff.
    changed = ours.project
    assert (changed.retention_days, changed.max_open_sessions, changed.name) == (7, None, "ours")
    assert Membership.objects.get(user__username="bo").role == "recorder"
    assert set(AuditEntry.objects.filter(project="ours").values_list("action", flat=True)) >= {
        "project.changed",
        "member.added",
    }
    bo = Membership.objects.get(user__username="bo")
    gone = {"id": bo.pk, "project": ours.project.pk, "user": "bo", "role": "recorder", "DELETE": "on"}
    client.post(path, {"retention_days": "7", **members(own, gone, initial=2)})
    assert not Membership.objects.filter(user__username="bo").exists()
    assert AuditEntry.objects.get(action="member.removed").details == {"user": "bo", "role": "recorder"}


def test_a_member_of_another_project_can_not_be_changed(client, ours, theirs):
    path = f"/admin/audio/project/{ours.project.pk}/change/"
    row = {"id": theirs.membership.pk, "project": theirs.project.pk, "user": "manager-of-ours", "role": "manager"}
    client.post(path, members(row, initial=1))
    client.post(path, members({**row, "id": ""}))
    theirs.membership.refresh_from_db()
    assert theirs.membership.user == theirs.manager
    assert theirs.project.memberships.count() == 1


def test_a_user_name_that_nobody_has(client, ours):
    path = f"/admin/audio/project/{ours.project.pk}/change/"
    answer = client.post(path, members({"project": ours.project.pk, "user": "nobody", "role": "viewer"}))
    assert "There is no active account with this user name." in answer.content.decode()


def test_the_last_manager_stays(client, admin_client, ours):
    path = f"/admin/audio/project/{ours.project.pk}/change/"
    own = {"id": ours.membership.pk, "project": ours.project.pk, "user": ours.manager.username, "role": "viewer"}
    for row in (own, {**own, "role": "manager", "DELETE": "on"}):
        assert "needs at least one manager" in client.post(path, members(row, initial=1)).content.decode()
        assert ours.project.memberships.get().role == "manager"
    User.objects.create_user("bo")
    added = {"project": ours.project.pk, "user": "bo", "role": "manager"}
    assert client.post(path, members(own, added, initial=1)).status_code == 302
    assert dict(ours.project.memberships.values_list("user__username", "role")) == {
        "manager-of-ours": "viewer",
        "bo": "manager",
    }
    assert AuditEntry.objects.get(action="member.changed").details == {"user": "manager-of-ours", "role": "viewer"}
    bo = Membership.objects.get(user__username="bo")
    rows = [own, {**added, "id": bo.pk, "DELETE": "on"}]
    answer = admin_client.post(path, {"name": "ours", **members(*rows, initial=2)})
    assert answer.status_code == 302
    assert not ours.project.memberships.filter(role="manager").exists()


def test_a_member_who_is_not_active_any_more_can_be_removed(client, ours):
    bo = ours.project.memberships.create(user=User.objects.create_user("bo", is_active=False))
    path = f"/admin/audio/project/{ours.project.pk}/change/"
    own = {"id": ours.membership.pk, "project": ours.project.pk, "role": "manager"}
    # The user of a member stays, whatever is sent.
    gone = {"id": bo.pk, "project": ours.project.pk, "user": "manager-of-ours", "role": "recorder"}
    assert client.post(path, members(own, gone, initial=2)).status_code == 302
    bo.refresh_from_db()
    assert (bo.user.username, bo.role) == ("bo", "recorder")
    assert client.post(path, members(own, {**gone, "DELETE": "on"}, initial=2)).status_code == 302
    assert not ours.project.memberships.filter(pk=bo.pk).exists()


def test_a_project_is_made_and_deleted_by_staff_alone(client, admin_client, ours):
    assert client.post("/admin/audio/project/add/", {"name": "new", **members()}).status_code == 403
    assert client.post(f"/admin/audio/project/{ours.project.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post("/admin/audio/project/add/", {"name": "new", **members()}).status_code == 302
    new = Project.objects.get(name="new")
    assert AuditEntry.objects.get(action="project.created").project == "new"
    assert admin_client.post(f"/admin/audio/project/{ours.project.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post("/admin/audio/project/1/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"/admin/audio/project/{new.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Project.objects.filter(name="new").exists()


# The audit


def test_the_audit_is_read_and_not_written(admin_client, ours):
    key = ours.rows["auditentry"]
    assert "key.created" in page(admin_client, "auditentry/")
    assert admin_client.post(f"/admin/audio/auditentry/{key}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"/admin/audio/auditentry/{key}/change/", {"actor": "x"}).status_code == 403
    assert admin_client.get("/admin/audio/auditentry/add/").status_code == 403


def test_managers_do_not_see_what_was_done_to_another_project_of_the_same_name(client, ours, theirs):
    old = ours.rows["auditentry"]
    assert old in listed(client, "auditentry")
    Project.objects.filter(pk=theirs.project.pk).update(name="renamed")
    Project.objects.filter(pk=ours.project.pk).update(name="theirs")
    assert listed(client, "auditentry") == set()
    Project.objects.filter(pk=ours.project.pk).update(name="ours")
    assert old in listed(client, "auditentry")


def test_the_audit_is_filtered_and_searched(admin_client, ours, theirs):
    AuditEntry.objects.update(at=timezone.now() - timedelta(days=2))
    recent = AuditEntry.objects.create(actor="user ana", action="session.deleted", project="ours")

    def found(**query):
        return set(AuditEntry.objects.filter(pk__in=listed(admin_client, "auditentry", **query)).values_list("project"))

    assert found() == {("ours",), ("theirs",)}
    assert found(project="theirs") == {("theirs",)}
    assert found(q=str(theirs.session.pk)) == {("theirs",)}
    assert listed(admin_client, "auditentry", action="session.deleted") == {recent.pk}
    assert listed(admin_client, "auditentry", q="ANA") == {recent.pk}
    day = timezone.now().date().isoformat()
    assert listed(admin_client, "auditentry", at__gte=f"{day} 00:00:00+00:00") == {recent.pk}
