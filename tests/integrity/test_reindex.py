"""The rows again from the journals alone: what was acknowledged is back in its place, and what is there stays."""

import errno
import json
import os
import random
import time
import uuid
from typing import Any

import pytest

from audio import ingest, pages, upkeep
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from audio.dispatch import CONCATENATE
from audio.errors import DatabaseUnavailableError
from audio.ingest import sessions
from audio.ingest.types import Producer
from audio.integrity import survey, verify
from audio.integrity.reindex import completion, journal, reindex, rows
from audio.journal.files import scan
from audio.journal.records import HEADER_BYTES, RecordType
from audio.models import AudioChunk, AudioSession, AudioSource, DeletedSession, JournalFile, Marker, Project, Recording
from audio.storage import paths, session_file
from audio.wire.parameters import ConnectionRequest, Details
from tests.broker import requests_for
from tests.recorded import Recorded, corrupt
from tests.sound import speech

pytestmark = pytest.mark.database


def chunks(seed: int, count: int) -> list[bytes]:
    noise = random.Random(seed)
    return [noise.randbytes(320) for _ in range(count)]


def unavailable(*_: object) -> None:
    raise DatabaseUnavailableError


def brought_back(recorded: Recorded, session_id: uuid.UUID) -> list[bytes]:
    return recorded.payloads(session_id)


@pytest.fixture
def lost(recorded):
    """Stops all processes in good order and loses the database."""

    def lose() -> None:
        recorded.stop()
        recorded.lose_the_database()

    return lose


def test_everything_is_as_it_was(recorded, lost):
    pcm = [speech(0.1, seed=number).tobytes() for number in range(5)]
    one = recorded.session(*pcm, source="one", encoding="s16le", sample_rate=8000, channels=2)
    unnamed = recorded.session(*chunks(1, 3), chunks="stream")
    before: dict = {key: dict(AudioSession.objects.filter(pk=key).values().get()) for key in (one, unnamed)}
    recordings = {key: recorded.path(key).read_bytes() for key in (one, unnamed)}
    lost()
    recorded.lose_the_recordings()
    done = reindex()
    assert (done.sessions, done.chunks, done.journals, done.uncertain_sessions) == (2, 8, 1, 0)
    assert (done.in_flight_chunks, done.rejected_chunks, done.problems.count) == (0, 0, 0)
    for key, row in before.items():
        now: dict = dict(AudioSession.objects.filter(pk=key).values().get())
        # When exactly it ended is not in the journals.
        changed = {name for name, value in now.items() if value != row[name]}
        # What the media have decided since they decide again.
        assert changed - {"undecided"} == {"recovered", "end_time", "last_chunk_at"}
        assert (now["recovered"], now["end_time"]) == ("exact", now["last_chunk_at"])
        assert requests_for(key)[-1] == CONCATENATE
        concatenate(key)
        assert recorded.path(key).read_bytes() == recordings[key]
        assert verify.session(key).problems.first == []
    assert dict(AudioSource.objects.values_list("name", "chunk_count")) == {"one": 5, "": 0}
    assert [problem for name in survey.journal_names() for problem in survey.journal(name).problems.first] == []


def test_chunks_of_several_processes_stand_in_their_sequence(recorded, lost):
    mine, other = recorded.open("one"), recorded.open("one")
    theirs = recorded.resume(mine, "two")
    first = recorded.processes[0]
    second = recorded.another_process()
    sent = []
    for number, payload in enumerate(chunks(1, 20)):
        process, producer = (first, mine) if number % 3 else (second, theirs)
        process.store(producer, payload)
        sent.append(payload)
    first.store(other, b"other")
    lost()
    done = reindex()
    assert (done.sessions, done.chunks, done.journals, done.uncertain_sessions) == (2, 21, 2, 0)
    assert brought_back(recorded, mine.session_id) == sent
    assert brought_back(recorded, other.session_id) == [b"other"]


