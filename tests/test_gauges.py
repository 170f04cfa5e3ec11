"""What is read from the database and the storage for Prometheus, on real rows and files."""

import re
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audio.gauges import Reading
from audio.models import AudioChunk, BackgroundTask, Recording
from tests.api.rows import connect, make_chunks, make_session

PARTIAL = ("session_open_dropped", "recording_unfinished", "task_open")

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def read(**labels):
    """The gauges of a new reading, by name; of a labelled family the sample with these labels."""
    return {
        family.name.removeprefix("sercuescribe_"): sample.value
        for family in Reading().collect()
        for sample in family.samples
        if sample.labels.items() <= labels.items()
    }


def ago(seconds):
    return timezone.now() - timedelta(seconds=seconds)


def test_states_are_counted_also_those_that_nothing_is_in():
    make_session()
    make_session(recording={"state": "ready"}, status="completed")
    make_session(recording={"state": "failed"}, status="completed")
    assert read(state="active")["sessions"] == 1
    assert read(state="completed")["sessions"] == 2
    assert read(state="paused")["sessions"] == 0
    assert [read(state=state)["recordings"] for state in ("empty", "live", "ready", "failed")] == [1, 0, 1, 1]


def test_tasks_are_counted_by_kind_and_state():
    session = make_session()
    BackgroundTask.objects.create(session=session, kind="transcode", format="mp3", state="failed")
    assert read(kind="transcode", state="failed")["tasks"] == 1
    assert read(kind="waveform", state="failed")["tasks"] == 0


def test_connections_and_their_processes_are_counted():
    connect(make_session())
    found = read()
    assert (found["connections"], found["web_processes"]) == (1, 1)


def test_the_lag_is_the_age_of_the_first_chunk_that_no_window_has_taken():
    session = make_session(recording={"state": "live", "chunks_done": 2})
    make_chunks(session, 4)
    for sequence, seconds in ((1, 900), (2, 800), (3, 70), (4, 60)):
        AudioChunk.objects.filter(session=session, sequence=sequence).update(received_at=ago(seconds))
    assert 70 <= read()["concatenation_lag_seconds"] < 80
    Recording.objects.update(checkpoint={"looked_to": 3})
    assert 60 <= read()["concatenation_lag_seconds"] < 70
    Recording.objects.update(chunks_done=4)
    assert read()["concatenation_lag_seconds"] == 0


@pytest.mark.parametrize("state", ["ready", "failed"])
def test_what_is_finished_does_not_lag(state):
    session = make_session(recording={"state": state}, status="completed", end_time=ago(500))
    make_chunks(session, 1)
    found = read()
    assert (found["concatenation_lag_seconds"], found["recording_delay_seconds"]) == (0, 0)


def test_the_delay_is_that_of_the_longest_closed_session_without_its_recording():
    make_session(status="completed", end_time=ago(5000))  # nothing came, so there is nothing to wait for
    for seconds in (100, 20):
        make_chunks(make_session(status="completed", end_time=ago(seconds)), 1)
    make_chunks(make_session(), 1)
    assert 100 <= read()["recording_delay_seconds"] < 110


def test_the_age_of_tasks_that_wait_and_the_silence_of_those_that_run():
    session = make_session()
    task = BackgroundTask.objects.create(session=session, kind="waveform", created_at=ago(300), updated_at=ago(30))
    found = read()
    assert 300 <= found["task_wait_seconds"] < 310
    assert found["task_silence_seconds"] == 0
    BackgroundTask.objects.filter(pk=task.pk).update(state="running")
    found = read()
    assert found["task_wait_seconds"] == 0
    assert 30 <= found["task_silence_seconds"] < 40


def test_the_storage(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path
    assert (read()["journal_bytes"], read()["storage_up"]) == (0, 1)
    folder = tmp_path / "journals" / "ab"
    folder.mkdir(parents=True)
    (folder / "one.journal").write_bytes(bytes(100))
    (folder / "two.journal").write_bytes(bytes(50))
    found = read()
    assert (found["journal_bytes"], found["journal_files"]) == (150, 2)
    assert found["storage_size_bytes"] >= found["storage_free_bytes"] > 0


def test_a_storage_that_is_away_is_told(settings, tmp_path):
    (tmp_path / "file").touch()
    settings.AUDIO_STORAGE_PATH = tmp_path / "file" / "audio"
    found = read()
    assert found["storage_up"] == 0
    assert "journal_bytes" not in found
    assert found["database_up"] == 1


def test_a_database_that_is_away_is_told():
    def fail(*_):
        raise OperationalError("the connection is lost")

    with connection.execute_wrapper(fail):
        found = read()
    assert found["database_up"] == 0
    assert "sessions" not in found
    assert found["storage_up"] == 1


def test_a_reading_is_kept_for_a_while(django_assert_num_queries):
    kept = Reading()
    kept.collect()
    with django_assert_num_queries(0):
        kept.collect()


def test_what_it_costs_does_not_grow_with_the_rows():
    """Each query is answered from an index, and the number of queries is what it is."""
    make_chunks(make_session(), 3)
    with CaptureQueriesContext(connection) as few:
        read()
    for _ in range(20):
        make_chunks(make_session(), 3)
    with CaptureQueriesContext(connection) as many:
        read()
    assert len(few) == len(many) <= 10
    for query in many.captured_queries:
        plan = explained(query["sql"])
        for table in ("audio_audiosession", "audio_recording", "audio_backgroundtask", "audio_audiochunk"):
            assert not is_scanned(plan, table), f"{query['sql']}\n{plan}"


def explained(sql):
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # A table of some rows is read whole whatever indexes there are.
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {'' if connection.vendor == 'postgresql' else 'QUERY PLAN '}{sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def is_scanned(plan, table):
    """Whether the plan looks at every row of the table itself, be it in the order of an index."""
    lines = [line.strip() for line in plan.splitlines()]
    behind = [*lines[1:], ""]
    aliases = "|".join([table, "u0"] if table == "audio_audiochunk" else [table])
    on_table = re.compile(rf" ({aliases})\b", re.IGNORECASE)
    return any(reads_all(line, then) for line, then in zip(lines, behind, strict=True) if on_table.search(line))


def reads_all(line, then):
    if "SCAN" in line:
        return "COVERING INDEX" not in line
    # An index of rows that are open only is read whole.
    is_whole = "Index Scan" in line and not then.startswith("Index Cond") and not any(name in line for name in PARTIAL)
    return "Seq Scan" in line or is_whole
