"""A deleted session leaves nothing: no row, no file, and no byte of its audio in any journal."""

import asyncio
import contextlib
import random
import uuid
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from audio import upkeep
from audio.assembly.concatenate import concatenate
from audio.errors import DatabaseUnavailableError, SessionClosedError, SessionNotFoundError
from audio.ingest import sessions
from audio.ingest.erasures import erase_own
from audio.ingest.pending import Append
from audio.ingest.types import Accepted
from audio.integrity import survey
from audio.integrity.reindex import reindex
from audio.journal.files import Extent, JournalReader, journal_lock, scan
from audio.models import (
    AudioChunk,
    AudioConnection,
    AudioSession,
    AudioSource,
    IngestProcess,
    JournalErasure,
    JournalFile,
    Recording,
)
from audio.storage import paths
from audio.storage.paths import folder
from audio.upkeep.moving import move
from audio.wire.parameters import ConnectionRequest
from tests.client import Rest, recorder
from tests.conftest import RunServer
from tests.server import eventually

with_rows = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.database


def chunks(seed: int, count: int = 20) -> list[bytes]:
    """Chunks that occur nowhere else."""
    noise = random.Random(seed)
    return [noise.randbytes(320) for _ in range(count)]


def found_on_disk(root: Path, payloads: list[bytes]) -> set[Path]:
    """Returns the files that hold the beginning or the end of one of the payloads."""
    parts = [part for payload in payloads for part in (payload[:16], payload[-16:])]
    contents = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {path for path, content in contents.items() if any(part in content for part in parts)}


def rows_of(session_id: uuid.UUID) -> int:
    owned = (Recording, AudioChunk, AudioSource, AudioConnection)
    return sum(model.objects.filter(session=session_id).count() for model in owned) + int(
        AudioSession.objects.filter(pk=session_id).exists()
    )


def payloads_of(session_id: uuid.UUID, root: Path) -> list[bytes]:
    rows = AudioChunk.objects.filter(session=session_id)
    extents = rows.values_list("journal__name", "offset", "size_bytes", "crc32")
    with JournalReader(root) as reader:
        return [reader.read(Extent(*extent)) for extent in extents]


@with_rows
def test_a_recorded_session_leaves_nothing_and_its_neighbour_is_untouched(recorded):
    doomed, kept = recorded.open(), recorded.open()
    secret, other = chunks(1), chunks(2)
    for mine, theirs in zip(secret, other, strict=True):
        recorded.store(doomed, mine)
        recorded.store(kept, theirs)
    sessions.close_session(doomed.session_id)
    concatenate(doomed.session_id)
    assert Recording.objects.get(pk=doomed.session_id).state == "ready"
    assert len(found_on_disk(recorded.root, secret)) == 2
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(recorded.root, secret) == set()
    assert not list(recorded.root.glob(f"**/{doomed.session_id}"))
    assert rows_of(doomed.session_id) == 0
    assert payloads_of(kept.session_id, recorded.root) == other
    assert recorded.store(kept, b"more") == [Accepted(21, 0)]


@with_rows
def test_the_journal_can_still_be_scanned(recorded):
    doomed, kept = recorded.open(), recorded.open()
    recorded.store(doomed, *chunks(1))
    recorded.store(kept, *chunks(2))
    before = [record.offset for record in scan(recorded.journal)]
    upkeep.delete_session(doomed.session_id)
    after = list(scan(recorded.journal))
    assert [record.offset for record in after] == before
    assert all(record.intact for record in after)
    assert [record.header.session_id for record in after if record.header.erased] == [doomed.session_id] * 20


@with_rows
def test_more_chunks_than_are_taken_at_once(recorded, monkeypatch):
    monkeypatch.setattr("audio.upkeep.removal.ROWS_PER_STATEMENT", 7)
    doomed = recorded.open()
    secret = chunks(1, count=50)
    recorded.store(doomed, *secret)
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(recorded.root, secret) == set()
    assert rows_of(doomed.session_id) == 0


@with_rows
def test_a_deleted_session_takes_no_more_chunks_and_keeps_none_of_them(recorded):
    doomed = recorded.open()
    recorded.store(doomed, b"first")
    upkeep.delete_session(doomed.session_id)
    late = chunks(1)
    assert {type(outcome) for outcome in recorded.store(doomed, *late)} == {SessionNotFoundError}
    assert AudioChunk.objects.count() == 0
    eventually(lambda: found_on_disk(recorded.root, late) == set())
    with pytest.raises(SessionNotFoundError):
        sessions.open_connection(ConnectionRequest({}), doomed.session_id, recorded.process_id)