def test_what_was_acknowledged_last_is_kept_when_its_process_was_killed(recorded, lost):
    producer = recorded.open("one")
    recorded.store(producer, *chunks(1, 3))
    recorded.store(producer, b"acknowledged, and no commit record names it")
    recorded.processes.pop().kill()
    lost()
    assert reindex(is_dry_run=True).as_dict() | {"problems": None} == {
        "journals": 1, "sessions": 1, "uncertain_sessions": 1, "known_sessions": 0, "extended_sessions": 0,
        "deleted_sessions": 0, "chunks": 4, "in_flight_chunks": 1,
        "rejected_chunks": 0, "problem_count": 0, "problems": None,
    }  # fmt: skip
    assert AudioSession.objects.count() == AudioChunk.objects.count() == JournalFile.objects.count() == 0
    assert reindex().in_flight_chunks == 1
    assert brought_back(recorded, producer.session_id)[-1].startswith(b"acknowledged")
    assert AudioSession.objects.get(pk=producer.session_id).recovered == "uncertain"


def test_what_was_acknowledged_last_and_is_damaged_is_missed(recorded, lost):
    """No commit record names it, and it can't be read: the session may lack a chunk, and says so."""
    producer = recorded.open()
    recorded.store(producer, *chunks(1, 3))
    recorded.store(producer, b"acknowledged, and no commit record names it")
    row = AudioChunk.objects.select_related("journal").get(session=producer.session_id, sequence=4)
    recorded.processes.pop().kill()
    corrupt(recorded.root / row.journal.name, row.offset + HEADER_BYTES)
    lost()
    done = reindex()
    problems = [(problem.code, problem.session_id, problem.offset) for problem in done.problems.first]
    assert problems == [("chunk_damaged", str(producer.session_id), row.offset)]
    assert (done.chunks, done.in_flight_chunks, done.uncertain_sessions) == (3, 0, 1)
    assert AudioSession.objects.get(pk=producer.session_id).recovered == "uncertain"


@pytest.mark.parametrize("was_taken", [True, False])
def test_a_later_connection_tells_what_was_taken_of_an_earlier_one(recorded, lost, monkeypatch, was_taken):
    """A chunk is in flight when its process dies. The client sends it again only if it was not taken."""
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    recorded.store(producer, b"two")
    if was_taken:
        recorded.store(producer, b"three")
    else:
        monkeypatch.setattr(recorded.processes[-1].rows, "commit", unavailable)
        recorded.processes[-1].store(producer, b"three")
    recorded.processes.pop().kill()
    recorded.another_process()
    again = recorded.resume(producer, "one")
    recorded.store(again, *([b"four"] if was_taken else [b"three", b"four"]))
    lost()
    done = reindex()
    assert (done.chunks, done.in_flight_chunks, done.rejected_chunks) == (4, int(was_taken), int(not was_taken))
    assert brought_back(recorded, producer.session_id) == [b"one", b"two", b"three", b"four"]
    assert AudioSession.objects.get(pk=producer.session_id).recovered == ("uncertain" if was_taken else "exact")


def test_chunks_in_flight_fill_the_holes_that_they_left(recorded, lost):
    """Another process goes on with the session: its commit records tell how many places are missing."""
    mine = recorded.open()
    recorded.store(mine, b"one")
    theirs = recorded.resume(mine)
    recorded.store(mine, b"two")
    recorded.processes.pop().kill()
    recorded.another_process()
    recorded.store(theirs, b"three")
    recorded.store(theirs, b"four")
    lost()
    assert reindex().in_flight_chunks == 1
    assert brought_back(recorded, mine.session_id) == [b"one", b"two", b"three", b"four"]


def test_chunks_in_flight_stay_in_the_order_of_their_source_whatever_the_clocks_say(recorded, lost, monkeypatch):
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    now_ns = time.time_ns()
    with monkeypatch.context() as patched:
        patched.setattr("tests.recorded.time.time_ns", lambda: now_ns + 3600 * 10**9)
        recorded.store(producer, b"two, by a clock that is an hour ahead")
    recorded.processes.pop().kill()
    recorded.another_process()
    again = recorded.resume(producer, "one")
    recorded.store(again, b"three")
    recorded.processes.pop().kill()
    recorded.another_process()
    recorded.store(recorded.resume(producer, "one"), b"four")
    lost()
    assert reindex().in_flight_chunks == 2
    assert [payload[:3] for payload in brought_back(recorded, producer.session_id)] == [b"one", b"two", b"thr", b"fou"]


