"""Journal files that may go, and the chunks in them that may not: real journals, rows and recordings.

Death is a BaseException at a step, after which whatever the process held is let go, and the sweep begins anew.
"""

import contextlib
import os
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Manager, QuerySet
from django.test import Client
from django.utils import timezone

from audio import ingest, upkeep
from audio.assembly import chunks, concatenate
from audio.assembly.rebuild import rebuild
from audio.errors import ChunksReleasedError
from audio.journal.files import JournalWriter, journal_lock, scan
from audio.journal.records import RecordType, parse_commit, parse_session
from audio.models import AudioChunk, AudioSession, JournalFile, Recording
from audio.storage import paths
from audio.upkeep import Swept, journals
from audio.wire.parameters import ConnectionRequest
from tests.broker import requests_for

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
KEEP_DAYS = 30
PAYLOADS = [bytes([number]) * 320 for number in range(1, 21)]


@pytest.fixture(autouse=True)
def limits(settings):
    settings.JOURNAL_KEEP_DAYS = KEEP_DAYS


def make_ready(session_id: uuid.UUID) -> None:
    ingest.close_session(session_id)
    concatenate.concatenate(session_id)
    assert Recording.objects.get(pk=session_id).state == "ready"


def make_failed(session_id: uuid.UUID) -> None:
    ingest.close_session(session_id)
    Recording.objects.filter(pk=session_id).update(state="failed", error_code="ffmpeg_missing")


def pass_time(days: float = KEEP_DAYS + 1) -> None:
    """Lets everything be that much older."""
    span = timedelta(days=days)
    for journal in JournalFile.objects.all():
        JournalFile.objects.filter(pk=journal.pk).update(created_at=journal.created_at - span)
        if (path := paths.root() / journal.name).exists():
            modified_at = path.stat().st_mtime - span.total_seconds()
            os.utime(path, (modified_at, modified_at))
    JournalFile.objects.update(checked_at=None)
    for recording in Recording.objects.exclude(ready_at=None):
        Recording.objects.filter(pk=recording.pk).update(ready_at=recording.ready_at - span, verified_at=None)


def tidy() -> Swept:
    return upkeep.run_chore("journals")


def read(session_id: uuid.UUID) -> list[bytes]:
    last = AudioSession.objects.get(pk=session_id).total_chunks
    return [chunk.payload for chunk in chunks.read_range(session_id, 1, last)]


def recording_of(session_id: uuid.UUID) -> bytes:
    return (paths.root() / Recording.objects.get(pk=session_id).file_name).read_bytes()


def files() -> list[Path]:
    return sorted(paths.root().glob("**/*.journal"))


def own_files(session_id: uuid.UUID) -> list[Path]:
    return sorted(paths.folder(session_id).glob("*.journal"))


@pytest.fixture
def session_ids(recorded):
    """Makes so many sessions whose chunks alternate in one journal, which nobody writes to any more."""

    def make(count: int) -> list[uuid.UUID]:
        producers = [recorded.open() for _ in range(count)]
        for payload in PAYLOADS:
            for producer in producers:
                recorded.store(producer, payload)
        recorded.committer.stop()
        return [producer.session_id for producer in producers]

    return make


# What goes


def test_a_journal_whose_recordings_are_made_goes_and_says_so(session_ids):
    first, second = session_ids(2)
    make_ready(first)
    make_ready(second)
    pass_time()
    assert tidy() == Swept(removed_journals=1)
    assert files() == []
    client = Client()
    listed = client.get(f"/api/audio/sessions/{first}/chunks").json()["results"]
    assert [chunk["is_released"] for chunk in listed] == [True] * 20
    answer = client.get(f"/api/audio/sessions/{first}/chunks/3")
    assert (answer.status_code, answer.json()["code"]) == (409, "chunks_released")
    assert recording_of(first).endswith(b"".join(PAYLOADS))
    assert tidy() == Swept()


