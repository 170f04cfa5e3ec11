"""The supervisor alone, and the background tasks of a real ingest: each is broken once, and has to go on."""

import asyncio
import itertools
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from structlog.testing import capture_logs

from audio import dispatch, events, metrics
from audio.ingest import sessions, supervision
from audio.ingest.supervision import Supervisor
from audio.ingest.types import Accepted
from audio.models import JournalErasure, JournalFile
from tests.broker import requests_for
from tests.ingest.live import after_heartbeats, deafen, until
from tests.server import DEADLINE_SECONDS, POLL_SECONDS

with_rows = pytest.mark.django_db(transaction=True)


def failures(name: str) -> float:
    """How many failures of a background task were counted in this process."""
    (metric,) = metrics.background_task_failures.labels(name).collect()
    return metric.samples[0].value


async def failed_once_more(name: str, before: float) -> None:
    await until(lambda: failures(name) > before)


# The supervisor alone


async def test_a_task_that_fails_is_logged_counted_and_restarted():
    runs: list[int] = []

    async def fails_at_first() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise KeyError("what nobody expected")
        await asyncio.sleep(3600)

    supervisor, before = Supervisor(), failures("windows")
    with capture_logs() as logs:
        supervisor.keep_running("windows", fails_at_first)
        await until(lambda: len(runs) == 2)
    await supervisor.stop()
    (line,) = logs
    assert (line["event"], line["task"], line["log_level"]) == ("background_task_failed", "windows", "error")
    assert line["exc_info"].__traceback__ is not None
    assert failures("windows") == before + 1


@pytest.mark.parametrize("ending", ["return", "cancellation"])
async def test_a_task_that_ends_otherwise_is_restarted_too(ending: str):
    runs: list[int] = []

    async def ends_at_first() -> None:
        runs.append(1)
        if len(runs) == 1:
            if ending == "cancellation":
                raise asyncio.CancelledError
            return
        await asyncio.sleep(3600)

    supervisor, before = Supervisor(), failures("windows")
    supervisor.keep_running("windows", ends_at_first)
    await until(lambda: len(runs) == 2)
    await supervisor.stop()
    assert failures("windows") == before + 1


async def test_the_delay_grows_up_to_its_limit(monkeypatch):
    monkeypatch.setattr(supervision, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(supervision, "MAX_DELAY_SECONDS", 0.04)
    runs: list[float] = []

    async def fails() -> None:
        runs.append(asyncio.get_running_loop().time())
        raise KeyError

    supervisor = Supervisor()
    supervisor.keep_running("windows", fails)
    await until(lambda: len(runs) >= 5)
    await supervisor.stop()
    delays = [later - earlier for earlier, later in itertools.pairwise(runs)]
    assert all(delay >= least for delay, least in zip(delays, (0.009, 0.019, 0.039, 0.039), strict=False))


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again():
    swallowed: list[int] = []

    async def swallows_once() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            swallowed.append(1)
        await asyncio.sleep(3600)

    supervisor, before = Supervisor(), failures("events")
    supervisor.keep_running("events", swallows_once)
    await asyncio.sleep(0.01)
    await supervisor.stop()
    assert swallowed == [1]
    assert failures("events") == before


async def test_a_task_that_runs_once_is_reported_and_not_restarted():
    runs: list[int] = []

    async def fails() -> None:
        runs.append(1)
        raise KeyError

    supervisor, before = Supervisor(), failures("announcement")
    supervisor.run_once("announcement", fails())
    await failed_once_more("announcement", before)
    await asyncio.sleep(2 * supervision.FIRST_DELAY_SECONDS)
    await supervisor.stop()
    assert (len(runs), failures("announcement")) == (1, before + 1)


# The background tasks of an ingest


@pytest.mark.database
@with_rows
async def test_the_heartbeat_goes_on_after_a_connection_that_breaks_it(ingest, connect):
    breaks, other = await connect(), await connect()
    calls, before = [], failures("heartbeat")

    def break_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("a fault of the connection")

    breaks.session_closed = break_once
    await deafen()
    await ingest.run(sessions.close_session, breaks.producer.session_id)
    await failed_once_more("heartbeat", before)
    await ingest.run(sessions.close_session, other.producer.session_id)
    await until(lambda: other.told and len(calls) > 1)
    await after_heartbeats(ingest)
    assert failures("heartbeat") == before + 1


@pytest.mark.database
@with_rows
async def test_windows_are_enqueued_again_after_a_failure(ingest, connect, settings):
    before = failures("windows")
    client = await connect()
    settings.WINDOW_SECONDS = "five"
    client.send(b"abcd")
    await failed_once_more("windows", before)
    settings.WINDOW_SECONDS = 0.1
    await until(lambda: requests_for(client.producer.session_id))
    assert requests_for(client.producer.session_id) == [dispatch.CONCATENATE_LIVE]


@pytest.mark.database
@with_rows
async def test_events_are_heard_again_after_one_that_nobody_understands(ingest, connect, settings):
    settings.HEARTBEAT_SECONDS = 3600
    await after_heartbeats(ingest, 1)  # the wait that had begun before
    client, before = await connect(), failures("events")
    await send_until(lambda: failures("events") > before, {"type": events.REVOKED, "keys": 5})
    await send_until(lambda: client.told, {"type": events.CLOSED, "session_id": str(client.producer.session_id)})
    assert set(client.told) == {"closed"}


async def send_until(condition: Callable[[], Any], event: dict[str, Any]) -> None:
    """Send an event again and again, because nobody may be listening yet."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await get_channel_layer().group_send(events.GROUP, event)
            await asyncio.sleep(POLL_SECONDS)


@pytest.mark.database
@with_rows
async def test_erasures_go_on_after_a_failure(ingest, connect, settings):
    before, root = failures("erasures"), settings.AUDIO_STORAGE_PATH
    client = await connect()
    client.send(b"abcd")
    await until(lambda: client.outcomes)
    settings.AUDIO_STORAGE_PATH = None
    await ingest.run(_mark_for_erasure, ingest.process_id, client.producer.session_id)
    await failed_once_more("erasures", before)
    settings.AUDIO_STORAGE_PATH = root
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await ingest.run(_is_erased):  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(POLL_SECONDS)


def _mark_for_erasure(process_id: uuid.UUID, session_id: uuid.UUID) -> None:
    journal = JournalFile.objects.get(process_id=process_id)
    JournalErasure.objects.create(journal=journal, session_id=session_id)


def _is_erased() -> bool:
    return JournalErasure.objects.exclude(erased_at=None).exists()


@pytest.mark.database
@with_rows
async def test_an_announcement_that_fails_leaves_the_connection_alone(ingest, connect, settings):
    before, first = failures("announcement"), await connect(source="mic")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nothing.like.it"}}
    second = await connect(first.producer.session_id, source="mic")
    await failed_once_more("announcement", before)
    second.send(b"abcd")
    await until(lambda: second.outcomes)
    assert second.outcomes == [Accepted(1, 1)]
