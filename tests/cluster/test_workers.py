"""Two workers on one session: never both at once, and what one of them leaves undone the other does."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pytest
import redis
from celery import Celery

from audio.dispatch import CONCATENATE
from audio.storage.lock import LOCK_NAME
from tests.client import recorder
from tests.cluster.stack import Cluster, Worker
from tests.server import eventually
from tests.sound import decoded, encoded, speech

QUEUE = "celery"
CLAIM_LOST = "claim_lost"
WATCH = """
    CREATE TABLE window_log (id serial, session_id uuid, token uuid, first bigint, last bigint);
    CREATE FUNCTION log_window() RETURNS trigger AS $$ BEGIN
        IF EXISTS (SELECT FROM window_log WHERE session_id = NEW.session_id) THEN
            PERFORM pg_advisory_xact_lock_shared(1);
        END IF;
        INSERT INTO window_log (session_id, token, first, last)
        VALUES (NEW.session_id, OLD.token, OLD.chunks_done + 1, NEW.chunks_done);
        RETURN NULL;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER log_window AFTER UPDATE ON audio_recording FOR EACH ROW
    WHEN (NEW.chunks_done <> OLD.chunks_done) EXECUTE FUNCTION log_window();
"""
# While somebody has it, no session's second window is committed.
SHUT = "SELECT pg_advisory_lock(1)"
BEGUN = "SELECT 1 FROM window_log WHERE session_id = %s"
FORGET = "DROP TRIGGER log_window ON audio_recording; DROP FUNCTION log_window; DROP TABLE window_log"


@pytest.fixture
def windows(cluster: Cluster) -> Iterator[None]:
    """The database notes each window that is committed: which chunks, and whose."""
    cluster.database.query(WATCH)
    yield
    cluster.database.query(FORGET)


@pytest.fixture
def celery(cluster: Cluster) -> Iterator[Celery]:
    """Somebody who asks the cluster's workers for too much."""
    with Celery(broker=cluster.broker.url(), set_as_current=False) as app:
        yield app


@pytest.fixture(scope="session")
def flac_files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, bytes]]:
    """Some files of a second each: FLAC, and the samples in it."""
    path: Path = tmp_path_factory.mktemp("flac") / "one.flac"
    sounds = [speech(1, seed=seed) for seed in range(5)]
    return [(encoded(sound, 16000, path), np.ascontiguousarray(sound).tobytes()) for sound in sounds]


def lost_claims(cluster: Cluster) -> int:
    return sum(worker.read_log().count(CLAIM_LOST) for worker in cluster.workers)


async def record(cluster: Cluster, files: Sequence[bytes], after_each: Callable[[str], None] = lambda _: None) -> str:
    """Records the files a few at a time, and closes the session; returns its id."""
    async with recorder(cluster.web[0].ws_url, format="flac", chunks="files") as client:
        for at in range(0, len(files), 5):
            await client.store(*files[at : at + 5])
            await asyncio.to_thread(after_each, client.session_id)
        await client.close_session()
    return client.session_id


def assert_recorded(cluster: Cluster, session_id: str, sounds: Sequence[bytes], path: Path) -> None:
    """The recording decodes to the sounds, one after the other, and no window of it was taken twice."""
    path.write_bytes(cluster.web[1].rest.download(session_id))
    assert decoded(path) == b"".join(sounds)
    done = cluster.database.query("SELECT first, last FROM window_log WHERE session_id = %s ORDER BY id", session_id)
    assert [first for first, _ in done] == [1, *(last + 1 for _, last in done[:-1])]
    assert done[-1][1] == len(sounds)


async def test_tasks_of_a_session_never_run_twice_at_once(cluster: Cluster, windows, celery, flac_files, tmp_path):
    """Each window is asked for many times, of both workers, while the session is recorded and when it is closed."""

    def ask_often(session_id: str) -> None:
        for _ in range(8):
            celery.send_task(CONCATENATE, args=[session_id])

    files, sounds = zip(*flac_files * 8, strict=True)
    lost_before = lost_claims(cluster)
    session_id = await record(cluster, files, ask_often)
    ask_often(session_id)
    await asyncio.to_thread(assert_recorded, cluster, session_id, sounds, tmp_path / "recording.flac")
    assert lost_claims(cluster) == lost_before


@pytest.fixture
def asked_once(cluster: Cluster, celery: Celery) -> Iterator[Callable[[str], None]]:
    """Nothing but one task, sent by the test, leads the workers to a session that was recorded in the test."""
    assert len(celery.control.cancel_consumer(QUEUE, reply=True)) == 2
    cluster.sweeper.freeze()

    def ask(session_id: str) -> None:
        with redis.Redis.from_url(cluster.broker.url()) as client:
            client.delete(QUEUE)
        celery.send_task(CONCATENATE, args=[session_id])
        celery.control.add_consumer(QUEUE, reply=True)

    yield ask
    cluster.sweeper.thaw()


async def test_the_task_of_a_killed_process_is_handed_out_again(
    cluster: Cluster, windows, asked_once, flac_files, tmp_path
):
    """At once by the queue; by the sweep if the queue loses it, as Redis may."""
    files, sounds = zip(*flac_files * 40, strict=True)
    session_id = await record(cluster, files)
    with psycopg.connect(cluster.database.url(), autocommit=True) as gate:
        gate.execute(SHUT)
        await asyncio.to_thread(asked_once, session_id)
        _, runner = await asyncio.to_thread(eventually, lambda: in_a_window(cluster, session_id))
        runner.kill()
    cluster.sweeper.thaw()
    await asyncio.to_thread(assert_recorded, cluster, session_id, sounds, tmp_path / "recording.flac")


async def test_what_a_killed_worker_had_taken_is_found_by_the_sweep(
    cluster: Cluster, windows, asked_once, flac_files, tmp_path
):
    files, sounds = zip(*flac_files * 40, strict=True)
    session_id = await record(cluster, files)
    with psycopg.connect(cluster.database.url(), autocommit=True) as gate:
        gate.execute(SHUT)
        await asyncio.to_thread(asked_once, session_id)
        worker, _ = await asyncio.to_thread(eventually, lambda: in_a_window(cluster, session_id))
        await asyncio.to_thread(worker.kill)
    # Half a minute passes.
    cluster.database.query("UPDATE audio_recording SET updated_at = updated_at - interval '1 minute'")
    cluster.sweeper.thaw()
    await asyncio.to_thread(assert_recorded, cluster, session_id, sounds, tmp_path / "recording.flac")


def in_a_window(cluster: Cluster, session_id: str) -> tuple[Worker, psutil.Process] | None:
    """The process that works on the session and has committed a window of it, and its worker."""
    for worker in cluster.workers:
        for process in psutil.Process(worker.process.pid).children():
            if has_lock(process, session_id) and cluster.database.query(BEGUN, session_id):
                return worker, process
    return None


def has_lock(process: psutil.Process, session_id: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(file.path.endswith(f"/{session_id}/{LOCK_NAME}") for file in process.open_files())
    return False