def test_a_recording_without_chunks_is_not_made_anew_and_stays(session_ids):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    tidy()
    with pytest.raises(ChunksReleasedError):
        rebuild(key)
    with pytest.raises(CommandError, match="cannot be rebuilt"):
        call_command("rebuild", str(key))
    assert Recording.objects.get(pk=key).state == "ready"
    assert requests_for(key) == ["sercuescribe.concatenate"]  # of its close


def test_what_is_left_of_a_removed_journal_goes_with_its_last_session(session_ids):
    first, second = session_ids(2)
    make_ready(first)
    make_ready(second)
    pass_time()
    tidy()
    upkeep.delete_session(first)
    tidy()
    assert JournalFile.objects.count() == 1
    upkeep.delete_session(second)
    tidy()
    assert JournalFile.objects.count() == 0


def test_a_journal_of_deleted_sessions_needs_no_age(session_ids):
    for key in session_ids(2):
        upkeep.delete_session(key)
    assert tidy() == Swept()
    pass_time(days=0.1)
    assert tidy() == Swept(removed_journals=1)
    assert (files(), JournalFile.objects.count()) == ([], 0)


# What stays


@pytest.mark.parametrize("days", [KEEP_DAYS - 1, KEEP_DAYS + 1])
def test_the_age_of_the_recording_counts_not_that_of_the_file(session_ids, days):
    (key,) = session_ids(1)
    pass_time()
    make_ready(key)
    pass_time(days)
    assert tidy().removed_journals == (days > KEEP_DAYS)
    assert len(files()) == (days <= KEEP_DAYS)


def test_nothing_goes_where_they_are_kept_for_ever(session_ids, settings):
    settings.JOURNAL_KEEP_DAYS = 0
    (key,) = session_ids(1)
    make_ready(key)
    pass_time(days=5000)
    assert tidy() == Swept()
    assert read(key) == PAYLOADS


def test_a_journal_that_is_written_to_stays(recorded):
    """However old it is: its process may be silent for as long as it likes."""
    producer = recorded.open()
    recorded.store(producer, *PAYLOADS)
    make_ready(producer.session_id)
    pass_time()
    assert tidy() == Swept()
    assert recorded.store(recorded.open(), b"more")
    assert len(files()) == 1


def test_a_journal_that_was_written_to_lately_stays(session_ids):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    os.utime(files()[0])
    assert tidy() == Swept()
    assert read(key) == PAYLOADS


def test_a_journal_that_another_sweep_is_at_stays(session_ids):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    with journal_lock(files()[0]) as is_ours:
        assert is_ours
        assert tidy() == Swept()
    assert read(key) == PAYLOADS


def test_chunks_that_the_database_has_lost_are_not_removed(session_ids, caplog):
    """As after an older backup of it was put in place."""
    kept, lost = session_ids(2)
    make_ready(kept)
    AudioChunk.objects.filter(session=lost).delete()
    AudioSession.objects.filter(pk=lost).delete()
    pass_time()
    assert tidy() == Swept(unexplained=1)
    assert "does not know" in caplog.text
    assert len(files()) == 1


def test_a_journal_that_cannot_be_read_to_its_end_stays(session_ids):
    (key,) = session_ids(1)
    make_ready(key)
    row = AudioChunk.objects.get(session=key, sequence=10)
    with files()[0].open("r+b") as file:
        file.seek(row.offset)
        file.write(b"damage")
    pass_time()
    assert tidy() == Swept(unexplained=1)
    assert len(files()) == 1


def test_a_journal_that_is_missing_is_named(session_ids):
    session_ids(1)
    pass_time()
    files()[0].unlink()
    assert tidy() == Swept(unexplained=1)
    assert JournalFile.objects.get().removed_at is None


