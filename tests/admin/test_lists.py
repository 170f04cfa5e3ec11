"""What operators see: everything, quickly, and nothing that they could change by accident."""

from datetime import UTC, datetime

import pytest
from django.contrib.auth import get_user_model
from django_celery_results.models import TaskResult

from audio.models import AudioChunk, AudioSession, AudioSource, BackgroundTask, Recording
from tests.api.rows import make_chunks, make_session

pytestmark = [pytest.mark.database, pytest.mark.django_db]

MODELS = {model._meta.model_name: model for model in (AudioSession, Recording, AudioSource, AudioChunk, BackgroundTask)}
LISTS = list(MODELS)


@pytest.fixture
def session():
    session = make_session(user_id="Ana")
    make_chunks(session, 3)
    make_chunks(session, 2, source="left")
    other = make_session(user_id="Bo")
    make_chunks(other, 1)
    for each in (session, other):
        BackgroundTask.objects.create(session=each, kind="waveform")
    return session


def listed(client, name, **query):
    answer = client.get(f"/admin/audio/{name}/", query)
    assert answer.status_code == 200
    return answer.context["cl"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("audiosession", 2), ("recording", 2), ("audiosource", 3), ("audiochunk", 6), ("backgroundtask", 2)],
)
def test_each_list_shows_what_is_stored(admin_client, session, name, count):
    assert len(listed(admin_client, name).result_list) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [("audiosession", 1), ("recording", 1), ("audiosource", 2), ("audiochunk", 5), ("backgroundtask", 1)],
)
def test_each_list_is_searched_by_session(admin_client, session, name, count):
    assert len(listed(admin_client, name, q=str(session.pk)).result_list) == count
    assert len(listed(admin_client, name, q="none").result_list) == 0


def test_sessions_are_searched_by_user_too(admin_client, session):
    for part in (" Ana ", "An", "na", "ANA"):
        assert list(listed(admin_client, "audiosession", q=part).result_list) == [session]


@pytest.mark.parametrize("name", LISTS)
def test_each_list_is_searched_by_the_beginning_of_an_id(admin_client, session, name):
    whole = len(listed(admin_client, name, q=str(session.pk)).result_list)
    for beginning in (str(session.pk)[:8], str(session.pk)[:13], session.pk.hex[:20].upper()):
        assert len(listed(admin_client, name, q=beginning).result_list) == whole


@pytest.mark.parametrize("state", ["failed", "ready"])
def test_sessions_are_filtered_by_the_state_of_their_recording(admin_client, state):
    sessions = {each: make_session({"state": each}) for each in ("failed", "ready", "live")}
    assert list(listed(admin_client, "audiosession", recording=state).result_list) == [sessions[state]]


def test_a_status_that_no_session_takes_is_not_offered(admin_client):
    page = admin_client.get("/admin/audio/audiosession/").content.decode()
    assert "status__exact=completed" in page
    assert "status__exact=error" not in page


def test_the_chunks_of_a_session_are_in_their_order(admin_client, session):
    chunks = listed(admin_client, "audiochunk", q=str(session.pk)).result_list
    assert [chunk.sequence for chunk in chunks] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_costs_as_many_queries_with_many_rows(admin_client, session, django_assert_max_num_queries, name):
    for _ in range(10):
        make_chunks(make_session(), 3, source="right")
    with django_assert_max_num_queries(6) as queries:
        listed(admin_client, name)
    counts = [query["sql"] for query in queries.captured_queries if "COUNT(" in query["sql"]]
    assert counts
    assert all("LIMIT 10000" in sql for sql in counts)


def test_sessions_and_recordings_are_filtered_by_their_state(admin_client, session):
    make_session({"state": "failed"}, status="completed")
    assert len(listed(admin_client, "audiosession", status__exact="completed").result_list) == 1
    assert len(listed(admin_client, "recording", state__exact="failed").result_list) == 1


@pytest.mark.parametrize("query", ["user_id__icontains=a", "session__user_id=Ana", "status__regex=.", "byte_count=1"])
def test_a_list_takes_no_other_condition_from_the_address(admin_client, session, query, caplog):
    assert admin_client.get(f"/admin/audio/audiosession/?{query}").status_code == 400


def test_a_filter_counts_nothing(admin_client, session, django_assert_max_num_queries):
    with django_assert_max_num_queries(6):
        listed(admin_client, "audiosession", _facets="True")


@pytest.mark.parametrize("name", LISTS)
def test_nothing_can_be_changed_by_hand(admin_client, session, name):
    key = MODELS[name]._default_manager.values_list("pk", flat=True)[0]
    path = f"/admin/audio/{name}/{key}"
    page = admin_client.get(f"{path}/change/").content.decode()
    if name != "audiosession":  # the markers on the page of a session can be changed: see test_markers.py
        assert 'name="_save"' not in page
        assert admin_client.post(f"{path}/change/", {"status": "error"}).status_code == 403
        assert "Delete" not in page
        assert admin_client.post(f"{path}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"/admin/audio/{name}/add/").status_code == 403
    assert key in MODELS[name]._default_manager.values_list("pk", flat=True)


def test_only_operators_see_it(client, session):
    client.force_login(get_user_model().objects.create_user("guest"))
    answer = client.get("/admin/audio/audiosession/")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/")


def test_the_path_without_a_slash_leads_there(client):
    answer = client.get("/admin")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/")


def test_results_of_celery_are_listed_without_filters(admin_client, django_assert_max_num_queries):
    TaskResult.objects.create(task_id="7", task_name="sercuescribe.concatenate")
    with django_assert_max_num_queries(6):
        page = admin_client.get("/admin/django_celery_results/taskresult/")
    assert len(page.context["cl"].result_list) == 1
    assert not page.context["cl"].has_filters


def test_times_have_seconds_and_their_time_zone(admin_client):
    session = make_session(start_time=datetime(2026, 1, 31, 14, 30, 5, tzinfo=UTC))
    assert "2026-01-31 14:30:05 UTC" in admin_client.get("/admin/audio/audiosession/").content.decode()
    assert (
        "2026-01-31 14:30:05 UTC"
        in admin_client.get(f"/admin/audio/audiosession/{session.pk}/change/").content.decode()
    )
