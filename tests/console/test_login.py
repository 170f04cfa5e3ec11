"""The login of people: who gets in, where they land, and how often they may fail."""

import re

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.test import Client

from audio.models import Membership, Project
from tests.api.rows import make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]

PASSWORD = "a-long-password"


@pytest.fixture(autouse=True)
def few_failures(settings):
    settings.LOGIN_FAILURES = settings.AXES_FAILURE_LIMIT = 3


@pytest.fixture
def ana():
    return User.objects.create_user("ana", password=PASSWORD)


def log_in(client, name="ana", password=PASSWORD, address="192.0.2.1", **more):
    return client.post("/login", {"username": name, "password": password, **more}, REMOTE_ADDR=address)


def person(client):
    return client.session.get("_auth_user_id")


def test_the_page_asks_for_a_name_and_a_password(client):
    answer = client.get("/login")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert 'autocomplete="username"' in page
    assert 'autocomplete="current-password"' in page
    assert "Log in with" not in page


def test_a_person_logs_in_and_out(client, ana):
    answer = log_in(client)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert person(client) == str(ana.pk)
    page = client.get("/").content.decode()
    assert "ana" in page
    assert 'action="/logout"' in page
    assert client.get("/logout").status_code == 405
    answer = client.post("/logout")
    assert (answer.status_code, answer["Location"]) == (302, "/login")
    assert person(client) is None


def test_a_login_needs_a_token_of_the_page(ana):
    client = Client(enforce_csrf_checks=True)
    assert log_in(client).status_code == 403
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/login").content.decode())[1]
    assert log_in(client, csrfmiddlewaretoken=token).status_code == 302


def test_the_cookies_are_of_no_use_to_scripts_and_other_sites(client, ana):
    cookie = log_in(client).cookies["sessionid"]
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Lax"
    assert not cookie["secure"]
    client.get("/login", secure=True)
    assert client.post("/login", {"username": "ana", "password": PASSWORD}, secure=True).cookies["sessionid"]["secure"]


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/admin/?a=b", "/admin/?a=b"),
        ("", "/"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example", "/"),
        ("javascript:alert(1)", "/"),
        ("http:///elsewhere.example", "/"),
    ],
)
def test_a_person_lands_on_a_page_of_this_server(client, ana, wanted, location):
    assert log_in(client, next=wanted)["Location"] == location


def test_the_wanted_page_is_kept_while_a_person_fails(client, ana):
    page = client.get("/login", {"next": "/admin/"}).content.decode()
    assert 'name="next" value="/admin/"' in page
    answer = log_in(client, password="wrong", next="/admin/")
    assert answer.status_code == 200
    assert 'name="next" value="/admin/"' in answer.content.decode()
    assert "Please enter a correct username and password" in answer.content.decode()


@pytest.mark.parametrize("name", ["nobody", "ana"])
def test_the_page_does_not_tell_who_has_an_account(client, ana, name):
    page = log_in(client, name, password="wrong").content.decode()
    assert "Please enter a correct username and password. Note that both fields may be case-sensitive." in page
    assert "wrong" not in page


def test_an_inactive_account_is_none(client, ana):
    User.objects.update(is_active=False)
    log_in(client)
    assert person(client) is None


@pytest.mark.parametrize("name", ["a\0", "a" * 5000, ""])
def test_a_name_that_can_not_be_one(client, name):
    assert log_in(client, name).status_code == 200
    assert not AccessAttempt.objects.exists()


def test_headers_that_are_too_long_to_be_stored(client, ana):
    given = {"username": "ana", "password": "wrong"}
    long = {"HTTP_USER_AGENT": "a" * 5000, "HTTP_ACCEPT": "b" * 5000}
    assert client.post(f"/login?next=/{'c' * 5000}", given, **long).status_code == 200
    assert AccessAttempt.objects.get().failures_since_start == 1


def fail(client, count, name="ana", address="192.0.2.1"):
    answers = [log_in(client, name, password="wrong", address=address) for _ in range(count)]
    return [answer.status_code for answer in answers]


def test_logins_are_locked_after_some_failures(client, ana, settings):
    assert fail(client, 3) == [200, 200, 429]
    answer = log_in(client)
    assert answer.status_code == 429
    assert answer["Retry-After"] == str(60 * settings.LOGIN_LOCKOUT_MINUTES)
    assert "logins are locked. Try again in 15 minutes." in answer.content.decode()
    assert person(client) is None


