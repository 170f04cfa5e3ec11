"""Sessions over HTTP, as a client sees them. A database holds the rows; the recordings are in test_audio.py."""

import json
import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from django.core import signing
from django.test import Client
from django.utils import timezone

from audio.models import AudioChunk, AudioSession, Recording, SessionStatus
from audio.wire.parameters import SAMPLE_RATES_HZ
from tests.api.rows import connect, make_chunks, make_session, make_sessions

pytestmark = [pytest.mark.database, pytest.mark.django_db]

SESSIONS = "/api/audio/sessions"
WARNING = {
    "code": "undecodable_chunk",
    "detail": "A WAV file with format tag 17 can't be recorded.",
    "first_sequence": 2,
    "last_sequence": 3,
    "start_seconds": 0.5,
    "end_seconds": 0.5,
}
KEYS = [
    *("session_id", "user_id", "start_time", "status", "file_path", "total_chunks", "duration_seconds"),
    *("sample_rate", "channels", "format", "end_time", "byte_count", "connections", "recording", "recovered"),
]
DETAILS = ["project", "name", "metadata", "retention_days", "legal_hold"]


def create(client, **fields):
    return client.post(SESSIONS, json.dumps(fields), content_type="application/json")


# Create


def test_a_new_session_has_the_defaults_and_an_address_for_its_audio(client, settings):
    answer = create(client)
    assert answer.status_code == 201
    shown = answer.json()
    assert list(shown) == [*KEYS, "websocket_url", *DETAILS]
    session = AudioSession.objects.get(pk=shown["session_id"])
    assert session.parameters.as_dict() == {
        "sample_rate": settings.DEFAULT_SAMPLE_RATE,
        "channels": settings.DEFAULT_CHANNELS,
        "format": settings.DEFAULT_FORMAT,
        "encoding": "s16le",
        "chunks": "auto",
    }
    assert session.undecided == ["format", "sample_rate", "channels"]
    assert shown["status"] == "active"
    assert shown["recording"]["state"] == "empty"
    assert shown["recording"]["url"] is None
    assert answer["Location"] == f"http://testserver{SESSIONS}/{session.pk}"
    assert client.get(answer["Location"]).json()["session_id"] == str(session.pk)


def test_the_address_has_a_ticket_for_this_session(client):
    shown = create(client).json()
    url = urlsplit(shown["websocket_url"])
    assert (url.scheme, url.netloc, url.path) == ("ws", "testserver", f"/api/ws/audio/{shown['session_id']}")
    owner, _ = signing.loads(parse_qs(url.query)["ticket"][0], salt="audio.ingest.tickets")
    assert UUID(owner) == UUID(shown["session_id"])


def test_over_tls_the_address_is_wss(client):
    answer = client.post(SESSIONS, "{}", content_type="application/json", secure=True)
    assert answer.json()["websocket_url"].startswith("wss://testserver/")


def test_what_was_asked_for_is_what_there_is(client):
    asked = {"sample_rate": 48000, "channels": 2, "format": "flac", "chunks": "files", "user_id": "Zoë / 7"}
    shown = create(client, **asked).json()
    session = AudioSession.objects.get(pk=shown["session_id"])
    assert (session.sample_rate, session.channels, session.format) == (48000, 2, "flac")
    assert (session.chunk_mode, session.user_id) == ("files", "Zoë / 7")
    assert {key: shown[key] for key in ("sample_rate", "channels", "format", "user_id")} == {
        key: asked[key] for key in ("sample_rate", "channels", "format", "user_id")
    }


@pytest.mark.parametrize(
    ("name", "value", "valid_values"),
    [
        ("sample_rate", 11026, list(SAMPLE_RATES_HZ)),
        ("sample_rate", "fast", list(SAMPLE_RATES_HZ)),
        ("sample_rate", None, None),
        ("channels", 3, [1, 2]),
        ("channels", True, [1, 2]),
        ("channels", [1], [1, 2]),
        ("format", "exe", ["wav", "mp3", "flac", "aac", "webm", "ogg", "mp4"]),
        ("encoding", "u8", ["s16le", "s24le", "s32le", "f32le", "mulaw", "alaw"]),
        ("chunks", "some", ["auto", "stream", "files"]),
        ("user_id", "", None),
        ("user_id", "a\0b", None),
        ("user_id", "a" * 256, None),
        ("user_id", {"a": 1}, None),
        (
            "colour",
            "red",
            [
                *("sample_rate", "channels", "format", "encoding", "chunks", "user_id"),
                *("name", "metadata", "retention_days", "legal_hold", "project"),
            ],
        ),
    ],
)
def test_a_wrong_value_is_rejected_with_the_valid_ones(client, name, value, valid_values):
    answer = create(client, **{name: value})
    assert answer.status_code == 400
    error = answer.json()
    assert (error["code"], error["parameter"]) == ("invalid_parameter", name)
    assert name in error["detail"]
    assert error.get("valid_values") == valid_values
    assert not AudioSession.objects.exists()


