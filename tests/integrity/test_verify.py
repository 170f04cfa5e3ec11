"""Verification of one session: sound ones of every kind, and every damage that can be done to one."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from audio.assembly.comparison import RecordingDiffersError
from audio.assembly.concatenate import concatenate
from audio.assembly.pcm import PcmAssembler
from audio.assembly.rebuild import rebuild
from audio.errors import SessionBusyError, SessionNotFoundError
from audio.ingest import sessions
from audio.integrity import replay, survey, verify
from audio.jobs.upload import upload
from audio.journal.files import Extent, erase
from audio.media import ffmpeg
from audio.models import AudioChunk, AudioSession, AudioSource, JournalFile, Recording
from audio.storage import paths
from audio.storage.lock import session_lock
from audio.storage.remote import remote_storage
from tests.recorded import Recorded, corrupt
from tests.services import REPOSITORY
from tests.sound import speech, wav_bytes

pytestmark = pytest.mark.database

HEADER_BYTES = 64


def encoded(seconds: float, *arguments: str, rate: int = 16000) -> bytes:
    """Speech in some format."""
    command = [str(ffmpeg.find()), "-loglevel", "error", "-f", "wav", "-i", "pipe:0", *arguments, "pipe:1"]
    return subprocess.run(command, input=wav_bytes(speech(seconds, rate), rate), capture_output=True, check=True).stdout


def cut(data: bytes, pieces: int) -> list[bytes]:
    step = -(-len(data) // pieces)
    return [data[at : at + step] for at in range(0, len(data), step)]


def pcm(count: int = 5) -> list[bytes]:
    return cut(speech(0.1 * count).tobytes(), count)


def codes(session_id: uuid.UUID) -> list[str]:
    return [problem.code for problem in verify.session(session_id).problems.first]


def browser_slices(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((REPOSITORY / "tests" / "vectors" / kind).glob("*.bin"))]


SOUND: dict[str, Callable[[], tuple[list[bytes], dict]]] = {
    "pcm": lambda: (pcm(), {}),
    "pcm of another rate": lambda: ([wav_bytes(speech(1, 44100), 44100)] * 3, {"sample_rate": 16000}),
    "less than a sample": lambda: ([b"\0"], {}),
    "an odd number of bytes": lambda: ([b"\0" * 81], {"encoding": "mulaw"}),
    "mp3 stream": lambda: (cut(encoded(2, "-f", "mp3"), 7), {"format": "mp3"}),
    "aac stream": lambda: (cut(encoded(2, "-f", "adts"), 7), {"format": "aac"}),
    "flac stream": lambda: (cut(encoded(2, "-f", "flac"), 7), {"format": "flac"}),
    "webm stream": lambda: (browser_slices("webm-opus"), {"format": "webm", "sample_rate": 48000}),
    "mp4 stream": lambda: (browser_slices("mp4-opus"), {"format": "mp4", "sample_rate": 48000}),
    "ogg parts": lambda: ([encoded(1, "-c:a", "libopus", "-f", "ogg")] * 2, {"format": "ogg"}),
    "flac files": lambda: ([encoded(1, "-f", "flac")] * 3, {"format": "flac", "chunks": "files"}),
    "mp3 files": lambda: ([encoded(1, "-f", "mp3")] * 3, {"format": "mp3", "chunks": "files"}),
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_session_is_found_sound(recorded: Recorded, kind):
    payloads, parameters = SOUND[kind]()
    session_id = recorded.session(*payloads, source="one", **parameters)
    assert recorded.recording(session_id).state == "ready"
    told: list[float] = []
    found = verify.session(session_id, told.append)
    assert found.problems.first == []
    assert (found.chunks, found.size_bytes) == (len(payloads), sum(map(len, payloads)))
    assert found.recording == "compared"
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert not list(recorded.root.rglob("work-*"))


@pytest.mark.parametrize("kind", [kind for kind in SOUND if kind != "less than a sample"])
def test_a_recording_that_its_chunks_do_not_make_is_found(recorded: Recorded, kind):
    """As if it had been made wrongly from the start: its size and its SHA-256 are those in the row."""
    payloads, parameters = SOUND[kind]()
    right = recorded.session(*payloads, **parameters)
    # A browser's last slice may hold no audio.
    wrong = recorded.session(
        *payloads[: max(1, len(payloads) - 2)] if len(payloads) > 1 else [b"\0" * 79], **parameters
    )
    made = recorded.recording(wrong)
    recorded.path(right).write_bytes(recorded.path(wrong).read_bytes())
    if recorded.recording(right).master_name != recorded.recording(right).file_name:
        master = recorded.root / made.master_name
        if master.exists():
            (recorded.root / recorded.recording(right).master_name).write_bytes(master.read_bytes())
    Recording.objects.filter(pk=right).update(
        size_bytes=made.size_bytes, sha256=made.sha256, master_bytes=made.master_bytes
    )
    assert codes(right) == ["recording_differs"]


def test_one_changed_bit_of_the_audio_differs(recorded: Recorded):
    session_id = recorded.session(*pcm())
    corrupt(recorded.path(session_id), 1000)
    assert codes(session_id) == ["recording_damaged"]
    Recording.objects.update(sha256="")
    found = verify.session(session_id).problems.first
    assert [(problem.code, problem.detail) for problem in found] == [
        ("recording_differs", "Byte 920 of the audio of the recording differs from its chunks.")
    ]
    corrupt(recorded.path(session_id), 1000)
    corrupt(recorded.path(session_id), 30)
    assert "header" in verify.session(session_id).problems.first[0].detail


def test_an_open_session_is_looked_at_as_far_as_it_is(recorded: Recorded):
    producer = recorded.open("one")
    # The first 16 KiB decide the format.
    recorded.store(producer, *pcm(), *pcm())
    assert verify.session(producer.session_id).as_dict() == {
        "session_id": str(producer.session_id),
        "chunks": 10,
        "bytes": 32000,
        "recording": "empty",
        "warnings": [],
        "problem_count": 0,
        "problems": [],
    }
    concatenate(producer.session_id)
    assert verify.session(producer.session_id).recording == "live"
    with (recorded.root / recorded.recording(producer.session_id).master_name).open("r+b") as file:
        file.truncate(100)
    assert codes(producer.session_id) == ["master_damaged"]


def test_a_session_of_several_sources_and_connections(recorded: Recorded):
    first = recorded.open("one")
    recorded.store(first, *pcm())
    recorded.another_process()
    other, again, unnamed = recorded.resume(first, "two"), recorded.resume(first, "one"), recorded.resume(first)
    for producer in (again, unnamed, other, again):
        recorded.store(producer, *pcm())
    assert codes(recorded.close(first)) == []


def chunk(session_id: uuid.UUID, sequence: int) -> AudioChunk:
    return AudioChunk.objects.select_related("journal").get(session=session_id, sequence=sequence)


def damage_payload(recorded, key):
    corrupt(recorded.root / chunk(key, 3).journal.name, chunk(key, 3).offset + HEADER_BYTES + 5)


def damage_header(recorded, key):
    corrupt(recorded.root / chunk(key, 3).journal.name, chunk(key, 3).offset + 20)


def lose_journal(recorded, key):
    (recorded.root / chunk(key, 3).journal.name).unlink()


def lose_journal_row(recorded, key):
    JournalFile.objects.all()._raw_delete(JournalFile.objects.db)


def lose_row(recorded, key):
    AudioChunk.objects.filter(session=key, sequence=3).delete()


def lose_last_row(recorded, key):
    AudioChunk.objects.filter(session=key, sequence=5).delete()


def change_row(recorded, key):
    AudioChunk.objects.filter(session=key, sequence=3).update(crc32=1)


def swap_rows(recorded, key):
    third, fourth = chunk(key, 3), chunk(key, 4)
    AudioChunk.objects.filter(pk=third.pk).update(sequence=99)
    AudioChunk.objects.filter(pk=fourth.pk).update(sequence=3)
    AudioChunk.objects.filter(pk=third.pk).update(sequence=4)


def change_count(recorded, key):
    AudioSession.objects.filter(pk=key).update(byte_count=1)


def change_source_count(recorded, key):
    AudioSource.objects.filter(session=key).update(chunk_count=4)


def lose_recording(recorded, key):
    recorded.path(key).unlink()


def shorten_recording(recorded, key):
    with recorded.path(key).open("r+b") as file:
        file.truncate(100)


def damage_recording(recorded, key):
    corrupt(recorded.path(key), 500)


def lose_recording_row(recorded, key):
    Recording.objects.filter(pk=key).delete()


DAMAGE = {
    damage_payload: ["chunk_damaged"],
    damage_header: ["record_missing"],
    lose_journal: ["journal_missing"],
    lose_journal_row: ["journal_row_missing"] * 5,
    lose_row: ["row_missing"],
    lose_last_row: ["row_missing"],
    change_row: ["record_contradicts", "chunk_damaged"],
    swap_rows: ["out_of_order"],
    change_count: ["byte_count_wrong"],
    change_source_count: ["source_count_wrong"],
    lose_recording: ["recording_missing"],
    shorten_recording: ["recording_size_wrong"],
    damage_recording: ["recording_damaged"],
    lose_recording_row: ["recording_row_missing"],
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_named(recorded: Recorded, damage):
    session_id = recorded.session(*pcm(), source="one")
    damage(recorded, session_id)
    found = verify.session(session_id)
    assert [problem.code for problem in found.problems.first] == DAMAGE[damage]
    assert {problem.session_id for problem in found.problems.first} == {str(session_id)}
    if damage in (damage_payload, damage_header, lose_row, change_row):
        assert {problem.sequence for problem in found.problems.first} == {3}


def test_an_erased_chunk_of_a_session_that_is_there(recorded: Recorded):
    session_id = recorded.session(*pcm())
    row = chunk(session_id, 2)
    recorded.stop()
    erase(recorded.root, [Extent(row.journal.name, row.offset, row.size_bytes, row.crc32)])
    assert codes(session_id) == ["chunk_erased", "chunk_damaged"]


def test_only_the_first_problems_are_kept_and_all_are_counted(recorded: Recorded):
    session_id = recorded.session(*[b"ab"] * 150)
    AudioChunk.objects.update(source_id=0)
    found = verify.session(session_id).problems
    assert (found.count, len(found.first)) == (300, 100)


def test_chunks_that_are_moved_to_another_journal_meanwhile(recorded: Recorded, monkeypatch):
    session_id = recorded.session(*pcm(), source="one")
    recorded.stop()
    real = verify._Session._pages

    def pages(self: verify._Session) -> Iterator:
        for rows in real(self):
            journal = JournalFile.objects.get()
            path = recorded.root / journal.name
            moved = path.rename(path.with_name("moved.journal"))
            copy = JournalFile.objects.create(name=str(moved.relative_to(recorded.root)), process_id=uuid.uuid4())
            AudioChunk.objects.update(journal=copy)
            yield rows

    monkeypatch.setattr(verify._Session, "_pages", pages)
    assert codes(session_id) == []


def test_a_session_that_is_not_there(recorded: Recorded):
    with pytest.raises(SessionNotFoundError):
        verify.session(uuid.uuid4())


def test_a_session_that_is_worked_on(recorded: Recorded):
    session_id = recorded.session(*pcm())
    with session_lock(session_id), pytest.raises(SessionBusyError):
        verify.session(session_id)


def test_a_recording_that_is_made_anew_meanwhile_is_no_damage(recorded: Recorded, monkeypatch):
    session_id = recorded.session(*pcm())

    def compare(*_: object) -> None:
        rebuild(session_id)
        raise RecordingDiffersError

    monkeypatch.setattr(replay, "compare", compare)
    with pytest.raises(SessionBusyError):
        verify.session(session_id)


def test_a_session_that_is_deleted_meanwhile_leaves_nothing(recorded: Recorded, monkeypatch):
    session_id = recorded.session(*pcm())
    real = PcmAssembler.compare

    def compare(self: PcmAssembler, *arguments: Any) -> None:
        real(self, *arguments)
        AudioSession.objects.all().delete()

    monkeypatch.setattr(PcmAssembler, "compare", compare)
    with pytest.raises(SessionNotFoundError):
        verify.session(session_id)
    assert not list(Path(recorded.root).glob(f"sessions/*/{session_id}"))


def test_a_failed_recording_is_a_problem(recorded: Recorded, capsys):
    producer = recorded.open(format="flac")
    recorded.store(producer, b"fLaC and nothing else")
    sessions.close_session(producer.session_id)
    concatenate(producer.session_id)
    found = verify.session(producer.session_id)
    assert (found.recording, found.problems.count) == ("failed", 1)
    (problem,) = found.problems.first
    assert (problem.code, problem.sequence) == (
        "recording_failed",
        recorded.recording(producer.session_id).failed_sequence,
    )
    assert "undecodable_chunk" in problem.detail
    with pytest.raises(CommandError):
        call_command("verify", "--all")
    assert "recording_failed" in capsys.readouterr().out


def test_warnings_are_told_and_no_problem(recorded: Recorded, capsys):
    key = recorded.session(*pcm())
    warning = {"code": "file_undecodable", "detail": "Chunk 2 can't be decoded."}
    Recording.objects.filter(pk=key).update(warnings=[warning])
    found = verify.session(key)
    assert (found.problems.count, found.as_dict()["warnings"]) == (0, [warning])
    call_command("verify", str(key))
    assert "warning: file_undecodable: Chunk 2 can't be decoded." in capsys.readouterr().out


def test_a_recording_that_could_not_be_made_anew_is_told(recorded: Recorded):
    key = recorded.session(*pcm())
    row = AudioChunk.objects.select_related("journal").get(session=key, sequence=2)
    corrupt(recorded.root / row.journal.name, row.offset + HEADER_BYTES)
    rebuild(key)
    concatenate(key)
    assert codes(key) == ["chunk_damaged", "rebuild_failed"]


def test_what_was_put_aside_is_told(recorded: Recorded):
    key = recorded.session(*pcm())
    corrupt(recorded.path(key), 1000)
    rebuild(key)
    concatenate(key)
    assert codes(key) == ["recording_aside"]


def test_the_rows_of_released_chunks_are_compared_with_each_other(recorded: Recorded):
    key = recorded.session(*pcm(), source="a")
    recorded.stop()
    JournalFile.objects.update(removed_at=timezone.now())
    for change, undo, told in (
        ({"byte_count": 1}, {"byte_count": AudioSession.objects.get(pk=key).byte_count}, ["byte_count_wrong"]),
        ({"total_chunks": 6}, {"total_chunks": 5}, ["row_missing", "recording_incomplete"]),
    ):
        AudioSession.objects.filter(pk=key).update(**change)
        assert codes(key) == told
        AudioSession.objects.filter(pk=key).update(**undo)
    AudioSource.objects.update(chunk_count=4)
    assert codes(key) == ["source_count_wrong"]
    AudioSource.objects.update(chunk_count=5)
    Recording.objects.update(chunks_done=4)
    assert codes(key) == ["recording_incomplete"]
    Recording.objects.update(chunks_done=5, sha256="")
    corrupt(recorded.path(key), 30)
    assert codes(key) == ["recording_differs"]


def test_a_recording_in_s3_is_compared_with_its_chunks_too(bucket, recorded: Recorded, tmp_path):
    key = recorded.session(*pcm())
    content = recorded.path(key).read_bytes()
    upload(key)
    assert not recorded.path(key).exists()
    found = verify.session(key)
    assert (found.recording, found.problems.count) == ("compared", 0)
    assert survey.orphans().problems.count == 0
    (tmp_path / "damaged").write_bytes(content)
    corrupt(tmp_path / "damaged", 100)
    remote_storage().put(recorded.recording(key).file_name, tmp_path / "damaged")
    assert codes(key) == ["recording_damaged"]
    # The copies that were looked at are gone.
    assert not list(paths.folder(key).rglob("copy-*"))


def test_released_chunks_leave_the_recording_to_look_at(recorded: Recorded):
    key = recorded.session(*pcm(), source="a")
    recorded.stop()
    journal = JournalFile.objects.get()
    JournalFile.objects.update(removed_at=timezone.now())
    (recorded.root / journal.name).unlink()
    found = verify.session(key)
    assert (found.recording, found.problems.count) == ("ready", 0)
    assert survey.journal(journal.name).problems.count == 0
    corrupt(recorded.path(key), 100)
    assert codes(key) == ["recording_damaged"]
