"""Functions that run in the committer's thread: one transaction and one flush for those that come together."""

import threading
import uuid

import pytest
from django.db import OperationalError, connection, transaction

from audio.errors import DatabaseUnavailableError, SessionNotFoundError
from audio.ingest.calls import Call, Calls
from audio.ingest.committer import Committer
from audio.models import IngestProcess
from tests.server import DEADLINE_SECONDS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def create(name: str) -> str:
    IngestProcess.objects.create(host=name, pid=1)
    return name


def create_and_fail(name: str, error: Exception) -> None:
    create(name)
    raise error


def names() -> set[str]:
    return set(IngestProcess.objects.values_list("host", flat=True))


@pytest.fixture
def commits(monkeypatch) -> list[None]:
    """One entry for each commit of this thread, and so for each flush."""
    made: list[None] = []
    commit = connection._commit  # type: ignore[attr-defined]  # the stubs have only what is documented
    monkeypatch.setattr(connection, "_commit", lambda: made.append(None) or commit())
    return made


def run(calls: Calls, *enqueued: Call) -> None:
    for call in enqueued:
        calls.add(call)
    while calls:
        calls.run()


def test_functions_that_come_together_share_one_commit(commits, monkeypatch):
    monkeypatch.setattr("audio.ingest.calls.SLICE_SECONDS", 60)
    made = [Call(create, (str(number),)) for number in range(20)]
    run(Calls(lambda _: None), *made)
    assert len(commits) == 1
    assert [call.future.result() for call in made] == [str(number) for number in range(20)]
    assert len(names()) == 20


def test_chunks_get_their_turn_after_a_slice(commits, monkeypatch):
    monkeypatch.setattr("audio.ingest.calls.SLICE_SECONDS", 0)
    calls = Calls(lambda _: None)
    first, second = Call(create, ("first",)), Call(create, ("second",))
    calls.add(first)
    calls.add(second)
    calls.run()
    assert (first.future.done(), second.future.done()) == (True, False)


@pytest.mark.parametrize("error", [SessionNotFoundError(), TypeError("a bug")])
def test_an_error_takes_back_its_own_function_alone(error):
    good, bad, other = Call(create, ("good",)), Call(create_and_fail, ("bad", error)), Call(create, ("other",))
    run(Calls(lambda _: None), good, bad, other)
    assert bad.future.exception() is error
    assert (good.future.result(), other.future.result()) == ("good", "other")
    assert names() == {"good", "other"}


def test_nobody_is_told_before_the_commit_and_all_are_told_that_it_failed(monkeypatch):
    told: list[bool] = []
    call = Call(create, ("one",))

    def fails() -> None:
        told.append(call.future.done())
        raise OperationalError("the disk is gone")

    monkeypatch.setattr(connection, "_commit", fails)
    run(Calls(lambda _: pytest.fail("nothing was committed")), call)
    assert told == [False]
    assert isinstance(call.future.exception(), DatabaseUnavailableError)
    monkeypatch.undo()
    assert names() == set()


def test_what_follows_a_commit_runs_elsewhere_and_only_for_what_was_kept():
    collected, ran = [], []

    def announce(name: str, error: Exception | None = None) -> None:
        transaction.on_commit(lambda: ran.append(name))
        if error is not None:
            raise error

    run(Calls(collected.extend), Call(announce, ("kept",)), Call(announce, ("taken back", SessionNotFoundError())))
    assert ran == []
    for function in collected:
        function()
    assert ran == ["kept"]


def test_a_committer_runs_them_in_its_thread_and_before_it_stops(tmp_path):
    committer = Committer(tmp_path, uuid.uuid4(), lambda _: None, 0.0, 1 << 20)
    committer.start()
    where = Call(lambda: threading.current_thread().name, ())
    committer.call(where)
    assert where.future.result(DEADLINE_SECONDS) == "committer"
    last = Call(create, ("last",))
    committer.call(last)
    committer.stop()
    assert last.future.result(0) == "last"
    assert names() == {"last"}