def test_a_recording_that_got_no_digest_gets_one_first(session_ids):
    (key,) = session_ids(1)
    make_ready(key)
    Recording.objects.filter(pk=key).update(sha256="")
    pass_time()
    assert tidy() == Swept()
    assert requests_for(key) == ["sercuescribe.concatenate"] * 2
    concatenate.concatenate(key)
    pass_time(days=0)
    assert tidy() == Swept(removed_journals=1)


def test_a_recording_is_read_once_for_all_its_journals(session_ids, monkeypatch):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    Recording.objects.update(verified_at=timezone.now())
    (paths.root() / Recording.objects.get(pk=key).file_name).unlink()
    assert tidy() == Swept(removed_journals=1)


# What is moved


def test_chunks_of_a_failed_session_are_moved_and_make_its_recording_later(session_ids):
    ready, failed = session_ids(2)
    make_ready(ready)
    make_failed(failed)
    pass_time()
    assert tidy() == Swept(removed_journals=1, moved_sessions=1)
    assert files() == own_files(failed)
    assert read(failed) == PAYLOADS
    call_command("rebuild", str(failed))
    concatenate.concatenate(failed)
    assert recording_of(failed).endswith(b"".join(PAYLOADS))
    assert tidy() == Swept()
    pass_time()
    assert tidy() == Swept(removed_journals=1)
    assert files() == []


def test_chunks_of_an_open_session_are_moved_and_more_may_come(session_ids, recorded):
    (key,) = session_ids(1)
    pass_time()
    assert tidy() == Swept(removed_journals=1, moved_sessions=1)
    assert len(read(key)) == 20
    make_ready(key)


def test_chunks_of_a_recording_that_is_not_as_it_was_made_are_kept(session_ids, caplog):
    (key,) = session_ids(1)
    make_ready(key)
    path = paths.root() / Recording.objects.get(pk=key).file_name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    pass_time()
    assert tidy() == Swept(removed_journals=1, moved_sessions=1, unexplained=1)
    assert "recording_damaged" in caplog.text
    rebuild(key)
    concatenate.concatenate(key)
    assert recording_of(key).endswith(PAYLOADS[-1])


def test_records_are_moved_as_they_are(recorded):
    """What verifies the files, or rebuilds the rows from them, finds in the new one what was in the old one."""
    opened = ingest.open_connection(
        ConnectionRequest({}, source="left", user_id="somebody"), None, recorded.process_id
    ).producer
    key = opened.session_id
    recorded.store(opened, *PAYLOADS[:5])
    recorded.store(ingest.open_connection(ConnectionRequest({}), key, recorded.process_id).producer, *PAYLOADS[5:7])
    recorded.store(opened, *PAYLOADS[7:])
    recorded.committer.stop()
    before = [record for record in scan(files()[0]) if record.header.type is RecordType.CHUNK]
    make_failed(key)
    pass_time()
    tidy()
    moved = list(scan(own_files(key)[0]))
    by_type = {kind: [record for record in moved if record.header.type is kind] for kind in RecordType}
    assert [(r.header, r.payload) for r in by_type[RecordType.CHUNK]] == [(r.header, r.payload) for r in before]
    assert [parse_session(record.payload)["source"] for record in by_type[RecordType.SESSION]] == ["left", ""]
    assert parse_session(by_type[RecordType.SESSION][0].payload)["user_id"] == "somebody"
    committed = [entry for record in by_type[RecordType.COMMIT] for entry in parse_commit(record.payload)]
    assert [entry.sequence for entry in committed] == list(range(1, 21))
    assert [entry.source_count for entry in committed] == [1, 2, 3, 4, 5, 0, 0, *range(6, 19)]
    rows = AudioChunk.objects.filter(session=key).order_by("sequence").values_list("offset", flat=True)
    assert [entry.offset for entry in committed] == list(rows)