def test_half_of_a_surrogate_pair_is_rejected(client):
    answer = client.post(SESSIONS, r'{"user_id": "\ud800"}', content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "parse_error")


@pytest.mark.parametrize("body", ["[]", '"wav"', "7"])
def test_json_that_is_no_object_is_rejected(client, body):
    answer = client.post(SESSIONS, body, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


def test_what_is_not_json_is_rejected(client):
    answer = client.post(SESSIONS, "{", content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "parse_error")


def test_a_body_beyond_reason_is_rejected(client):
    answer = create(client, user_id="a" * 70_000)
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (413, "message_too_large", 65536)


def test_a_body_of_another_kind_is_rejected(client):
    answer = client.post(SESSIONS, "<a/>", content_type="text/xml")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_full_server_says_so_and_when_to_come_back(client, settings):
    settings.MAX_CONCURRENT_SESSIONS = 1
    make_session()
    answer = create(client)
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (503, "too_many_sessions", 1)
    assert int(answer["Retry-After"]) > 0


def test_a_client_without_cookies_may_post():
    assert create(Client(enforce_csrf_checks=True)).status_code == 201


def test_another_site_can_not_post_as_a_signed_in_operator(admin_user):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    answer = create(client)
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


# Show


def test_a_session_shows_the_keys_of_the_contract_in_their_order(client):
    session = make_session(user_id="Ana")
    make_chunks(session, 3)
    connect(session)
    connect(session)
    connect(make_session())
    shown = client.get(f"{SESSIONS}/{session.pk}").json()
    assert list(shown) == [*KEYS, *DETAILS]
    assert list(shown["recording"])[:5] == ["state", "url", "format", "size_bytes", "duration_seconds"]
    assert (shown["session_id"], shown["user_id"], shown["status"]) == (str(session.pk), "Ana", "active")
    assert (shown["total_chunks"], shown["byte_count"], shown["connections"]) == (3, 9600, 2)
    assert (shown["file_path"], shown["end_time"]) == (None, None)


def test_a_ready_recording_is_described(client):
    recording = {
        "state": "ready",
        "file_name": "sessions/ab/recording.wav",
        "format": "wav",
        "size_bytes": 32080,
        "duration_seconds": 1.0,
        "sha256": "ab" * 32,
        "progress": 1.0,
        "sample_rate": 24000,
        "channels": 4,
        "warnings": [WARNING],
    }
    session = make_session(recording, status=SessionStatus.COMPLETED, end_time=timezone.now())
    shown = client.get(f"{SESSIONS}/{session.pk}").json()
    assert shown["file_path"] == "sessions/ab/recording.wav"
    assert shown["duration_seconds"] == 1.0
    assert shown["recording"] == {
        "state": "ready",
        "url": f"http://testserver{SESSIONS}/{session.pk}/audio",
        "format": "wav",
        "size_bytes": 32080,
        "duration_seconds": 1.0,
        "sha256": "ab" * 32,
        "progress": 1.0,
        "error": None,
        "sample_rate": 24000,
        "channels": 4,
        "warnings": [WARNING],
        "partial_url": None,
    }


def test_a_failed_recording_says_why(client):
    recording = {
        "state": "failed",
        "error_code": "undecodable_chunk",
        "error_detail": "A chunk could not be decoded.",
        "failed_sequence": 7,
    }
    shown = client.get(f"{SESSIONS}/{make_session(recording).pk}").json()["recording"]
    assert shown["url"] is None
    assert (shown["sample_rate"], shown["channels"], shown["warnings"]) == (None, None, [])
    assert shown["error"] == {"detail": "A chunk could not be decoded.", "code": "undecodable_chunk", "sequence": 7}


def test_a_session_whose_recording_has_no_row_yet_is_shown(client):
    session = make_session()
    Recording.objects.all().delete()
    assert client.get(f"{SESSIONS}/{session.pk}").json()["recording"]["state"] == "empty"


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_unknown_session(client, method):
    answer = getattr(client, method)(f"{SESSIONS}/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


@pytest.mark.parametrize("path", ["", "/close", "/chunks", "/audio"])
def test_an_id_that_is_no_uuid(client, path):
    answer = client.post(f"{SESSIONS}/1234{path}") if path == "/close" else client.get(f"{SESSIONS}/1234{path}")
    assert (answer.status_code, answer.json()["code"], answer.json()["received"]) == (
        400,
        "invalid_session_id",
        "1234",
    )


# List


def test_the_list_is_newest_first_and_paged_both_ways(client):
    newest_first = [str(session.pk) for session in make_sessions(5)]
    page = client.get(SESSIONS, {"page_size": 2}).json()
    seen = [session["session_id"] for session in page["results"]]
    while page["next"]:
        page = client.get(page["next"]).json()
        seen += [session["session_id"] for session in page["results"]]
    assert seen == newest_first
    back = client.get(page["previous"]).json()
    assert [session["session_id"] for session in back["results"]] == newest_first[2:4]


def test_sessions_of_one_moment_are_each_listed_once(client):
    now = timezone.now()
    expected = {str(make_session(start_time=now).pk) for _ in range(7)}
    page = {"next": f"{SESSIONS}?page_size=2"}
    seen = []
    while page["next"]:
        page = client.get(page["next"]).json()
        seen += [session["session_id"] for session in page["results"]]
    assert len(seen) == 7
    assert set(seen) == expected


def test_a_list_costs_one_query_however_long_and_counts_nothing_else(client, django_assert_num_queries):
    for session in make_sessions(20):
        connect(session)
    with django_assert_num_queries(1) as queries:
        results = client.get(SESSIONS).json()["results"]
    assert [session["connections"] for session in results] == [1] * 20
    assert "audio_audiochunk" not in queries.captured_queries[0]["sql"]
    assert "LIMIT 51" in queries.captured_queries[0]["sql"]


def test_the_list_is_filtered(client):
    now = timezone.now()
    old = make_session(user_id="Ana", format="mp3", start_time=now - timedelta(days=2), status="completed")
    new = make_session(user_id="Ana", start_time=now)
    other = make_session(user_id="Bo", start_time=now - timedelta(hours=1), status="paused")

    def listed(**filters):
        answer = client.get(SESSIONS, filters)
        assert answer.status_code == 200, answer.json()
        return [session["session_id"] for session in answer.json()["results"]]

    def ids(*sessions):
        return [str(session.pk) for session in sessions]

    assert listed() == ids(new, other, old)
    assert listed(user_id="Ana") == ids(new, old)
    assert listed(user_id="An") == []
    assert listed(format="mp3") == ids(old)
    assert listed(status="paused") == ids(other)
    assert listed(started_after=other.start_time.isoformat()) == ids(new, other)
    assert listed(started_before=other.start_time.isoformat()) == ids(old)
    assert listed(started_after=(now - timedelta(days=1)).isoformat(), user_id="Bo") == ids(other)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"status": "asleep"}, "status"),
        ({"format": "exe"}, "format"),
        ({"user_id": "a\0b"}, "user_id"),
        ({"started_after": "yesterday"}, "started_after"),
        ({"started_before": "0001-01-01T00:00:00+14:00"}, "started_before"),
        ({"page_size": "0"}, "page_size"),
        ({"page_size": "501"}, "page_size"),
        ({"page_size": "ten"}, "page_size"),
        ({"cursor": "zzz"}, "cursor"),
        ({"cursor": "cD1hYmM="}, "cursor"),
        ({"cursor": "cD0wMDAxLTAxLTAxIDAwOjAwOjAwJTJCMTQ6MDA="}, "cursor"),
        ({"state": "ready"}, "state"),
    ],
)
def test_a_query_that_makes_no_sense_is_rejected(client, query, parameter):
    answer = client.get(SESSIONS, query)
    assert answer.status_code == 400
    assert (answer.json()["code"], answer.json()["parameter"]) == ("invalid_parameter", parameter)


