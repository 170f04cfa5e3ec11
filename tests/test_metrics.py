"""`/metrics` of real servers: what a recorded session moves, and two web processes on one folder.

`scrape` reads it with Prometheus' own parser. The instruments' arithmetic is tested without a server at the end.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from audio import metrics
from audio.errors import CODES
from audio.metrics import BatchHistogram
from tests.client import Rest, recorder
from tests.docs.text import table, unquoted
from tests.server import Server, eventually
from tests.services import REPOSITORY
from tests.sound import speech
from tests.watching import expressions, series

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    """Returns the samples of a server by name and labels."""
    answer = httpx.get(f"{url}/metrics", trust_env=False)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample, 0 if it is not there."""
    return samples.get((f"sercuescribe_{name}", tuple(sorted(labels.items()))), 0.0)


@contextlib.contextmanager
def another_web_process(server: Server) -> Iterator[tuple[str, subprocess.Popen]]:
    """Runs one more web process beside that of the server, on the same folder; gives its URL and itself."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "sercuescribe.server", "--port", "0", "--ready-fd", str(writing)]
    with server.log.open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=server.environment, stderr=log, pass_fds=[writing])
    os.close(writing)
    try:
        assert os.read(reading, 64), server.read_log()
        yield f"http://127.0.0.1:{_port_of(process.pid)}", process
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def _port_of(pid: int) -> int:
    (port,) = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return port


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


async def record(url: str, chunks: int) -> str:
    sound = speech(1).tobytes()
    size = len(sound) // chunks // 2 * 2
    async with recorder(url.replace("http", "ws", 1)) as client:
        await client.store(*(sound[at * size : (at + 1) * size] for at in range(chunks)))
        await client.close_session()
    return client.session_id


def test_every_rejection_that_can_be_is_there_before_the_first(server):
    samples = scrape(server.url)
    for name in ("chunks_rejected_total", "connections_rejected_total"):
        known = {dict(labels)["code"] for found, labels in samples if found == f"sercuescribe_{name}"}
        assert known == set(CODES)
    assert "1006" in {dict(labels)["code"] for name, labels in samples if name.endswith("connections_closed_total")}


async def test_a_recorded_session_moves_them(server):
    before = scrape(server.url)
    session_id = await record(server.url, 10)
    detail = Rest(server.url).finished(session_id)
    after = scrape(server.url)
    moved = {key: after[key] - before.get(key, 0.0) for key in after}
    assert value(moved, "chunks_total") == 10
    assert value(moved, "chunk_bytes_total") == detail["byte_count"]
    assert value(moved, "acknowledgement_latency_seconds_count") == 10
    assert value(moved, "acknowledgement_latency_seconds_bucket", le="+Inf") == 10
    assert 0 < value(moved, "acknowledgement_latency_seconds_sum") < 10 * 60
    assert value(moved, "batch_chunks_sum") == 10
    batches = value(moved, "batch_chunks_count")
    assert 1 <= batches == value(moved, "journal_flush_seconds_count") == value(moved, "commit_seconds_count") <= 10
    assert value(moved, "connections_opened_total") == value(moved, "connections_closed_total", code="1000") == 1
    assert value(after, "in_flight_bytes") == 0
    assert value(after, "database_up") == value(after, "storage_up") == 1
    assert value(after, "web_processes_without_redis") == 0
    # What is read from the storage is kept for some seconds.
    eventually(lambda: value(scrape(server.url), "journal_bytes") > detail["byte_count"])


async def test_what_is_rejected_is_counted_by_its_code(server):
    before = scrape(server.url)
    async with recorder(server.ws_url, format="mp4") as client:
        await client.send(b"RIFF....WAVEfmt ")
        assert (await client.answer())["code"] == "format_mismatch"
        await client.control("pause")
    async with recorder(server.ws_url, sample_rate=1) as client:
        assert client.greeting["code"] == "invalid_parameter"
    async with recorder(server.ws_url) as client:
        await client.control("pause")
        await client.send(b"\0" * 320)
        assert (await client.answer())["code"] == "session_paused"

    def grown(name: str, code: str) -> bool:
        return value(scrape(server.url), name, code=code) == value(before, name, code=code) + 1

    eventually(lambda: grown("chunks_rejected_total", "format_mismatch"))
    eventually(lambda: grown("chunks_rejected_total", "session_paused"))
    eventually(lambda: grown("connections_rejected_total", "invalid_parameter"))

    assert_alerts_and_panels_have_their_series(scrape(server.url))
    assert_the_table_is_complete(scrape(server.url))


def assert_alerts_and_panels_have_their_series(samples: Samples) -> None:
    """Every series that a rule or a panel names is there, with the labels that it looks at."""
    told = {(name, label) for name, labels in samples for label in ["", *dict(labels)]}
    for expression in expressions():
        for name, labels in series(expression):
            # `up` is Prometheus' own, and so are the labels of a target.
            if name != "up":
                assert {(name, label) for label in {""} | labels - {"job", "instance"}} <= told, expression


def assert_the_table_is_complete(samples: Samples) -> None:
    """docs/operations.md has each metric, by the name without what the types add to it, and no other."""
    suffix = re.compile(r"_(bucket|sum|count)$")
    told = {suffix.sub("", name) for name, _ in samples}
    documented = {unquoted(name) for name, *_ in table(REPOSITORY / "docs" / "operations.md", "### Metrics")}
    assert documented == told


async def test_a_close_code_that_nobody_uses_gets_no_series_of_its_own(server):
    before = value(scrape(server.url), "connections_closed_total", code="other")
    async with recorder(server.ws_url) as client:
        await client.socket.close(4999)
    eventually(lambda: value(scrape(server.url), "connections_closed_total", code="other") == before + 1)


async def test_two_processes_on_one_folder_answer_for_each_other(server):
    before = scrape(server.url)
    with another_web_process(server) as (other_url, process):
        await record(server.url, 3)
        await record(other_url, 5)
        for url in (server.url, other_url):
            found = scrape(url)
            assert value(found, "chunks_total") == value(before, "chunks_total") + 8
            assert value(found, "acknowledgement_latency_seconds_count") == value(found, "chunks_total")
        process.kill()
        process.wait()
        gauges = [path.name for path in (server.folder / "metrics").glob(f"gauge_*_{process.pid}.db")]
        assert gauges
        # What the dead has counted stays, what it held does not.
        assert value(scrape(server.url), "chunks_total") == value(before, "chunks_total") + 8
        assert not list((server.folder / "metrics").glob(f"gauge_*_{process.pid}.db"))


# Without a server


def test_many_observations_at_once_are_as_many_one_by_one():
    amounts = [0.0, 0.002, 0.0021, 0.5, 3.0, 100.0, 0.03, 0.03]
    at_once, by_one = CollectorRegistry(), CollectorRegistry()
    BatchHistogram("h", "h", buckets=(0.002, 0.03, 1.0), registry=at_once).observe_all(amounts)
    single = Histogram("h", "h", buckets=(0.002, 0.03, 1.0), registry=by_one)
    for amount in amounts:
        single.observe(amount)

    def samples(registry: CollectorRegistry) -> list:
        return [s for f in registry.collect() for s in f.samples if not s.name.endswith("_created")]

    assert samples(at_once) == samples(by_one)


def test_a_new_start_begins_from_nothing(tmp_path: Path):
    folder = tmp_path / "metrics"
    metrics.begin_anew(folder)
    (folder / "counter_1.db").touch()
    (folder / "mine").touch()
    metrics.begin_anew(folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