def test_rows_that_are_there_are_not_touched(recorded, lost):
    kept = recorded.session(*chunks(1, 3))
    gone = recorded.session(*chunks(2, 3))
    recorded.stop()
    AudioSession.objects.filter(pk=gone).delete()
    before = list(AudioChunk.objects.values()), AudioSession.objects.filter(pk=kept).values().get()
    done = reindex()
    assert (done.sessions, done.known_sessions) == (1, 1)
    assert list(AudioChunk.objects.filter(session=kept).values()) == before[0]
    assert AudioSession.objects.filter(pk=kept).values().get() == before[1]
    assert brought_back(recorded, gone) == chunks(2, 3)
    again = reindex()
    assert (again.sessions, again.known_sessions) == (0, 2)


def test_a_run_that_died_is_begun_anew(recorded, lost, monkeypatch):
    sent = chunks(1, 10)
    key = recorded.session(*sent)
    recorded.processes.pop().kill()
    lost()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "ROWS_PER_STATEMENT", 3)
    monkeypatch.setattr(rows, "ROWS_PER_STATEMENT", 3)
    monkeypatch.setattr(pages, "ROWS_PER_PAGE", 3)
    for step in ("in_flight_rows", "complete_source"):
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            broken.setattr(completion, step, die)
            reindex()
        session = AudioSession.objects.get(pk=key)
        assert (session.recovered, session.total_chunks, session.status) == ("pending", 0, "completed")
        # Nobody takes it for complete meanwhile.
        concatenate(key)
        assert recorded.recording(key).state == "empty"
    reindex()
    assert brought_back(recorded, key) == sent
    session.refresh_from_db()
    assert (session.recovered, session.total_chunks) == ("uncertain", 10)


def test_deleted_sessions_and_rejected_chunks_are_not_brought_back(recorded, lost):
    deleted = recorded.session(*chunks(1, 3))
    kept = recorded.open()
    recorded.store(kept, b"taken")
    recorded.close(kept)
    recorded.processes[-1].store(kept, b"rejected")
    upkeep.delete_session(deleted)
    lost()
    done = reindex()
    assert (done.sessions, done.chunks, done.problems.count) == (1, 1, 0)
    assert brought_back(recorded, kept.session_id) == [b"taken"]


def test_a_damaged_chunk_keeps_its_place_and_is_told(recorded, lost):
    key = recorded.session(*chunks(1, 3))
    row = AudioChunk.objects.select_related("journal").get(session=key, sequence=2)
    corrupt(recorded.root / row.journal.name, row.offset + HEADER_BYTES)
    lost()
    problems = [(problem.code, problem.sequence) for problem in reindex().problems.first]
    assert problems == [("chunk_damaged", 2)]
    concatenate(key)
    assert recorded.recording(key).failed_sequence == 2


def test_a_lost_header_leaves_a_hole_and_what_was_made_is_put_aside(recorded, lost):
    key = recorded.session(*chunks(1, 3))
    made = recorded.path(key).read_bytes()
    row = AudioChunk.objects.select_related("journal").get(session=key, sequence=2)
    corrupt(recorded.root / row.journal.name, row.offset + 8)
    lost()
    done = reindex()
    assert [problem.code for problem in done.problems.first] == ["record_damaged", "chunks_lost"]
    assert list(AudioChunk.objects.filter(session=key).values_list("sequence", flat=True)) == [1, 3]
    concatenate(key)
    recording = recorded.recording(key)
    assert (recording.state, recording.failed_sequence) == ("failed", 2)
    assert AudioSession.objects.get(pk=key).recovered == "uncertain"
    folder = recorded.root / "sessions" / key.hex[:2] / str(key)
    assert [path.read_bytes() for path in (folder / "aside").iterdir()] == [made]


@pytest.mark.parametrize("has_another", [False, True])
def test_a_session_record_that_is_lost(recorded, lost, has_another):
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    if has_another:
        recorded.another_process()
        recorded.store(producer, b"two")
    path = recorded.root / JournalFile.objects.order_by("pk").first().name
    described = next(record for record in scan(path) if record.header.type is RecordType.SESSION)
    corrupt(path, described.offset + HEADER_BYTES)
    lost()
    done = reindex()
    codes = [problem.code for problem in done.problems.first]
    if has_another and done.sessions:
        assert codes == ["record_damaged"]
        assert brought_back(recorded, producer.session_id) == [b"one", b"two"]
    else:
        assert codes == ["record_damaged", "session_unknown"]
        assert AudioSession.objects.count() == 0