def test_others_still_log_in(client, ana):
    User.objects.create_user("bo", password=PASSWORD)
    fail(client, 3)
    assert log_in(client, "bo").status_code == 302
    assert log_in(client, "ana", address="192.0.2.2").status_code == 302


def test_a_lock_ends_by_itself(client, ana, settings):
    fail(client, 5)
    attempt = AccessAttempt.objects.get()
    assert attempt.failures_since_start == 3, "an attempt while logins are locked does not prolong the lock"
    AccessAttempt.objects.update(attempt_time=attempt.attempt_time - settings.AXES_COOLOFF_TIME)
    assert log_in(client).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_a_success_forgets_the_failures_of_that_person(client, ana):
    fail(client, 2)
    log_in(client)
    assert fail(client, 2) == [200, 200]


def test_many_names_at_one_address(client, ana):
    """Nobody may try one password with every name; and a success in between changes nothing."""
    for number in range(28):
        assert fail(client, 1, f"name-{number}") == [200]
    assert log_in(client).status_code == 302
    assert fail(client, 2, "another") == [200, 429]
    assert log_in(client).status_code == 429
    assert log_in(client, address="192.0.2.2").status_code == 302


def test_many_addresses_with_one_name(client, ana):
    for number in range(29):
        assert fail(client, 1, address=f"2001:db8::{number}") == [200]
    assert fail(client, 1, address="2001:db8::ffff") == [429]
    assert log_in(client, address="192.0.2.2").status_code == 429


def test_no_password_is_stored_or_logged(client, ana, caplog):
    log_in(client, password="the-wrong-secret")
    log_in(client)
    assert "the-wrong-secret" not in str(list(AccessAttempt.objects.values()))
    assert "the-wrong-secret" not in caplog.text
    assert PASSWORD not in caplog.text


# The admin


def test_the_admin_uses_the_same_page(client, ana):
    answer = client.get("/admin/audio/audiosession/", follow=True)
    assert answer.redirect_chain[-1][0] == "/login?next=/admin/audio/audiosession/"
    assert "console/login.html" in [template.name for template in answer.templates]


def test_who_may_not_enter_the_admin_is_told(client, ana):
    log_in(client)
    page = client.get("/admin/", follow=True).content.decode()
    assert "You are logged in as ana, and this account may not see this page" in page


def test_a_logout_in_the_admin(admin_client):
    answer = admin_client.post("/admin/logout/")
    assert (answer.status_code, answer["Location"]) == (302, "/login")
    assert person(admin_client) is None


# The landing page


@pytest.fixture
def doors(settings):
    settings.REQUIRE_AUTH = True


def test_a_stranger_is_sent_to_the_login(client, doors):
    answer = client.get("/?a=b")
    assert (answer.status_code, answer["Location"]) == (302, "/login?next=/%3Fa%3Db")


def listed(client):
    """The sessions that the list of the console shows."""
    return client.get("/api/audio/sessions").json()["results"]


def test_a_person_sees_the_sessions_of_their_projects(client, doors, ana):
    mine, other = Project.objects.create(name="mine"), Project.objects.create(name="other")
    Membership.objects.create(project=mine, user=ana)
    visible, hidden = make_session(project=mine), make_session(project=other)
    log_in(client)
    page = client.get("/").content.decode()
    assert [session["session_id"] for session in listed(client)] == [str(visible.pk)]
    assert [client.get(f"/sessions/{session.pk}").status_code for session in (visible, hidden)] == [200, 404]
    assert "/admin/" not in page
    assert "/metrics" not in page


def test_a_manager_is_led_to_the_admin(client, doors, ana):
    Membership.objects.create(project=Project.objects.get(), user=ana, role="manager")
    log_in(client)
    assert 'href="/admin/"' in client.get("/").content.decode()


def test_staff_sees_all_sessions(admin_client, doors):
    sessions = [make_session(project=Project.objects.create(name=name)) for name in ("a", "b")]
    page = admin_client.get("/").content.decode()
    assert {session["session_id"] for session in listed(admin_client)} == {str(session.pk) for session in sessions}
    assert 'href="/metrics"' in page
