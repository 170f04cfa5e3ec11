"""The login by OpenID Connect, with a real server and a provider in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.contrib.auth.models import User

from audio.console import people
from audio.models import Membership, OpenIdAccount, Project
from tests.server import Server, eventually, free_port
from tests.services import REPOSITORY
from tests.test_settings import run

CLIENT = {"OIDC_CLIENT_ID": "scribe", "OIDC_CLIENT_SECRET": "a-secret", "REQUIRE_AUTH": "true"}


@contextmanager
def provider(port: int) -> Iterator[str]:
    """A provider that lets everybody in; its address."""
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: is_there(url))
            yield url
        finally:
            process.kill()


def is_there(url: str) -> bool:
    try:
        return httpx.get(f"{url}/.well-known/openid-configuration").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider(free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def server(run_module_server, issuer) -> Server:
    return run_module_server(OIDC_ISSUER=issuer, OIDC_NAME="Example", OIDC_DEFAULT_PROJECT="default", **CLIENT)


def browser(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, follow_redirects=True, timeout=60)


def log_in(client: httpx.Client, subject: str, wanted: str = "/") -> httpx.Response:
    """Press the button of the login page, and say who one is to the provider."""
    page = client.get("/login", params={"next": wanted}).text
    (button,) = re.findall(r'href="([^"]*/login/openid[^"]*)"', page)
    asked = client.get(button.replace("&amp;", "&"))
    assert asked.url.path == "/oauth2/authorize"
    return client.post(str(asked.url), data={"sub": subject})


def claims(issuer: str, subject: str, **more: str) -> None:
    """Tell the provider who somebody is."""
    assert httpx.put(f"{issuer}/users/{subject}", json=more).is_success


def test_a_person_logs_in_through_the_provider(server, issuer):
    claims(issuer, "1234", preferred_username="ana", email="ana@example.org", given_name="Ana")
    with browser(server.url) as client:
        assert ">Log in with Example<" in client.get("/login").text
        answer = log_in(client, "1234", "/?wanted=1")
        assert (answer.status_code, str(answer.url)) == (200, f"{server.url}/?wanted=1")
        assert "ana" in answer.text
        assert "Log out" in answer.text
    program = (
        "import django; django.setup()\n"
        "from audio.models import Membership\n"
        "m = Membership.objects.select_related('user').get(user__username='ana')\n"
        "print(m.role, m.project, m.user.email, m.user.first_name, m.user.is_staff, m.user.has_usable_password())"
    )
    server.environment["DJANGO_SETTINGS_MODULE"] = "sercuescribe.settings"
    code, said, complaint = run(server, "-c", program)
    assert code == 0, complaint
    assert said.split() == ["viewer", "default", "ana@example.org", "Ana", "False", "False"]
    assert "logged_in" in server.read_log()


def test_a_logout_leads_to_the_logout_of_the_provider(server, issuer):
    claims(issuer, "leaving", preferred_username="leaving")
    with browser(server.url) as client:
        page = log_in(client, "leaving").text
        (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page))
        answer = client.post("/logout", data={"csrfmiddlewaretoken": token})
        assert (answer.status_code, answer.url.path) == (200, "/logout")
        assert client.get("/").url.path == "/login"
        (url,) = re.findall(r'<a class="main" href="([^"]+)"', answer.text)
        asked = urlsplit(unescape(url))
        assert f"{asked.scheme}://{asked.netloc}{asked.path}" == f"{issuer}/oauth2/end_session"
        query = parse_qs(asked.query)
        assert query["post_logout_redirect_uri"] == [f"{server.url}/"]
        assert query["client_id"] == [CLIENT["OIDC_CLIENT_ID"]]
        assert query["id_token_hint"][0].count(".") == 2
        assert f'content="0; url={url}"' in answer.text
        assert httpx.get(unescape(url)).is_success
        assert query["id_token_hint"][0] not in server.read_log()


def test_who_has_a_password_logs_out_here_alone(client, db, settings):
    settings.OIDC_ISSUER = "https://login.example"
    client.force_login(User.objects.create_user("ana"))
    answer = client.post("/logout")
    assert (answer.status_code, answer["Location"]) == (302, "/login")


def test_the_same_person_is_known_again(server, issuer):
    claims(issuer, "5678", preferred_username="bo")
    for name in ("bo", "renamed"):
        claims(issuer, "5678", preferred_username=name)
        with browser(server.url) as client:
            assert re.search(r"<span>bo</span>", log_in(client, "5678").text)


@pytest.mark.parametrize("query", ["", "?code=x", "?state=x&code=y", "?error=access_denied&error_description=no"])
def test_an_answer_that_nobody_asked_for(server, query):
    with browser(server.url) as client:
        answer = client.get(f"/login/openid/callback{query}")
        assert answer.status_code == 403
        assert "You could not be logged in with Example" in answer.text
        assert "sessionid" not in client.cookies


def test_an_answer_for_another_browser(server, issuer):
    claims(issuer, "attacker", preferred_username="ana")
    with browser(server.url) as attacker, browser(server.url) as victim:
        asked = attacker.get("/login/openid")
        answer = httpx.post(str(asked.url), data={"sub": "attacker"})
        assert victim.get(answer.headers["Location"]).status_code == 403
        assert victim.get("/").url.path == "/login"


def test_an_answer_is_used_once(server, issuer):
    with browser(server.url) as client:
        answer = log_in(client, "once")
        callback = answer.history[-1].url
        assert client.get(str(callback)).status_code == 403


def test_a_provider_that_is_away_is_said(run_server):
    server = run_server(OIDC_ISSUER=f"http://127.0.0.1:{free_port()}", **CLIENT)
    with browser(server.url) as client:
        answer = client.get("/login/openid")
        assert answer.status_code == 502
        assert "the provider does not answer" in answer.text
        assert client.get("/login").status_code == 200


def test_an_issuer_that_is_another_one(run_server, issuer):
    """The provider calls itself by its address without the slash, so its tokens are those of somebody else."""
    server = run_server(OIDC_ISSUER=f"{issuer}/", **CLIENT)
    with browser(server.url) as client:
        assert log_in(client, "1234").status_code == 403


def test_without_a_provider_there_is_no_such_login(client):
    assert client.get("/login/openid").status_code == 404
    assert client.get("/login/openid/callback").status_code == 404


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"OIDC_ISSUER": "https://login.example"}, "Set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET"),
        ({**CLIENT, "OIDC_ISSUER": "login.example"}, "OIDC_ISSUER must be a URL"),
        ({"OIDC_DEFAULT_ROLE": "owner"}, "OIDC_DEFAULT_ROLE must be one of viewer, recorder, manager"),
    ],
)
def test_settings_that_can_not_be_used(variables, sentence):
    environment = {"PATH": os.defpath, **variables}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert sentence in done.stderr


# Accounts


@pytest.mark.django_db
def test_a_name_that_somebody_has_gets_a_number():
    owner = User.objects.create_user("ana", email="ana@example.org")
    user = people.user_of("https://login", {"sub": "1", "preferred_username": "Ana", "email": "ana@example.org"})
    assert user != owner
    assert user.username == "Ana-2"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"email": "bo@example.org"}, "bo@example.org"),
        ({}, "7"),
        ({"preferred_username": "b\0o\n"}, "bo"),
        ({"preferred_username": "b" * 500, "given_name": "c" * 500, "email": "d" * 500}, "b" * 140),
    ],
)
def test_what_people_are_called(given, name):
    user = people.user_of("https://login", {"sub": "7", **given})
    assert user.username == name
    assert people.user_of("https://login", {"sub": "7"}) == user
    assert people.user_of("https://another", {"sub": "7"}) != user
    assert OpenIdAccount.objects.count() == 2
    assert not Membership.objects.exists()


@pytest.mark.django_db
def test_a_person_joins_the_default_project_at_the_first_login(settings):
    settings.OIDC_DEFAULT_PROJECT, settings.OIDC_DEFAULT_ROLE = "studio", "recorder"
    project = Project.objects.create(name="studio")
    user = people.user_of("https://login", {"sub": "7"})
    assert Membership.objects.get() == Membership.objects.get(user=user, project=project, role="recorder")
    Membership.objects.all().delete()
    people.user_of("https://login", {"sub": "7"})
    assert not Membership.objects.exists(), "somebody removed the person from the project"


@pytest.mark.django_db
def test_a_default_project_that_is_missing_keeps_nobody_out(settings):
    settings.OIDC_DEFAULT_PROJECT = "missing"
    assert people.user_of("https://login", {"sub": "7"}).pk