def test_a_recording_row_and_counters_are_there(recorded, lost):
    producer = recorded.open("one")
    recorded.store(producer, b"12", b"345")
    lost()
    reindex()
    session = AudioSession.objects.get(pk=producer.session_id)
    assert (session.total_chunks, session.byte_count, session.status, session.user_id) == (
        2,
        5,
        "completed",
        "somebody",
    )
    assert Recording.objects.get(pk=producer.session_id).state == "empty"


# What the counts of a source tell


def test_what_was_acknowledged_before_a_failed_flush_of_others_comes_back(recorded, lost, monkeypatch):
    """Its commit record was to be written with the next batch, which failed; its connection went on elsewhere."""
    mine, other = recorded.open("one"), recorded.open("other")
    recorded.store(mine, b"one")
    recorded.store(mine, b"two, acknowledged")
    real = os.writev

    def fail_once(handle, buffers):
        monkeypatch.setattr(os, "writev", real)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", fail_once)
    recorded.processes[-1].store(other, b"rejected: storage_full")
    recorded.store(mine, b"three")
    recorded.store(mine, b"four")
    again = recorded.resume(mine, "one")
    recorded.store(again, b"five")
    before = recorded.payloads(mine.session_id)
    assert len(before) == 5
    lost()
    done = reindex()
    assert (done.problems.first, done.in_flight_chunks) == ([], 1)
    assert brought_back(recorded, mine.session_id) == before


def test_chunks_that_the_next_connection_was_rejected_do_not_count(recorded, lost, monkeypatch):
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    recorded.store(producer, b"two")
    monkeypatch.setattr(recorded.processes[-1].rows, "commit", unavailable)
    recorded.processes[-1].store(producer, b"three")
    recorded.processes.pop().kill()
    recorded.another_process()
    again = recorded.resume(producer, "one")
    sessions.pause_session(producer.session_id)
    recorded.processes[-1].store(again, b"rejected while paused")
    sessions.resume_session(producer.session_id)
    third = recorded.resume(producer, "one")
    recorded.store(third, b"three")
    recorded.store(third, b"four")
    lost()
    assert reindex().rejected_chunks == 1
    assert brought_back(recorded, producer.session_id) == [b"one", b"two", b"three", b"four"]
    assert AudioSession.objects.get(pk=producer.session_id).recovered == "exact"


# An older backup of the database


@pytest.fixture
def backup(recorded):
    """Takes a backup of what the database knows of a session, to be put back."""

    def take(session_id: uuid.UUID):
        def rows(model, **which):
            return list(model.objects.filter(**which).values())

        models: dict[Any, dict[str, Any]] = {
            AudioSession: {"pk": session_id}, AudioSource: {"session": session_id}, AudioChunk: {"session": session_id},
            Recording: {"pk": session_id}, JournalFile: {},
        }  # fmt: skip
        saved = {model: rows(model, **which) for model, which in models.items()}

        def put_back() -> None:
            recorded.stop()
            recorded.lose_the_database()
            for model, values in saved.items():
                model.objects.bulk_create(model(**value) for value in values)

        return put_back

    return take


def test_a_session_that_an_older_backup_knows_gets_its_chunks(recorded, backup):
    producer = recorded.open("one")
    sent = chunks(1, 12)
    for payload in sent[:6]:
        recorded.store(producer, payload)
    concatenate(producer.session_id)
    put_back = backup(producer.session_id)
    for payload in sent[6:]:
        recorded.store(producer, payload)
    key = recorded.close(producer)
    made = recorded.path(key).read_bytes()
    put_back()
    dry = reindex(is_dry_run=True)
    assert (dry.extended_sessions, dry.chunks, AudioChunk.objects.count()) == (1, 6, 6)
    done = reindex()
    assert (done.sessions, done.extended_sessions, done.chunks, done.problems.count) == (0, 1, 6, 0)
    assert brought_back(recorded, key) == sent
    session, source = AudioSession.objects.get(pk=key), AudioSource.objects.get(session=key)
    assert (session.total_chunks, session.byte_count, session.recovered) == (12, 12 * 320, "exact")
    assert (session.status, source.chunk_count) == ("active", 12)
    assert requests_for(key)[-1] == CONCATENATE
    sessions.close_session(key)
    concatenate(key)
    assert recorded.path(key).read_bytes() == made
    assert verify.session(key).problems.first == []
    again = reindex()
    assert (again.extended_sessions, again.known_sessions, again.chunks) == (0, 1, 0)


