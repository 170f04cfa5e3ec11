"""Files that no row accounts for: which go, which are named, which nobody may touch."""

import os
import time
import uuid
from pathlib import Path

import pytest

from audio import ingest, upkeep
from audio.assembly import superseded
from audio.journal.files import JournalWriter
from audio.models import AudioSession, BackgroundTask, DeletedSession, JournalFile, Recording
from audio.storage import paths
from audio.storage.lock import LOCK_NAME, file_lock
from audio.upkeep import Swept, leftovers
from audio.upkeep.sweeps import Action, Sweep

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
DAY_SECONDS = 86400


@pytest.fixture(autouse=True)
def root(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path / "audio"
    return settings.AUDIO_STORAGE_PATH


def put(path: Path, content: bytes = b"audio") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pass_a_day(root: Path) -> None:
    yesterday = time.time() - DAY_SECONDS - 1
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (yesterday, yesterday))


def tidy(dry_run: bool = False) -> Sweep:
    sweep = Sweep(dry_run)
    leftovers.tidy_all(sweep)
    return sweep


def make_session() -> uuid.UUID:
    session = AudioSession.objects.create(sample_rate=16000, channels=1, format="wav", status="completed")
    Recording.objects.create(session=session)
    return session.pk


def make_task(session_id: uuid.UUID, **fields) -> BackgroundTask:
    return BackgroundTask.objects.create(session_id=session_id, kind="transcode", format="mp3", **fields)


def test_nothing_is_found_where_nothing_is_left(recorded):
    producer = recorded.open()
    recorded.store(producer, bytes(320))
    ingest.close_session(producer.session_id)
    pass_a_day(recorded.root)
    assert tidy().swept() == Swept()


# Sessions


def test_the_folder_of_an_unknown_session_is_named_and_stays(root):
    """The database may be the one that lost it: after an older backup was put in place, this is the last copy."""
    path = put(paths.folder(uuid.uuid4()) / "master.wav")
    assert tidy().swept() == Swept()
    pass_a_day(root)
    sweep = tidy()
    assert sweep.swept() == Swept(unexplained=1)
    assert path.parent.name in sweep.names[Action.UNEXPLAINED][0]
    assert path.exists()


def test_what_turns_up_of_a_deleted_session_goes_at_once():
    key = make_session()
    upkeep.delete_session(key)
    put(paths.folder(key) / "master.wav")
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert not paths.folder(key).exists()


def test_an_unknown_folder_with_nothing_but_locks_goes_after_a_day(root):
    path = put(paths.folder(uuid.uuid4()) / LOCK_NAME, b"").parent
    (path / "derived").mkdir()
    assert tidy().swept() == Swept()
    pass_a_day(root)
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert not path.exists()


@pytest.mark.parametrize("name", ["notes.txt", "0023E456-7E89-42D3-A456-426614174000", "ff/deeper"])
def test_what_is_not_named_by_us_is_named_and_stays(root, name):
    path = put(root / "sessions" / "00" / name)
    pass_a_day(root)
    assert tidy().swept() == Swept(unexplained=1)
    assert path.exists()


# Runs


def test_the_working_folder_of_a_dead_run_goes_after_a_day(root):
    key = make_session()
    path = put(paths.folder(key) / "work-abc" / "recording.mp3").parent
    recording = put(paths.folder(key) / "master.wav")
    assert tidy().swept() == Swept()
    pass_a_day(root)
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert (path.exists(), recording.exists()) == (False, True)


def test_that_of_a_run_at_work_stays(root):
    key = make_session()
    path = put(paths.folder(key) / "work-abc" / "recording.mp3").parent
    pass_a_day(root)
    with file_lock(paths.folder(key) / LOCK_NAME) as is_ours:
        assert is_ours
        assert tidy().swept() == Swept()
    assert path.exists()


@pytest.mark.parametrize(("state", "goes"), [("pending", False), ("running", False), ("revoked", True)])
def test_the_folder_of_a_task_goes_when_the_task_has_ended(root, state, goes):
    key = make_session()
    task = make_task(key, state=state, is_current=not goes)
    path = put(paths.folder(key) / "derived" / str(task.pk) / "part.mp3").parent
    pass_a_day(root)
    assert tidy().swept() == Swept(removed_leftovers=int(goes))
    assert path.exists() is not goes


