"""Costs that must not grow with the sessions: lists, the life of a session, sweeps, events and pages for people.

The database itself counts what it does, with few sessions and with many. A path that reads a row of each session costs
several instructions of SQLite, or a row of PostgreSQL, for each session more.
"""

import base64
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.conf import settings as product
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.utils import timezone

from audio import access, gauges, ingest, narrowing, streams, upkeep
from audio.admin import lists
from audio.ingest import openings
from audio.ingest.clock import ClockSet
from audio.models import (
    AudioSession,
    DeletedSession,
    IngestProcess,
    Membership,
    Project,
    WebhookEvent,
)
from audio.upkeep import audits, erasures, journals, leftovers, removal, sessions, work
from audio.upkeep.sweeps import Sweep
from audio.webhooks import delivery, outbox
from audio.wire.parameters import ConnectionRequest
from tests import history, plans

pytestmark = [pytest.mark.database, pytest.mark.django_db]

SMALL, LARGE = 1_000, 8_000
# Less than any reading of all rows costs.
ALLOWED_FOR_EACH = {"sqlite": 2.0, "postgresql": 0.25}
FEW = 60
SESSIONS = "/api/audio/sessions"
OLD = uuid.UUID(history.session_id(107))
FILTERS = [
    *("", "status=active", "status=completed", "status=paused", "user_id=rare", "user_id=user-1", "user_id=nobody"),
    *("format=flac", "format=wav", "format=mp3", "project=tiny", "project=default", "project=none"),
    *("name=Rare", "name=Meeting", "name=Meeting+107", "name=x", "metadata.room=rare", "metadata.room=0"),
    *("metadata.room=x", "metadata.room=0&metadata.x=y", "user_id=rare&format=flac", "project=tiny&format=wav"),
    *(
        "project=tiny&name=Meeting",
        "project=tiny&metadata.room=0",
        "status=active&format=wav",
        "name=Meeting&format=wav",
    ),
    *(
        "name=Meeting&format=wav",
        "metadata.room=0&status=completed",
        "name=Meeting&metadata.room=0",
        "user_id=user-1&name=Meeting",
    ),
]
LISTS = [f"{SESSIONS}?page_size=10&{conditions}" for conditions in FILTERS]
TASKS = "/api/tasks?page_size=10"
ADMIN = "/admin/audio"
# The last page, backwards: its rows are after no position.
LAST_PAGE = base64.b64encode(b"r=1").decode()


@pytest.fixture(autouse=True)
def limits(monkeypatch, settings, tmp_path):
    """Limits that these few sessions exceed."""
    monkeypatch.setattr(narrowing, "FEW", FEW)
    monkeypatch.setattr(lists, "COUNT_LIMIT", FEW)
    monkeypatch.setattr("audio.admin.sessions.COUNT_LIMIT", FEW)
    monkeypatch.setattr("audio.admin.sessions.SEARCH_LIMIT", FEW)
    monkeypatch.setattr("audio.admin.sessions.MATCH_LIMIT", FEW)
    monkeypatch.setattr("audio.admin.access.SEARCH_LIMIT", FEW)
    monkeypatch.setattr(lists.ReadOnlyAdmin, "list_per_page", 10)
    monkeypatch.setattr(removal, "SESSIONS_PER_ROUND", 5)
    settings.REQUIRE_AUTH = True
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"


def fill(first: int, last: int) -> None:
    with connection.cursor() as cursor:
        history.fill(cursor.execute, connection.vendor, first, last)
        if connection.vendor == "postgresql":
            # Its planner goes by statistics; SQLite has none unless it is asked for them, which nobody does.
            cursor.execute("ANALYZE")
            # As for an SSD. With the default a table of so few rows is nearly as cheap as some searches of its index.
            cursor.execute("SET LOCAL random_page_cost = 1.1")


def people() -> dict[str, Client]:
    """Staff, and managers of one small project, and of two, of which one is large."""
    made = {}
    for name, projects in (("staff", ()), ("one", ("tiny",)), ("two", ("tiny", "court"))):
        user = get_user_model().objects.create(username=name, is_staff=not projects, is_superuser=not projects)
        for project in Project.objects.filter(name__in=projects):
            Membership.objects.create(user=user, project=project, role="manager")
        made[name] = Client()
        made[name].force_login(user)
    return made