def test_a_recording_that_was_made_anew_since_the_backup_is_made_again(recorded, backup):
    producer = recorded.open("one")
    recorded.store(producer, *chunks(1, 6))
    key = recorded.close(producer)
    made = recorded.path(key).read_bytes()
    put_back = backup(key)
    rebuild(key)
    concatenate(key)
    put_back()
    assert not recorded.path(key).exists()
    assert reindex().known_sessions == 1
    assert requests_for(key)[-1] == CONCATENATE
    concatenate(key)
    assert recorded.path(key).read_bytes() == made
    assert verify.session(key).problems.first == []


def test_what_was_in_flight_behind_an_older_backup_comes_back_too(recorded, backup):
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    put_back = backup(producer.session_id)
    recorded.store(producer, b"two")
    recorded.store(producer, b"three, and no commit record names it")
    recorded.processes.pop().kill()
    recorded.another_process()
    put_back()
    done = reindex()
    assert (done.extended_sessions, done.chunks, done.in_flight_chunks) == (1, 2, 1)
    assert [payload[:3] for payload in brought_back(recorded, producer.session_id)] == [b"one", b"two", b"thr"]
    session = AudioSession.objects.get(pk=producer.session_id)
    assert (session.total_chunks, session.recovered) == (3, "uncertain")


def test_what_was_in_flight_behind_an_older_backup_comes_back_if_it_is_all_that_is_new(recorded, backup):
    producer, other = recorded.open(), recorded.open()
    recorded.store(producer, b"one")
    put_back = backup(producer.session_id)
    recorded.store(other, b"of a session that the backup does not know")
    recorded.store(producer, b"two, and no commit record names it")
    recorded.processes.pop().kill()
    recorded.another_process()
    put_back()
    done = reindex()
    assert (done.sessions, done.extended_sessions, done.in_flight_chunks) == (1, 1, 1)
    assert [payload[:3] for payload in brought_back(recorded, producer.session_id)] == [b"one", b"two"]
    assert AudioSession.objects.get(pk=producer.session_id).recovered == "uncertain"
    again = reindex()
    assert (again.extended_sessions, again.chunks) == (0, 0)


def test_a_source_that_an_older_backup_does_not_know_comes_back(recorded, backup):
    producer = recorded.open("one")
    recorded.store(producer, b"one")
    put_back = backup(producer.session_id)
    other = recorded.resume(producer, "two")
    recorded.store(other, b"two")
    put_back()
    assert reindex().extended_sessions == 1
    assert brought_back(recorded, producer.session_id) == [b"one", b"two"]
    assert dict(AudioSource.objects.values_list("name", "chunk_count")) == {"one": 1, "two": 1}


def test_two_chunks_that_claim_one_place_are_told(recorded, lost, backup):
    """An older backup was put in place, recording went on with it, and then the database was lost."""
    producer = recorded.open("one")
    recorded.store(producer, b"1", b"2")
    put_back = backup(producer.session_id)
    recorded.store(producer, b"3 of the first life")
    put_back()
    recorded.another_process()
    again = recorded.resume(producer, "one")
    recorded.store(again, b"3 of the second life")
    recorded.store(again, b"4")
    known = reindex(is_dry_run=True)
    assert [(problem.code, problem.sequence) for problem in known.problems.first] == [("place_taken", 3)]
    lost()
    done = reindex()
    assert [(problem.code, problem.sequence) for problem in done.problems.first] == [("place_taken", 3)]
    assert AudioSession.objects.get(pk=producer.session_id).recovered == "uncertain"
    assert len(brought_back(recorded, producer.session_id)) == 4