def test_what_a_task_has_made_stays_and_what_none_has_goes(root):
    key = make_session()
    task = make_task(key, state="completed")
    made = put(paths.folder(key) / "derived" / f"{task.pk}.mp3")
    BackgroundTask.objects.update(file_name=str(made.relative_to(root)))
    torn = put(paths.folder(key) / "derived" / f"{uuid.uuid4()}.mp3")
    pass_a_day(root)
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert (made.exists(), torn.exists()) == (True, False)


# Journal files


def test_an_unknown_journal_that_holds_nothing_goes_after_a_day(root):
    """Its row could not be made, so nothing was written into it."""
    writer = JournalWriter(root, uuid.uuid4(), 1)
    pass_a_day(root)
    assert tidy().swept() == Swept()
    writer.close()
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert not (root / writer.name).exists()


@pytest.mark.parametrize("place", ["journals/ab", "a session"])
def test_an_unknown_journal_that_holds_something_is_named_and_stays(root, place):
    folder = paths.folder(make_session()) if place == "a session" else root / place
    path = put(folder / "abc.journal")
    pass_a_day(root)
    assert tidy().swept() == Swept(unexplained=1)
    assert path.exists()


@pytest.mark.parametrize("place", ["journals/ab", "a session"])
def test_a_journal_that_was_being_removed_goes(root, place):
    folder = paths.folder(make_session()) if place == "a session" else root / place
    path = put(folder / "abc.journal")
    name = str(path.relative_to(root))
    JournalFile.objects.create(name=name, process_id=uuid.uuid4(), removed_at="2026-01-01T00:00Z")
    assert tidy().swept() == Swept(removed_leftovers=1)
    assert not path.exists()


# Rounds


def test_a_dry_run_removes_nothing(root):
    key = make_session()
    there = [
        put(paths.folder(key) / "work-abc" / "x").parent,
        put(paths.folder(key) / "derived" / "torn.mp3"),
        put(root / "journals" / "ab" / "abc.journal", b""),
        put(paths.folder(uuid.uuid4()) / LOCK_NAME, b"").parent,
    ]
    pass_a_day(root)
    assert tidy(dry_run=True).swept() == Swept(removed_leftovers=4)
    assert all(path.exists() for path in there)


def test_round_after_round_the_whole_storage_is_looked_at(root):
    for prefix in ("00", "7f", "ff"):
        put(root / "journals" / prefix / "abc.journal", b"")
    pass_a_day(root)
    removed = [upkeep.run_chore("leftovers").removed_leftovers for _ in range(256)]
    assert [number for number, count in enumerate(removed) if count] == [0x00, 0x7F, 0xFF]
    put(root / "journals" / "00" / "abc.journal", b"")
    pass_a_day(root)
    assert upkeep.run_chore("leftovers").removed_leftovers == 1


def test_deleted_sessions_are_forgotten_after_a_while():
    DeletedSession.objects.create(pk=uuid.uuid4(), deleted_at="2026-01-01T00:00Z")
    DeletedSession.objects.create(pk=uuid.uuid4())
    tidy()
    assert DeletedSession.objects.count() == 1


def test_what_a_dead_run_has_left_beside_a_ready_recording_goes_after_a_day(stored):
    session = stored(format="wav")
    session.add([bytes(3200)])
    session.made()
    left = session.path.with_name(f"master-{uuid.uuid4()}.wav")
    left.write_bytes(session.path.read_bytes()[:1000])
    other = session.path.with_name("recording.wav")
    other.write_bytes(b"\1" * 1000)
    tidy()
    assert left.exists()
    for path in (left, other):
        os.utime(path, (0, 0))
    tidy()
    assert not left.exists()
    assert [path.read_bytes() for path in superseded.files_aside(session.session.pk)] == [b"\1" * 1000]
    assert session.path.exists()