@with_rows
def test_what_was_rejected_before_the_removal_does_not_outlive_it(recorded):
    """It had reached the journal when the transaction rejected it, and no row leads the removal to it."""
    doomed, kept = recorded.open(), recorded.open()
    recorded.store(doomed, b"first")
    sessions.close_session(doomed.session_id)
    late, other = chunks(1), chunks(2)
    for producer, payload in ((doomed, late[0]), *((kept, payload) for payload in other)):
        recorded.committer.submit(Append(producer, payload, 0, None))
    eventually(lambda: len(recorded.delivered) == 22)
    assert isinstance(recorded.delivered[1][1], SessionClosedError)
    upkeep.delete_session(doomed.session_id)
    eventually(lambda: found_on_disk(recorded.root, late) == set())
    assert payloads_of(kept.session_id, recorded.root) == other


@with_rows
def test_a_session_that_is_not_there():
    with pytest.raises(SessionNotFoundError):
        upkeep.delete_session(uuid.uuid4())


@with_rows
def test_a_removal_that_was_cut_short_is_repeated(recorded, monkeypatch):
    doomed = recorded.open()
    secret = chunks(1)
    recorded.store(doomed, *secret)

    def fail(session_id: uuid.UUID) -> None:
        raise OSError

    with monkeypatch.context() as broken, pytest.raises(OSError):
        broken.setattr("audio.storage.paths.delete_files", fail)
        upkeep.delete_session(doomed.session_id)
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(recorded.root, secret) == set()
    assert rows_of(doomed.session_id) == 0


def test_a_worker_that_goes_on_during_a_deletion_leaves_no_files(stored, monkeypatch):
    session = stored(format="wav")
    session.add([bytes(3200)])
    concatenate(session.session.pk)
    delete_files = paths.delete_files

    def a_run_comes_between(session_id: uuid.UUID) -> None:
        delete_files(session_id)
        concatenate(session_id)

    monkeypatch.setattr(paths, "delete_files", a_run_comes_between)
    upkeep.delete_session(session.session.pk)
    assert not AudioSession.objects.filter(pk=session.session.pk).exists()
    assert not folder(session.session.pk).exists()


async def test_a_session_that_is_deleted_while_it_streams(run_server: RunServer, any_database_url):
    """Through the door: the stream ends, and not even what was on its way to the journal stays."""
    server = run_server(DATABASE_URL=any_database_url, HEARTBEAT_SECONDS="0.3", WINDOW_SECONDS="0.2")
    root = server.folder / "audio"
    sent: list[bytes] = []
    noise = random.Random(1)
    async with recorder(server.ws_url) as kept, recorder(server.ws_url) as doomed:
        await kept.store(*chunks(2))

        async def stream() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    sent.append(noise.randbytes(3200))
                    await doomed.send(sent[-1])
                    await asyncio.sleep(0.001)

        streaming = asyncio.create_task(stream())
        await doomed.answers(200)
        url = f"{server.url}/api/audio/sessions/{doomed.session_id}"
        assert (await asyncio.to_thread(httpx.delete, url, timeout=60)).status_code == 204
        await doomed.close_code()
        await streaming
        assert await kept.store(b"more") == [21]
    await asyncio.to_thread(eventually, lambda: found_on_disk(root, sent) == set())
    rest = Rest(server.url)
    assert rest.http.get(url).status_code == 404
    assert not list(root.glob(f"**/{doomed.session_id}/*"))
    assert rest.session(kept.session_id)["total_chunks"] == 21


# Records that the removal can't reach, or does not know


@pytest.fixture
def elsewhere(recorded):
    """The journal is that of a process on another host."""
    IngestProcess.objects.filter(pk=recorded.process_id).update(host="another")
    return recorded


def erase_what_waits() -> None:
    upkeep.run_chore("erasures")