def test_a_session_that_was_deleted_stays_so_whatever_is_left_of_it(recorded, lost):
    """One of its journals was not erased: it was away, say, and is back."""
    producer = recorded.open("one")
    recorded.store(producer, *chunks(1, 3))
    path = recorded.root / JournalFile.objects.get().name
    recorded.another_process()
    recorded.store(producer, *chunks(2, 3))
    recorded.close(producer)
    recorded.stop()
    kept = path.read_bytes()
    upkeep.delete_session(producer.session_id)
    path.write_bytes(kept)
    assert reindex().as_dict() | {"problems": None} == reindex(is_dry_run=True).as_dict() | {"problems": None}
    assert (reindex().deleted_sessions, AudioSession.objects.count()) == (1, 0)
    # The database too: the erased records say it.
    lost()
    DeletedSession.objects.all().delete()
    done = reindex()
    assert (done.sessions, done.deleted_sessions) == (0, 1)
    assert (AudioSession.objects.count(), AudioChunk.objects.count()) == (0, 0)


def test_a_recording_that_is_longer_than_the_journals_know_is_kept(recorded, lost):
    producer = recorded.open("one")
    first = chunks(1, 3)
    recorded.store(producer, *first)
    recorded.another_process()
    recorded.store(producer, *chunks(2, 3))
    key = recorded.close(producer)
    made = recorded.path(key).read_bytes()
    later = JournalFile.objects.order_by("pk").last().name
    lost()
    # Released, after its days.
    (recorded.root / later).unlink()
    reindex()
    concatenate(key)
    assert recorded.path(key).read_bytes()[-960:] == b"".join(first)
    assert AudioSession.objects.get(pk=key).recovered == "uncertain"
    folder = recorded.root / "sessions" / key.hex[:2] / str(key)
    assert [path.read_bytes() for path in (folder / "aside").iterdir()] == [made]
    assert [problem.code for problem in verify.session(key).problems.first] == ["recording_aside"]


# Details and projects

DETAILS = {"name": "Interview 1", "metadata": {"room": "4"}}


def described(session_id: uuid.UUID) -> tuple[Any, ...]:
    row = AudioSession.objects.select_related("project").get(pk=session_id)
    return row.project.name, row.name, row.metadata, row.retention_days, row.legal_hold


def in_project(recorded: Recorded, project: str, **details: Any) -> Producer:
    made = sessions.create_session(sessions.default_parameters(), details=Details(**details))
    AudioSession.objects.filter(pk=made.pk).update(project=Project.objects.create(name=project))
    return sessions.open_connection(ConnectionRequest({}), made.pk, recorded.processes[0].id).producer


def test_details_and_the_project_are_restored(recorded, lost, client):
    producer = in_project(recorded, "clinic", **DETAILS, retention_days=30, legal_hold=True)
    recorded.store(producer, b"one")
    lost()
    Project.objects.filter(name="clinic").delete()
    assert reindex(is_dry_run=True).problems.count == 0
    assert not Project.objects.filter(name="clinic").exists()
    assert reindex().sessions == 1
    assert described(producer.session_id) == ("clinic", "Interview 1", {"room": "4"}, 30, True)
    found = client.get("/api/audio/sessions", {"metadata.room": "4", "name": "Inter", "project": "clinic"}).json()
    assert [each["session_id"] for each in found["results"]] == [str(producer.session_id)]


def test_a_project_that_is_there_gets_its_session_back(recorded, lost):
    producer = in_project(recorded, "clinic")
    recorded.store(producer, b"one")
    lost()
    assert reindex().sessions == 1
    assert Project.objects.filter(name="clinic").count() == 1
    assert described(producer.session_id)[0] == "clinic"


