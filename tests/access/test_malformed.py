"""Requests that contain what is no text: each is answered with a clear error, on both databases."""

import pytest
from django.contrib.auth.models import User
from django.http.cookie import SimpleCookie
from django.test import Client

from audio.models import Project, Role
from tests.access.people import person, with_key

pytestmark = [pytest.mark.database, pytest.mark.django_db]

SESSIONS = "/api/audio/sessions"
# Encodings of Python that fail for some texts, or decode to what no database stores.
CHARSETS = ["idna", "punycode", "unicode_escape", "utf-7", "utf-8-sig"]


@pytest.fixture(autouse=True)
def asks(settings):
    settings.REQUIRE_AUTH = True


@pytest.fixture
def program():
    caller = with_key("read", "record", "manage", project=Project.objects.create(name="clinic"))
    caller.client.raise_request_exception = False
    return caller


@pytest.fixture
def manager():
    caller = person("ana", Role.MANAGER, Project.objects.create(name="ward"))
    caller.client.raise_request_exception = False
    return caller


@pytest.mark.parametrize("character", ["%00", "%01", "%0d%0a", "%7f"])
@pytest.mark.parametrize(
    "path",
    [
        *(f"{SESSIONS}?name=a", f"{SESSIONS}?metadata.a", f"{SESSIONS}?cursor="),
        *("/api/keys?project=a", "/api/webhooks?project=a", "/api/schema?version=a", "/api/events?last_event_id="),
    ],
)
def test_a_query_has_no_control_characters(program, path, character):
    answer = program.call("GET", path + character)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
    assert answer.json()["parameter"].startswith(path.partition("?")[2].partition("=")[0])
    assert "control characters" in answer.json()["detail"]


@pytest.mark.parametrize("condition", ["name", "status__exact", "project", "q", "digest__startswith", "action"])
@pytest.mark.parametrize("model", ["apikey", "audiosession", "auditentry", "project"])
def test_conditions_of_the_admin_have_no_control_characters(manager, model, condition):
    answer = manager.client.get(f"/admin/audio/{model}/?{condition}=a%00")
    assert answer.status_code == 400
    assert b"Traceback" not in answer.content


def test_a_tab_in_a_search_is_no_reason_to_reject_it(program):
    assert program.call("GET", f"{SESSIONS}?user_id=a%09").status_code == 200


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"name=a%c3%a4%5cud800"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\r\n--x--\r\n',
        ),
        ("application/json", b'{"name": "a"}'),
    ],
)
def test_text_is_in_a_charset_of_the_web(program, charset, media_type, body):
    sent = program.client.generic("POST", SESSIONS, body, f"{media_type}; charset={charset}", headers=program.headers)
    assert (sent.status_code, sent.json()["code"]) == (400, "bad_request")
    assert "UTF-8" in sent.json()["detail"]
    login = program.client.generic("POST", "/login", body, f"{media_type}; charset={charset}")
    assert login.status_code == 400


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "us-ascii", "ISO-8859-1", "windows-1252", "nonsense"])
def test_other_charsets_are_accepted_as_before(program, charset):
    media_type = f"application/json; charset={charset}"
    sent = program.client.generic("POST", SESSIONS, b'{"name": "a"}', media_type, headers=program.headers)
    assert (sent.status_code, sent.json()["name"]) == (201, "a")


@pytest.mark.parametrize("key", ["\0" * 12, "a\0" * 6, "\x7faaaaaaaaaaa", "é" * 12, "A" * 32, "a" * 5000, "../../etc"])
def test_a_cookie_that_is_no_login_is_that_of_a_stranger(key):
    client = Client(raise_request_exception=False)
    client.cookies = SimpleCookie({"sessionid": key})
    assert client.get(SESSIONS).json()["code"] == "not_authenticated"
    for path in ("/", "/record", "/admin/"):
        answer = client.get(path)
        assert answer.status_code == 302
        assert "/login" in answer.headers["Location"]


def test_a_login_still_works():
    User.objects.create_user("ben", password="a long pass phrase", is_staff=True)
    client = Client()
    assert client.post("/login", {"username": "ben", "password": "a long pass phrase"}).status_code == 302
    assert client.get(SESSIONS).status_code == 200