def pages(names: tuple[str, ...], paths: list[str], clients: dict[str, Client]) -> Iterator[tuple[str, Callable]]:
    def fetch(client: Client, path: str) -> None:
        answer = client.get(path)
        assert answer.status_code in (200, 302, 404), answer.content

    for name, path in itertools.product(names, paths):
        yield f"{name}: {path}", lambda client=clients[name], path=path: fetch(client, path)


def assert_flat(made: Callable[[], Iterable[tuple[str, Callable[..., Any]]]]) -> None:
    """Check that no path does more with LARGE sessions than with SMALL ones."""
    before = {name: plans.work(act) for name, act in made()}
    fill(SMALL, LARGE - 1)
    after = {name: plans.work(act) for name, act in made()}
    allowed = ALLOWED_FOR_EACH[connection.vendor] * (LARGE - SMALL)
    assert {name: (before[name], cost) for name, cost in after.items() if cost - before[name] > allowed} == {}


def test_lists_of_rest():
    fill(0, SMALL - 1)
    clients = people()
    with_cursor = [f"{SESSIONS}?page_size=10&cursor={cursor_of(clients['staff'])}"]
    assert_flat(lambda: pages(("staff", "one", "two"), [*LISTS, *with_cursor, TASKS], clients))


def cursor_of(client: Client) -> str:
    following: str = client.get(f"{SESSIONS}?page_size=500").json()["next"]
    return following.partition("cursor=")[2].partition("&")[0]


def test_pages_of_one_session():
    fill(0, SMALL - 1)
    webhook = uuid.UUID(hex=webhook_key())
    paths = [
        *(f"{SESSIONS}/{OLD}", f"{SESSIONS}/{OLD}/chunks", f"{SESSIONS}/{OLD}/markers", f"{SESSIONS}/{OLD}/tokens"),
        *(f"/api/tasks?session_id={OLD}", f"/api/webhooks/{webhook}/deliveries?session_id={OLD}"),
        *(f"/api/webhooks/{webhook}/deliveries?page_size=10", "/", f"/sessions/{OLD}", "/api/projects"),
    ]
    clients = people()
    assert_flat(lambda: pages(("staff", "one"), paths, clients))


def webhook_key() -> str:
    return f"{history.HASH:08x}{9:04x}{1:020x}"


def test_lists_of_the_admin():
    fill(0, SMALL - 1)
    models = ("audiosession", "recording", "backgroundtask", "audiosource", "audiochunk", "webhookevent", "auditentry")
    queries = {
        "audiosession": [
            *("q=rare", "q=Meeting", "q=x", f"q={str(OLD)[:8]}", f"q={OLD}", "project=tiny", "recording=failed"),
            *("recording=ready", "recording=live", "status__exact=completed", "format__exact=flac", "p=3"),
        ],
        "auditentry": [f"q={OLD}", "q=x", "action=session.opened", "project=tiny&action=session.opened"],
        "recording": ["state__exact=failed", f"q={OLD}"],
        "backgroundtask": ["state__exact=failed", f"q={OLD}"],
    }
    paths = [f"{ADMIN}/{model}/?{query}" for model in models for query in ["", *queries.get(model, [])]]
    paths += [f"{ADMIN}/audiosession/{OLD}/change/", f"{ADMIN}/webhookendpoint/", f"{ADMIN}/webhookdelivery/"]
    clients = people()
    several = [path for path in paths if "/audiosession/" in path]
    assert_flat(lambda: itertools.chain(pages(("staff", "one"), paths, clients), pages(("two",), several, clients)))


