"""The landing page."""

import pytest
from django.db import OperationalError

from audio import health
from audio.models import AudioSession
from tests.api.rows import make_session, make_sessions

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def test_an_empty_server_says_where_to_send_audio(client):
    answer = client.get("/")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "ws://testserver/api/ws/audio" in page
    assert "Running" in page
    assert "default-src 'self'" in answer["Content-Security-Policy"]
    assert "unsafe" not in answer["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/api/asyncapi", "/metrics", "/admin/", "/health/ready"]
)
def test_it_leads_everywhere(client, path):
    assert f'href="{path}"' in client.get("/").content.decode()


def test_the_newest_ten_sessions(client, django_assert_num_queries):
    sessions = make_sessions(12)
    with django_assert_num_queries(3):
        page = client.get("/").content.decode()
    assert all(str(session.pk) in page for session in sessions[:10])
    assert not any(str(session.pk) in page for session in sessions[10:])
    assert f'href="/api/audio/sessions/{sessions[0].pk}"' in page
    assert f'href="/admin/audio/audiosession/{sessions[0].pk}/change/"' in page


def test_it_says_how_the_server_is(client):
    page = client.get("/").content.decode()
    assert [f"<strong>{name}</strong> <span>ok</span>" in page for name in health.CHECKS] == 4 * [True]


def test_what_is_down_is_said_and_the_rest_is_shown(client, settings):
    settings.FFMPEG_BINARY = "/nowhere/ffmpeg"
    session = make_session()
    answer = client.get("/")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "Problems" in page
    assert "FFmpeg was not found" in page
    assert str(session.pk) in page


def test_a_ready_recording_can_be_downloaded_and_another_can_not(client):
    ready = make_session({"state": "ready", "size_bytes": 5_242_880}, status="completed")
    live = make_session({"state": "live"})
    page = client.get("/").content.decode()
    assert f'href="/api/audio/sessions/{ready.pk}/audio"' in page
    assert "5.0\N{NO-BREAK SPACE}MB" in page
    assert f"{live.pk}/audio" not in page


def test_a_label_is_shown_and_not_run(client):
    make_session(user_id="<script>alert(1)</script>")
    page = client.get("/").content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>" not in page


def test_a_database_that_is_away_is_said_on_the_page(client, monkeypatch):
    def away(*args):
        raise OperationalError("away")

    monkeypatch.setattr(AudioSession.objects, "select_related", away)
    answer = client.get("/")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.content.decode()


def test_an_address_without_a_page(client):
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert "This server has no page at this address." in answer.content.decode()
