"""Journals against rows and files against rows: what is sound is found sound, every loss is found and named."""

import shutil
import uuid

import pytest

from audio import pages, upkeep
from audio.ingest import sessions
from audio.integrity import survey
from audio.jobs import rows, run
from audio.journal.files import scan
from audio.journal.records import RecordType
from audio.models import AudioChunk, AudioSession, BackgroundTask, JournalFile, Recording, TaskKind
from tests.recorded import Recorded, corrupt

pytestmark = pytest.mark.database

PCM = [bytes([number]) * 320 for number in range(1, 6)]


def found_in_journals() -> list[tuple[str, str, int | None]]:
    return [
        (problem.code, problem.session_id or "", problem.sequence)
        for name in survey.journal_names()
        for problem in survey.journal(name).problems.first
    ]


def found_in_storage() -> list[tuple[str, str]]:
    return [(problem.code, problem.file_name or "") for problem in survey.orphans().problems.first]


@pytest.fixture
def session_id(recorded: Recorded) -> uuid.UUID:
    """A session whose chunks share two journals with those of another."""
    mine, other = recorded.open("one"), recorded.open()
    for payload in PCM[:3]:
        recorded.store(other, payload)
        recorded.store(mine, payload)
    recorded.processes[-1].kill()
    recorded.processes.pop()
    recorded.another_process()
    mine = recorded.resume(mine, "one")
    recorded.store(mine, *PCM[3:])
    recorded.close(other)
    return recorded.close(mine)


def journal_of(recorded: Recorded, session_id: uuid.UUID, sequence: int):
    row = AudioChunk.objects.select_related("journal").get(session=session_id, sequence=sequence)
    return recorded.root / row.journal.name, row.offset


def test_sound_journals_also_while_a_process_writes(recorded, session_id):
    assert found_in_journals() == []
    assert sum(survey.journal(name).count for name in survey.journal_names()) == 8
    recorded.stop()
    assert found_in_journals() == []


def test_rejected_chunks_and_deleted_sessions_are_no_loss(recorded, session_id):
    producer = recorded.open()
    recorded.store(producer, b"taken")
    sessions.close_session(producer.session_id)
    recorded.processes[-1].store(producer, b"rejected")
    upkeep.delete_session(session_id)
    recorded.stop()
    assert found_in_journals() == []


def test_a_torn_tail_is_what_a_crash_leaves(recorded, session_id):
    path, _ = journal_of(recorded, session_id, 5)
    recorded.stop()
    whole = path.read_bytes()
    last = list(scan(path))[-1]
    path.write_bytes(whole + whole[:50])
    assert found_in_journals() == []
    path.write_bytes(whole + whole[: last.offset - 10])
    path.write_bytes(whole + b"\0" * 500)
    assert found_in_journals() == []


def test_a_row_that_is_lost(recorded, session_id):
    recorded.stop()
    AudioChunk.objects.filter(session=session_id, sequence=2).delete()
    assert found_in_journals() == [("row_missing", str(session_id), 2)]


def test_a_session_that_is_lost(recorded, session_id):
    recorded.stop()
    AudioSession.objects.filter(pk=session_id).delete()
    # The third was in flight when its process ended: only the database knew of it.
    expected = [("row_missing", str(session_id), sequence) for sequence in (1, 2, 4, 5)]
    assert sorted(found_in_journals(), key=lambda problem: problem[2]) == expected


def test_a_row_that_leads_nowhere(recorded, session_id):
    AudioChunk.objects.filter(session=session_id, sequence=2).update(offset=7)
    AudioChunk.objects.filter(session=session_id, sequence=5).update(offset=10**9)
    assert sorted(found_in_journals()) == [
        ("record_missing", "", 2),
        ("record_missing", "", 5),
    ]


def test_rows_in_places_that_the_journal_contradicts(recorded, session_id):
    recorded.stop()
    AudioChunk.objects.filter(session=session_id, sequence=2).update(sequence=77)
    assert found_in_journals() == [("record_contradicts", str(session_id), 2)]