def test_details_that_were_changed_after_the_audio_came(recorded, lost):
    producer = in_project(recorded, "clinic", **DETAILS, legal_hold=True)
    recorded.store(producer, b"one")
    changes = {"name": None, "metadata": {"floor": "2"}, "retention_days": 0, "legal_hold": False}
    ingest.change_details(producer.session_id, changes)
    lost()
    assert reindex().sessions == 1
    assert described(producer.session_id) == ("clinic", None, {"room": "4", "floor": "2"}, 0, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"project": "no such name!"},
        {"project": None},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"retention_days": "many"},
        {"name": "n" * 256},
    ],
)
def test_a_description_that_makes_no_sense_is_reported(recorded, lost, wrong):
    producer = recorded.open()
    producer.description |= wrong
    recorded.store(producer, b"one")
    lost()
    done = reindex()
    assert [problem.code for problem in done.problems.first] == ["session_unknown"]
    assert done.sessions == 0


def test_a_session_of_a_version_without_details(recorded, lost):
    producer = recorded.open()
    for name in ("project", "name", "metadata", "retention_days", "legal_hold"):
        del producer.description[name]
    recorded.store(producer, b"one")
    lost()
    assert reindex().sessions == 1
    assert described(producer.session_id) == ("default", None, {}, None, False)


def test_a_file_of_details_that_is_damaged(recorded, lost):
    producer = in_project(recorded, "clinic", **DETAILS)
    recorded.store(producer, b"one")
    ingest.change_details(producer.session_id, {"name": "Interview 2"})
    (paths.folder(producer.session_id) / session_file.NAME).write_text("{")
    lost()
    done = reindex()
    assert [problem.code for problem in done.problems.first] == ["record_damaged"]
    assert described(producer.session_id)[1] == "Interview 1"


def marked(session_id: uuid.UUID) -> list[tuple[Any, ...]]:
    markers = Marker.objects.filter(session=session_id)
    return list(markers.values_list("pk", "label", "after_sequence", "position_seconds", "created_at"))


PCM: dict[str, Any] = {"format": "wav", "sample_rate": 16000, "channels": 1, "encoding": "s16le"}
MARKER = {
    "id": "123e4567-e89b-42d3-a456-426614174000",
    "label": "x",
    "after_sequence": None,
    "position_seconds": 0.5,
    "created_at": "2026-01-01T00:00:00+00:00",
}


def test_markers_come_back_with_their_positions(recorded, lost):
    producer = recorded.open(**PCM)
    recorded.store(producer, bytes(16000))
    ingest.add_marker(producer.session_id, "half 🎤", producer=producer)
    recorded.store(producer, bytes(16000))
    by_seconds = ingest.add_marker(producer.session_id, "by seconds", 0.75)
    gone = ingest.add_marker(producer.session_id, "gone", 0.1)
    recorded.close(producer)
    ingest.add_marker(producer.session_id, "end")
    ingest.change_marker(by_seconds, {"label": "changed", "position_seconds": 0.25})
    ingest.delete_marker(gone)
    before = marked(producer.session_id)
    assert [position for *_, position, _ in before] == pytest.approx([0.5, 0.25, 1.0])
    lost()
    assert not marked(producer.session_id)
    assert reindex(is_dry_run=True).problems.count == 0
    assert reindex().sessions == 1
    concatenate(producer.session_id)
    assert marked(producer.session_id) == before
    assert reindex().sessions == 0
    assert marked(producer.session_id) == before


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"markers": 5}',
        '{"markers": [{}]}',
        '{"markers": ["x"]}',
        *(
            json.dumps({"markers": [MARKER | wrong]})
            for wrong in (
                {"id": "1"},
                {"label": ""},
                {"label": None},
                {"label": "a\nb"},
                {"position_seconds": None},
                {"position_seconds": -1.0},
                {"position_seconds": "NaN"},
                {"position_seconds": float("inf")},
                {"after_sequence": 5},
                {"created_at": "2026-01-01T00:00:00"},
                {"created_at": "today"},
            )
        ),
    ],
)
def test_a_file_of_markers_that_is_damaged(recorded, lost, text):
    producer = recorded.open()
    recorded.store(producer, b"one")
    ingest.add_marker(producer.session_id, "x", 0.0)
    (paths.folder(producer.session_id) / session_file.MARKERS_NAME).write_text(text)
    lost()
    done = reindex()
    assert [problem.code for problem in done.problems.first] == ["record_damaged"]
    assert done.problems.first[0].file_name.endswith("/markers.json")
    assert done.sessions == 1
    assert not marked(producer.session_id)