def test_a_wrong_filter_names_the_valid_values(client):
    answer = client.get(SESSIONS, {"status": "asleep"}).json()
    assert answer["valid_values"] == ["active", "paused", "completed"]
    assert answer["received"] == "asleep"


# Chunks


def test_chunks_are_paged_in_their_order(client):
    session = make_session()
    make_chunks(session, 3)
    make_chunks(session, 2, source="left", size_bytes=100)
    make_chunks(make_session(), 4)
    page = {"next": f"{SESSIONS}/{session.pk}/chunks?page_size=2"}
    chunks = []
    while page["next"]:
        page = client.get(page["next"]).json()
        chunks += page["results"]
    assert [list(chunk) for chunk in chunks] == [["sequence", "size_bytes", "received_at", "source", "is_released"]] * 5
    assert [chunk["sequence"] for chunk in chunks] == [1, 2, 3, 4, 5]
    assert [chunk["size_bytes"] for chunk in chunks] == [3200, 3200, 3200, 100, 100]
    assert [chunk["source"] for chunk in chunks] == [None, None, None, "left", "left"]


def test_a_page_of_chunks_costs_no_query_per_chunk(client, django_assert_num_queries):
    session = make_session()
    make_chunks(session, 50)
    with django_assert_num_queries(2):
        assert len(client.get(f"{SESSIONS}/{session.pk}/chunks").json()["results"]) == 50