def test_a_damaged_chunk_stays_where_it_is_and_so_does_its_file(session_ids, caplog):
    (key,) = session_ids(1)
    make_failed(key)
    row = AudioChunk.objects.get(session=key, sequence=7)
    with files()[0].open("r+b") as file:
        file.seek(row.offset + 64)
        file.write(b"damage")
    shared = files()[0]
    pass_time()
    assert tidy() == Swept(moved_sessions=1, unexplained=1)
    assert "chunk_unmovable" in caplog.text
    assert "'sequence': 7" in caplog.text
    assert shared.exists()
    left = AudioChunk.objects.filter(session=key, journal__name__startswith="journals/")
    assert list(left.values_list("sequence", flat=True)) == [7]


def test_more_chunks_than_are_moved_at_once(session_ids, monkeypatch):
    monkeypatch.setattr("audio.upkeep.moving.ROWS_PER_BATCH", 3)
    first, second = session_ids(2)
    make_failed(first)
    pass_time()
    assert tidy() == Swept(removed_journals=1, moved_sessions=2)
    assert (read(first), read(second)) == (PAYLOADS, PAYLOADS)


def test_batches_are_bounded_by_their_bytes(session_ids, monkeypatch):
    monkeypatch.setattr("audio.upkeep.moving._BATCH_BYTES", 700)
    (key,) = session_ids(1)
    pass_time()
    tidy()
    assert read(key) == PAYLOADS
    commits = [record for record in scan(own_files(key)[0]) if record.header.type is RecordType.COMMIT]
    assert len(commits) == 10


# While others are at work


def test_a_reader_whose_rows_were_read_before_the_move_finds_the_chunks(session_ids):
    (key,) = session_ids(1)
    window = chunks.window_after(key, 0)
    pass_time()
    assert tidy().removed_journals == 1
    assert [chunk.payload for chunk in chunks.read(window)] == PAYLOADS


def test_a_reader_in_the_middle_of_a_window_finds_the_chunks(session_ids):
    (key,) = session_ids(1)
    reading = chunks.read(chunks.window_after(key, 0))
    found = [next(reading).payload]
    pass_time()
    assert tidy().removed_journals == 1
    assert found + [chunk.payload for chunk in reading] == PAYLOADS


def test_a_session_that_is_deleted_during_its_move_leaves_nothing(session_ids, monkeypatch):
    (key,) = session_ids(1)
    pass_time()
    append = JournalWriter.append

    def deleted_meanwhile(self, buffers):
        append(self, buffers)
        upkeep.delete_session(key)

    monkeypatch.setattr(JournalWriter, "append", deleted_meanwhile)
    tidy()
    assert not paths.folder(key).exists()
    assert not any(payload in path.read_bytes() for path in files() for payload in PAYLOADS)
    pass_time()
    tidy()
    assert (files(), JournalFile.objects.count()) == ([], 0)


def test_a_deleted_session_takes_its_own_journal_along(session_ids):
    (key,) = session_ids(1)
    pass_time()
    tidy()
    assert len(own_files(key)) == 1
    upkeep.delete_session(key)
    assert files() == []
    assert list(JournalFile.objects.filter(removed_at=None)) == []


def test_a_recording_that_is_made_anew_at_the_last_moment_keeps_its_chunks(session_ids, monkeypatch):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    unknown_content = journals._unknown_content

    def rebuilt_meanwhile(journal):
        rebuild(key)
        return unknown_content(journal)

    monkeypatch.setattr(journals, "_unknown_content", rebuilt_meanwhile)
    assert tidy() == Swept()
    concatenate.concatenate(key)
    assert Recording.objects.get(pk=key).state == "ready"


def test_a_dry_run_says_what_would_go_and_touches_nothing(session_ids):
    ready, failed = session_ids(2)
    make_ready(ready)
    make_failed(failed)
    pass_time()
    before = list(JournalFile.objects.values()), files(), Recording.objects.filter(pk=ready).values().get()
    would = upkeep.sweep_all(dry_run=True).swept()
    assert (would.removed_journals, would.moved_sessions) == (1, 1)
    after = list(JournalFile.objects.values()), files(), Recording.objects.filter(pk=ready).values().get()
    assert after == before