def test_a_damaged_payload(recorded, session_id):
    path, offset = journal_of(recorded, session_id, 4)
    corrupt(path, offset + 64)
    assert found_in_journals() == [("chunk_damaged", str(session_id), 4)]


def test_a_damaged_header_does_not_hide_what_is_behind_it(recorded, session_id):
    path, offset = journal_of(recorded, session_id, 1)
    corrupt(path, offset + 8)
    behind, at = journal_of(recorded, session_id, 2)
    assert path == behind
    corrupt(behind, at + 64)
    assert found_in_journals() == [
        ("record_damaged", "", None),
        ("record_missing", "", 1),
        ("chunk_damaged", str(session_id), 2),
    ]


def test_a_damaged_commit_record(recorded, session_id):
    path, _ = journal_of(recorded, session_id, 1)
    commit = next(record for record in scan(path) if record.header.type is RecordType.COMMIT)
    corrupt(path, commit.offset + 64)
    assert found_in_journals() == [("record_damaged", "", None)]


def test_journals_without_a_row_and_rows_without_a_journal(recorded, session_id):
    path, _ = journal_of(recorded, session_id, 1)
    copy = path.with_name(f"{uuid.uuid4().hex}-000001.journal")
    shutil.copy(path, copy)
    path.unlink()
    problems = [problem for name in survey.journal_names() for problem in survey.journal(name).problems.first]
    assert {(problem.code, problem.file_name) for problem in problems} == {
        ("orphan_journal", str(copy.relative_to(recorded.root))),
        ("journal_missing", str(path.relative_to(recorded.root))),
    }
    JournalFile.objects.create(name="journals/aa/unused.journal", process_id=uuid.uuid4())
    assert survey.journal("journals/aa/unused.journal").problems.count == 0


def test_more_rows_than_are_read_at_once(recorded, session_id, monkeypatch):
    monkeypatch.setattr(pages, "ROWS_PER_PAGE", 2)
    assert found_in_journals() == []
    assert found_in_storage() == []


# Files


def test_a_sound_storage_with_derived_files_and_working_folders(recorded, session_id):
    task = rows.enqueue(AudioSession.objects.get(pk=session_id), TaskKind.WAVEFORM)
    run.run(task.pk)
    folder = recorded.path(session_id).parent
    (folder / "work-1" / "a").mkdir(parents=True)
    (folder / "work-1" / "a" / "b").touch()
    (folder / "derived" / str(uuid.uuid4())).mkdir()
    assert found_in_storage() == []
    assert survey.orphans().count >= 4


@pytest.mark.parametrize("name", ["sessions/aa/not-an-id", "sessions/stray", "sessions/aa/{id}"])
def test_folders_and_files_without_a_session(recorded, session_id, name):
    name = name.format(id=uuid.uuid4())
    path = recorded.root / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir()
    assert found_in_storage() == [("orphan", name)]
    path.rmdir()
    path.touch()
    assert found_in_storage() == [("orphan", name)]


def test_the_folder_of_a_session_that_is_gone(recorded, session_id):
    AudioSession.objects.filter(pk=session_id).delete()
    folder = str(recorded.root.joinpath("sessions", session_id.hex[:2], str(session_id)).relative_to(recorded.root))
    assert found_in_storage() == [("orphan", folder)]


def test_a_file_that_no_row_names(recorded, session_id):
    path = recorded.path(session_id).with_name("stray.wav")
    path.touch()
    assert found_in_storage() == [("orphan", str(path.relative_to(recorded.root)))]
    # While a run may be at work there, it may be that run's.
    Recording.objects.filter(pk=session_id).update(state="building")
    assert found_in_storage() == []


def test_rows_without_their_file(recorded, session_id):
    task = rows.enqueue(AudioSession.objects.get(pk=session_id), TaskKind.WAVEFORM)
    run.run(task.pk)
    derived = BackgroundTask.objects.get(pk=task.pk).file_name
    recording = recorded.recording(session_id).file_name
    (recorded.root / derived).unlink()
    (recorded.root / recording).unlink()
    assert found_in_storage() == [("file_missing", recording), ("file_missing", derived)]
