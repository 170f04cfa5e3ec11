"""Lists over many rows: what is read for a page depends on the page alone."""

import uuid
from datetime import timedelta

import pytest
from django.contrib import admin
from django.db import connection
from django.utils import timezone

from audio.admin import lists
from audio.models import AudioChunk, AudioSession, AudioSource, BackgroundTask, JournalFile, Recording
from audio.upkeep import removal
from audio.upkeep.sweeps import Sweep
from tests.plans import captured, check

pytestmark = [pytest.mark.database, pytest.mark.django_db]

ROWS = 1500
# The oldest ones: to find them by walking along a list, all others would be passed over.
RARE = 3
LIST_LIMIT = 50
# A page, what is joined to it, and the rows of nodes above those that read.
READ_LIMIT = 500
assert READ_LIMIT < ROWS // 2


@pytest.fixture(autouse=True)
def many(monkeypatch):
    monkeypatch.setattr("audio.admin.sessions.SEARCH_LIMIT", 100)
    """Many sessions with a row of each kind; the id of one of the rare ones is returned."""
    monkeypatch.setattr(lists, "COUNT_LIMIT", LIST_LIMIT)
    monkeypatch.setattr(lists.ReadOnlyAdmin, "list_per_page", 10)
    now = timezone.now()
    sessions = [
        AudioSession(
            sample_rate=16000, channels=1, start_time=now - timedelta(seconds=number), total_chunks=1,
            status="completed" if number < ROWS - RARE else "paused",
            format="wav" if number < ROWS - RARE else "flac",
            user_id="Bo" if number < ROWS - RARE else "Ana",
        )
        for number in range(ROWS)
    ]  # fmt: skip
    rare = {session.pk for session in sessions[-RARE:]}
    AudioSession.objects.bulk_create(sessions)
    Recording.objects.bulk_create(
        Recording(session=each, state="failed" if each.pk in rare else "ready") for each in sessions
    )
    BackgroundTask.objects.bulk_create(
        BackgroundTask(
            session=each, created_at=each.start_time,
            kind="transcode" if each.pk in rare else "waveform", state="failed" if each.pk in rare else "completed",
        )
        for each in sessions
    )  # fmt: skip
    sources = AudioSource.objects.bulk_create(AudioSource(session=each) for each in sessions)
    journal = JournalFile.objects.create(name="journal", process_id=uuid.uuid4())
    AudioChunk.objects.bulk_create(
        AudioChunk(
            session=source.session, sequence=1, source=source, journal=journal, offset=number, size_bytes=1, crc32=0,
            received_at=now,
        )
        for number, source in enumerate(sources)
    )  # fmt: skip
    if connection.vendor == "postgresql":
        # Its planner goes by statistics; SQLite has none unless it is asked for them, which nobody does.
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
            # As for an SSD. With the default a table of so few rows is nearly as cheap as some searches of its index.
            cursor.execute("SET LOCAL random_page_cost = 1.1")
    return sessions[-1]


def asked(client, path, is_filtered):
    """Fetches a page, checks its queries, and returns it."""
    with captured() as queries:
        answer = client.get(path)
    assert answer.status_code == 200, answer.content
    assert check(queries, READ_LIMIT, is_filtered)
    return answer


def test_the_lists_of_the_admin(admin_client, many):
    day = many.start_time.date().isoformat()
    conditions = {
        "audiosession": [
            f"start_time__gte={day}+00:00:00%2B00:00",
            f"q={many.pk}",
            "p=2",
        ],
        "recording": [f"q={many.pk}"],
        "backgroundtask": [f"q={many.pk}"],
        "audiosource": [f"q={many.pk}"],
        "audiochunk": [f"q={many.pk}"],
    }
    for model in (AudioSession, Recording, BackgroundTask, AudioSource, AudioChunk):
        path = f"/admin/audio/{model._meta.model_name}/"
        asked(admin_client, path, is_filtered=False)
        for query in conditions[model._meta.model_name]:
            page = asked(admin_client, f"{path}?{query}", is_filtered=query != "p=2")
            assert page.context["cl"].result_list, query
        for query in choices(model):
            asked(admin_client, f"{path}?{query}", is_filtered=True)


@pytest.mark.parametrize("query", ["q=Ana", "q={beginning}", "recording=failed"])
def test_sessions_that_are_looked_for_first_are_so_many_and_no_more(admin_client, many, query):
    """They are found along an index, as many as are shown or paged through, and these are sorted."""
    with captured() as queries:
        page = admin_client.get(f"/admin/audio/audiosession/?{query.format(beginning=str(many.pk)[:13])}")
    assert page.context["cl"].result_list
    if connection.vendor == "postgresql":
        assert check(queries, READ_LIMIT, is_filtered=True)


def choices(model):
    """Each value of each filter: those that many rows have, those that few have, those that none has."""
    filters = [each for each in admin.site._registry[model].list_filter if not isinstance(each, type)]
    names = [str(each[0]) if isinstance(each, tuple | list) else str(each) for each in filters]
    fields = [model._meta.get_field(name) for name in names]
    return [f"{field.name}__exact={value}" for field in fields for value, _ in field.choices or ()]


def test_the_sweep_finds_what_is_to_be_deleted(many):
    with captured() as queries:
        removal.enqueue_deletions(Sweep())
    assert check(queries, READ_LIMIT, is_filtered=True)


def test_the_lists_of_rest_and_the_pages(client, admin_client, many):
    asked(admin_client, f"/admin/audio/audiosession/{many.pk}/change/", is_filtered=True)
    asked(client, "/", is_filtered=False)
    sessions = "/api/audio/sessions"
    first = asked(client, f"{sessions}?page_size=20", is_filtered=False).json()
    asked(client, first["next"], is_filtered=True)
    moment = many.start_time.isoformat().replace("+", "%2B")
    for query in ("status=paused", "format=flac", "user_id=Ana", f"started_after={moment}", f"started_before={moment}"):
        asked(client, f"{sessions}?page_size=20&{query}", is_filtered=True)
    asked(client, f"{sessions}/{many.pk}/chunks?page_size=20", is_filtered=True)
    asked(client, "/api/tasks?page_size=20", is_filtered=False)
    asked(client, f"/api/tasks?page_size=20&session_id={many.pk}", is_filtered=True)