def test_the_life_of_a_session():
    fill(0, SMALL - 1)
    product.REQUIRE_AUTH = False
    process = IngestProcess.objects.create(host="host", pid=1)
    newest = AudioSession.objects.open().order_by("-start_time").values_list("pk", flat=True)
    request = ConnectionRequest({})

    def opening() -> openings.Opening:
        return openings.Opening(request, None, access.ANYONE, None, lambda: False)

    def open_with_limits() -> None:
        Project.objects.filter(pk=1).update(max_open_sessions=10**6, max_openings_per_minute=10**6)
        ingest.open_connection(request, None, process.pk)

    def end_process() -> None:
        ingest.open_connection(request, None, process.pk)
        ingest.remove_process(process.pk)

    paths = {
        "open": lambda: ingest.open_connection(request, None, process.pk),
        "open a crowd": lambda: openings.open_new([opening() for _ in range(10)], process.pk),
        "open with limits": open_with_limits,
        "continue": lambda: ingest.open_connection(request, newest[0], process.pk),
        "close": lambda: ingest.close_session(newest[0]),
        "delete": lambda: upkeep.delete_session(OLD),
        "end of a process": end_process,
        "clock was set": lambda: ingest.restart_all_ages(ClockSet(*(timezone.now() for _ in range(3)))),
    }
    assert_flat(paths.items)


def test_sweeps_and_chores(settings):
    fill(0, SMALL - 1)
    settings.RETENTION_DAYS = 0

    def retention(days: int) -> None:
        settings.RETENTION_DAYS = days
        removal.delete_expired(Sweep(dry_run=True))
        settings.RETENTION_DAYS = 0

    def erase_one() -> None:
        DeletedSession.objects.create(pk=uuid.uuid4(), started_at=timezone.now())
        erasures.erase_deleted(Sweep())

    def uploads() -> None:
        settings.RECORDINGS_STORAGE = "s3://bucket"
        work.enqueue_uploads(Sweep(dry_run=True))
        upkeep.expect_empty_queue()
        settings.RECORDINGS_STORAGE = ""

    paths = {
        "sweep": upkeep.sweep,
        "deserted": lambda: sessions.drop_deserted(Sweep()),
        "times in the future": lambda: work.take_back_future(Sweep()),
        "retention of years": lambda: retention(36500),
        "erasures": erase_one,
        "events": outbox.delete_old,
        "audit": lambda: audits.delete_old(Sweep()),
        "removed journals": lambda: journals._forget_removed(Sweep()),
        "ages of the gauges": lambda: list(gauges._ages(timezone.now())),
        "leftovers": lambda: leftovers.tidy_next(Sweep()),
    }
    assert_flat(paths.items)


def test_events():
    fill(0, SMALL - 1)

    def publish_one() -> None:
        WebhookEvent.objects.create(type="session.opened", project_id=2)
        outbox.publish()
        delivery._claimed(timezone.now())

    paths = {
        "publish": publish_one,
        "disable": lambda: delivery.disable(uuid.UUID(hex=webhook_key())),
        "stream": lambda: streams._read_all(outbox.last_position() - 5, [OLD], True, {}),
    }
    assert_flat(paths.items)


@pytest.mark.parametrize("name", ["staff", "one", "two"])
def test_what_is_found_does_not_depend_on_the_way_to_it(name):
    """Each filter finds what a plain query finds, page by page in both directions, whatever is looked up first."""
    fill(0, SMALL - 1)
    client = people()[name]
    projects = {"staff": range(1, 5), "one": [4], "two": [3, 4]}[name]
    for query in FILTERS:
        expected = [str(key) for key in plain(query).filter(project__in=projects).values_list("pk", flat=True)]
        assert followed(client, f"{SESSIONS}?page_size=40&{query}", "next") == expected, query
        if len(expected) > 40:
            last = f"{SESSIONS}?page_size=40&{query}&cursor={LAST_PAGE}"
            assert sorted(followed(client, last, "previous")) == sorted(expected), query


def followed(client: Client, address: str | None, link: str) -> list[str]:
    """The ids on a page and on all that a link leads to."""
    found = []
    while address:
        page = client.get(address).json()
        found += [row["session_id"] for row in page["results"]]
        address = page[link]
    return found


def plain(query: str):
    """The sessions that a filter is to find, by a plain query."""
    lookups = {"name": "name__startswith", "project": "project__name"}
    sessions = AudioSession.objects.order_by("-start_time", "-pk")
    for name, _, value in (part.partition("=") for part in query.split("&") if part):
        value = value.replace("+", " ")
        if name.startswith("metadata."):
            name = f"metadata__{name.removeprefix('metadata.')}"
        sessions = sessions.filter(**{lookups.get(name, name): value})
    return sessions