@pytest.mark.parametrize("cursor", ["cD1hYmM=", "cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ=="])
def test_a_foreign_cursor_is_rejected(client, cursor):
    answer = client.get(f"{SESSIONS}/{make_session().pk}/chunks", {"cursor": cursor})
    assert (answer.status_code, answer.json()["parameter"]) == (400, "cursor")


def test_the_chunks_of_an_unknown_session(client):
    answer = client.get(f"{SESSIONS}/{uuid4()}/chunks")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


# Close and delete


def test_closing_succeeds_again_and_again(client):
    session = make_session()
    first = client.post(f"{SESSIONS}/{session.pk}/close")
    assert first.status_code == 200
    assert list(first.json()) == ["success", "session_id", "final_info"]
    assert first.json()["success"] is True
    assert first.json()["session_id"] == str(session.pk)
    assert list(first.json()["final_info"]) == [*KEYS, *DETAILS]
    assert first.json()["final_info"]["status"] == "completed"
    again = client.post(f"{SESSIONS}/{session.pk}/close")
    assert again.status_code == 200
    assert again.json()["final_info"]["end_time"] == first.json()["final_info"]["end_time"]


def test_closing_an_unknown_session(client):
    answer = client.post(f"{SESSIONS}/{uuid4()}/close")
    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")


def test_deleting_leaves_nothing(client):
    session = make_session(status="completed")
    answer = client.delete(f"{SESSIONS}/{session.pk}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not AudioSession.objects.exists()
    assert not AudioChunk.objects.exists()
    assert client.get(f"{SESSIONS}/{session.pk}").status_code == 404


# Paths


@pytest.mark.parametrize("path", ["", "/{id}", "/{id}/chunks"])
def test_paths_work_with_and_without_a_trailing_slash(client, path):
    path = SESSIONS + path.format(id=make_session().pk)
    with_slash, without = client.get(f"{path}/"), client.get(path)
    assert with_slash.status_code == without.status_code == 200
    assert with_slash.json() == without.json()


def test_an_unknown_path_is_rejected_in_json(client):
    answer = client.get("/api/audio/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_method_that_a_path_does_not_know(client):
    answer = client.put(SESSIONS, "{}", content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in answer["Allow"]


# Pages


def test_a_browser_gets_pages_with_a_form_and_nothing_from_elsewhere(client):
    make_session(user_id="<b>Ana</b>")
    answer = client.get(SESSIONS, headers={"accept": "text/html"})
    page = answer.content.decode()
    assert answer["Content-Type"].startswith("text/html")
    assert re.search(r'<select [^>]*name="sample_rate"', page)
    assert re.search(r'<option value="44100"\s+selected', page)
    assert "<b>Ana</b>" not in page
    assert "default-src 'self'" in answer["Content-Security-Policy"]


def test_the_form_of_the_pages_creates_a_session(client):
    form = {"sample_rate": "8000", "channels": "2", "format": "wav", "encoding": "alaw", "chunks": "auto"}
    answer = client.post(SESSIONS, {**form, "user_id": ""}, headers={"accept": "text/html"})
    assert answer.status_code == 201
    session = AudioSession.objects.get()
    assert (session.sample_rate, session.encoding, session.user_id) == (8000, "alaw", None)