@with_rows
def test_a_journal_that_another_process_appends_to_is_left_to_it(elsewhere):
    doomed, kept = elsewhere.open(), elsewhere.open()
    secret, other = chunks(1), chunks(2)
    elsewhere.store(doomed, *secret)
    elsewhere.store(kept, *other)
    before = elsewhere.journal.read_bytes()
    upkeep.delete_session(doomed.session_id)
    erase_what_waits()
    assert elsewhere.journal.read_bytes() == before
    assert rows_of(doomed.session_id) == 0
    # Nobody takes what is still there for lost.
    name = str(elsewhere.journal.relative_to(elsewhere.root))
    elsewhere.store(kept, b"one more, so that the commit record is written")
    assert survey.journal(name).problems.first == []
    assert reindex(is_dry_run=True).deleted_sessions == 1
    erase_own(elsewhere.root, elsewhere.process_id)
    assert found_on_disk(elsewhere.root, secret) == set()
    assert payloads_of(kept.session_id, elsewhere.root)[: len(other)] == other
    # Until the file is finished: a chunk may have been on its way into it.
    assert JournalErasure.objects.count() > 0
    elsewhere.committer.stop()
    erase_what_waits()
    assert JournalErasure.objects.count() == 0
    assert payloads_of(kept.session_id, elsewhere.root)[: len(other)] == other


@with_rows
def test_when_the_other_process_has_died_whoever_comes_erases(elsewhere):
    doomed, secret = elsewhere.open(), chunks(1)
    elsewhere.store(doomed, *secret)
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(elsewhere.root, secret) == {elsewhere.journal}
    elsewhere.committer.stop()
    erase_what_waits()
    assert found_on_disk(elsewhere.root, secret) == set()


@with_rows
def test_a_chunk_whose_commit_failed_goes_with_its_session(recorded, monkeypatch):
    doomed, kept = recorded.open(), recorded.open()
    secret, other = chunks(1, 2), chunks(2, 2)
    recorded.store(kept, *other)

    def unavailable(*_):
        raise DatabaseUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(recorded.committer._rows, "commit", unavailable)
        recorded.store(doomed, *secret)
    assert found_on_disk(recorded.root, secret) == {recorded.journal}
    upkeep.delete_session(doomed.session_id)
    erase_what_waits()
    assert found_on_disk(recorded.root, secret) == set()
    assert payloads_of(kept.session_id, recorded.root) == other
    assert (JournalErasure.objects.count(), reindex().sessions) == (0, 0)


@with_rows
def test_a_chunk_without_a_row_goes_at_once_from_a_journal_that_is_finished(recorded, monkeypatch):
    doomed = recorded.open()
    recorded.store(doomed, *chunks(1, 2))
    secret = chunks(2, 2)

    def unavailable(*_):
        raise DatabaseUnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(recorded.committer._rows, "commit", unavailable)
        recorded.store(doomed, *secret)
    assert found_on_disk(recorded.root, secret) == {recorded.journal}
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(recorded.root, secret) == set()


@with_rows
def test_a_place_that_a_chunk_was_moved_from_holds_it_no_more(recorded):
    doomed, kept = recorded.open(), recorded.open()
    secret = chunks(1)
    recorded.store(doomed, *secret)
    recorded.store(kept, *chunks(2))
    recorded.committer.stop()
    shared = recorded.journal
    journal = JournalFile.objects.get()
    with journal_lock(shared) as is_ours:
        assert is_ours
        assert move(doomed.session_id, journal)
    assert shared not in found_on_disk(recorded.root, secret)
    assert payloads_of(doomed.session_id, recorded.root) == secret
    # What the old file holds says neither that they are lost nor that they were deleted.
    assert survey.journal(journal.name).problems.first == []
    assert reindex(is_dry_run=True).deleted_sessions == 0
    upkeep.delete_session(doomed.session_id)
    assert found_on_disk(recorded.root, secret) == set()


@with_rows
def test_a_move_that_was_cut_short_leaves_no_copy_behind_a_deletion(recorded, monkeypatch):
    doomed, secret = recorded.open(), chunks(1)
    recorded.store(doomed, *secret)
    recorded.committer.stop()
    monkeypatch.setattr("audio.upkeep.moving.erase", lambda *_, **__: set())
    with journal_lock(recorded.journal):
        assert move(doomed.session_id, JournalFile.objects.get())
    upkeep.delete_session(doomed.session_id)
    erase_what_waits()
    assert found_on_disk(recorded.root, secret) == set()