# Death at every step


class KilledError(BaseException):
    """Stands for SIGKILL."""


class Trigger:
    """Lets the nth call of a function not be begun, or be the last that is done."""

    def __init__(self, monkeypatch, owner, name: str, before: bool, dies_at: int) -> None:
        self.fired = False
        self._function, self._before, self._left = getattr(owner, name), before, dies_at
        monkeypatch.setattr(owner, name, lambda *arguments, **options: self(*arguments, **options))

    def __call__(self, *arguments, **options):
        self._left -= 1
        self.fired = self.fired or self._left == 0
        if self._left == 0 and self._before:
            raise KilledError
        result = self._function(*arguments, **options)
        if self._left == 0:
            raise KilledError
        return result


STEPS = [
    (Manager, "create", "after"),
    (JournalWriter, "_create", "after"),
    (JournalWriter, "append", "before"),
    (JournalWriter, "append", "after"),
    (QuerySet, "bulk_update", "before"),
    (QuerySet, "bulk_update", "after"),
    (journals, "_unlink", "before"),
    (Path, "unlink", "after"),
]


@pytest.mark.parametrize(("owner", "name", "when"), STEPS, ids=[f"{when} {name}" for _, name, when in STEPS])
def test_whoever_dies_loses_no_chunk_and_the_next_goes_on(session_ids, monkeypatch, owner, name, when):
    monkeypatch.setattr("audio.upkeep.moving.ROWS_PER_BATCH", 8)
    ready, failed, still_open = session_ids(3)
    make_ready(ready)
    make_failed(failed)
    pass_time()
    dies_at, fired = 1, True
    while fired:
        with monkeypatch.context() as patch, contextlib.suppress(KilledError):
            trigger = Trigger(patch, owner, name, when == "before", dies_at)
            tidy()
        fired = trigger.fired
        assert (read(failed), read(still_open)) == (PAYLOADS, PAYLOADS)
        JournalFile.objects.update(checked_at=None)
        dies_at += 1
    assert dies_at > 2
    pass_time(days=2)
    upkeep.sweep_all()
    assert (read(failed), read(still_open)) == (PAYLOADS, PAYLOADS)
    assert files() == sorted(own_files(failed) + own_files(still_open))
    present = JournalFile.objects.filter(removed_at=None).values_list("name", flat=True)
    assert sorted(present) == [str(path.relative_to(paths.root())) for path in files()]


def test_unknown_chunks_behind_damage_keep_their_journal(recorded):
    kept, lost = recorded.open(), recorded.open()
    recorded.store(kept, *PAYLOADS[:5])
    recorded.store(lost, *PAYLOADS[5:])
    recorded.committer.stop()
    make_ready(kept.session_id)
    AudioChunk.objects.filter(session=lost.session_id).delete()
    AudioSession.objects.filter(pk=lost.session_id).delete()
    path = recorded.journal
    known = [record for record in scan(path) if record.header.session_id == kept.session_id]
    behind = next(record for record in scan(path) if record.offset >= known[-1].end)
    with path.open("r+b") as file:
        file.seek(behind.offset + 8)
        file.write(b"damaged")
    pass_time()
    assert tidy().removed_journals == 0
    assert path.exists()


def test_a_recording_that_was_just_made_anew_keeps_its_chunks_for_its_days(session_ids, monkeypatch):
    (key,) = session_ids(1)
    make_ready(key)
    pass_time()
    mark_removed = journals._mark_removed

    def made_anew_meanwhile(journal, kept):
        rebuild(key)
        concatenate.concatenate(key)
        return mark_removed(journal, kept)

    monkeypatch.setattr(journals, "_mark_removed", made_anew_meanwhile)
    assert tidy() == Swept()
    assert len(read(key)) == len(PAYLOADS)
