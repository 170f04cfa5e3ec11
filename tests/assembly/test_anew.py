"""A good recording is never given up for one that is not there yet: rebuilds, runs that died, runs that only hung."""

import shutil
import uuid

import pytest
from django.utils import timezone

from audio import upkeep
from audio.assembly import superseded
from audio.assembly.concatenate import concatenate
from audio.assembly.master import Master
from audio.assembly.rebuild import Rebuild, rebuild
from audio.assembly.run import Run
from audio.media import plan
from audio.models import AudioChunk, AudioSession, Recording
from audio.storage.lock import LOCK_NAME
from audio.storage.paths import folder
from tests.recorded import corrupt
from tests.sound import cut, speech, wav_bytes
from tests.stored import Stored

pytestmark = pytest.mark.database

SAMPLES = speech(1).tobytes()


class KilledError(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def ready(stored):
    session = stored(format="wav")
    session.add(cut(SAMPLES, 3200))
    session.made()
    return session


def recording_files(session: Stored) -> list[str]:
    return sorted(path.name for path in folder(session.session.pk).glob("*.wav"))


def damage(session: Stored, sequence: int = 2) -> None:
    row = AudioChunk.objects.select_related("journal").get(session=session.session, sequence=sequence)
    corrupt(session.root / row.journal.name, row.offset + 64)


def aside(session: Stored) -> list[bytes]:
    return [path.read_bytes() for path in superseded.files_aside(session.session.pk)]


def test_a_ready_recording_is_served_until_the_other_one_is_complete(ready):
    before = ready.recording
    rebuild(ready.session.pk)
    waiting = ready.recording
    assert (waiting.state, waiting.file_name, waiting.sha256) == ("ready", before.file_name, before.sha256)
    assert ready.path.exists()
    concatenate(ready.session.pk)
    after = ready.recording
    assert (after.state, after.sha256, after.rebuild_requested_at) == ("ready", before.sha256, None)
    assert after.file_name != before.file_name
    assert after.ready_at > before.ready_at
    # The same bytes are there once.
    assert recording_files(ready) == [ready.path.name]
    assert aside(ready) == []


def test_a_chunk_that_rotted_leaves_the_recording_as_it_is(ready):
    before, content = ready.recording, ready.path.read_bytes()
    damage(ready)
    rebuild(ready.session.pk)
    concatenate(ready.session.pk)
    after = ready.recording
    assert (after.state, after.file_name, after.ready_at) == ("ready", before.file_name, before.ready_at)
    assert (after.rebuild_requested_at, after.rebuild_error_code) == (None, "chunk_damaged")
    assert ready.path.read_bytes() == content
    assert recording_files(ready) == [ready.path.name]


def test_a_rebuild_that_is_asked_for_again_forgets_why_the_last_one_failed(ready):
    damage(ready)
    rebuild(ready.session.pk)
    concatenate(ready.session.pk)
    damage(ready)
    rebuild(ready.session.pk)
    assert ready.recording.rebuild_error_code == ""
    concatenate(ready.session.pk)
    assert (ready.recording.state, ready.recording.rebuild_error_code) == ("ready", "")


def test_a_recording_that_differs_is_put_aside(ready):
    damaged = bytearray(ready.path.read_bytes())
    damaged[-1] ^= 1
    ready.path.write_bytes(damaged)
    rebuild(ready.session.pk)
    concatenate(ready.session.pk)
    assert ready.path.read_bytes()[-len(SAMPLES) :] == SAMPLES
    assert aside(ready) == [bytes(damaged)]


@pytest.mark.parametrize("step", ["_commit", "_publish"])
@pytest.mark.parametrize("is_after", [False, True])
def test_a_rebuild_that_is_killed_is_begun_anew(ready, monkeypatch, step, is_after):
    before = ready.recording
    real = getattr(Rebuild, step)

    def killed(self, *also, **values):
        if is_after:
            real(self, *also, **values)
        raise KilledError

    rebuild(ready.session.pk)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Rebuild, step, killed)
        concatenate(ready.session.pk)
    assert ready.recording.state == "ready"
    assert ready.path.read_bytes()[-len(SAMPLES) :] == SAMPLES
    Recording.objects.update(updated_at=timezone.now() - upkeep.work.REPEAT_AFTER)
    assert upkeep.sweep().requested_recordings == 1
    concatenate(ready.session.pk)
    after = ready.recording
    assert (after.state, after.sha256, after.rebuild_requested_at) == ("ready", before.sha256, None)
    assert recording_files(ready) == [ready.path.name]
    assert aside(ready) == []


def test_a_full_disk_leaves_the_recording_and_no_half_of_another(ready, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    rebuild(ready.session.pk)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("audio.assembly.master.os.pwrite", full)
        concatenate(ready.session.pk)
    assert recording_files(ready) == [ready.path.name]
    assert ready.recording.rebuild_requested_at is not None
    concatenate(ready.session.pk)
    assert ready.recording.rebuild_requested_at is None


def test_a_full_disk_does_not_cost_a_live_recording_another_copy(stored, monkeypatch):
    session = stored(format="wav")
    session.add(cut(SAMPLES[:16000], 3200))
    concatenate(session.session.pk)
    name = session.recording.master_name
    session.add(cut(SAMPLES[16000:], 3200))
    pwrite = Master._write

    def full(self, data):
        pwrite(self, data[:100])
        raise OSError(28, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(Master, "_write", full)
            concatenate(session.session.pk)
        assert recording_files(session) == [name.rpartition("/")[2]]
    recording = session.made()
    assert (recording.state, recording.master_name) == ("ready", name)
    assert session.path.read_bytes()[-len(SAMPLES) :] == SAMPLES


def test_windows_go_on_with_one_file(stored):
    session = stored(format="wav")
    names = set()
    for piece in cut(SAMPLES, 3200):
        session.add([piece])
        concatenate(session.session.pk)
        names.add(session.recording.master_name)
        assert session.recording.token is None
    session.made()
    assert names == {session.recording.file_name}


@pytest.fixture
def lose_the_lock(monkeypatch):
    """Lets a run stand still at a method's door, while the lock is lost and another run does all there is to do."""

    def lose(session: Stored, method: str, occurrence: int) -> list[tuple[bytes, Recording]]:
        real, calls, seen = getattr(Run, method), [], []
        windows = plan.bounded.__defaults__
        monkeypatch.setattr("audio.media.plan.bounded.__defaults__", (6000,))

        def interrupted(self, *arguments, **values):
            calls.append(True)
            if len(calls) == occurrence:
                (folder(session.session.pk) / LOCK_NAME).unlink()
                with monkeypatch.context() as patch:
                    patch.setattr("audio.media.plan.bounded.__defaults__", windows)
                    concatenate(session.session.pk)
                seen.append((session.path.read_bytes(), session.recording))
            return real(self, *arguments, **values)

        monkeypatch.setattr(Run, method, interrupted)
        return seen

    return lose


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize(
    ("method", "occurrence"),
    [(name, count) for name in ("_opened", "_commit", "_take") for count in (1, 2)] + [("_took", 1), ("_complete", 1)],
)
def test_a_run_that_hung_and_lost_its_claim_touches_nothing(stored, lose_the_lock, method, occurrence, has_begun):
    session = stored(format="wav")
    session.add(cut(SAMPLES[:16000], 3200))
    if has_begun:
        concatenate(session.session.pk)
    session.add(cut(SAMPLES[16000:], 3200))
    session.close()
    seen = lose_the_lock(session, method, occurrence)
    concatenate(session.session.pk)
    ((content, recording),) = seen
    assert (session.path.read_bytes(), session.recording.updated_at) == (content, recording.updated_at)
    assert content[-len(SAMPLES) :] == SAMPLES


def test_a_recording_that_is_longer_than_an_older_backup_knows_is_not_cut(stored, tmp_path):
    session = stored(format="wav")
    session.add(cut(SAMPLES[:16000], 3200))
    concatenate(session.session.pk)
    known = Recording.objects.filter(pk=session.session.pk).values().get()
    rows = list(AudioChunk.objects.filter(session=session.session).values_list("pk", flat=True))
    session.add(cut(SAMPLES[16000:], 3200))
    session.made()
    longer = session.path.read_bytes()
    # The backup of before, and chunks that are nowhere any more.
    AudioChunk.objects.exclude(pk__in=rows).delete()
    AudioSession.objects.filter(pk=session.session.pk).update(total_chunks=len(rows))
    Recording.objects.filter(pk=session.session.pk).update(**known)
    concatenate(session.session.pk)
    assert session.recording.state == "ready"
    assert session.path.read_bytes()[-16000:] == SAMPLES[:16000]
    assert aside(session) == [longer]


def test_what_a_run_that_died_before_its_first_commit_has_left_goes(stored, monkeypatch):
    session = stored(format="wav")
    session.add([wav_bytes(speech(0.5), 16000), wav_bytes(speech(0.5), 16000)])
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Run, "_commit", lambda self, *_, **__: (_ for _ in ()).throw(KilledError))
        concatenate(session.session.pk)
    assert len(recording_files(session)) == 1
    session.made()
    assert recording_files(session) == [session.path.name]
    assert aside(session) == []


def test_what_is_put_aside_is_never_written_over(ready):
    for number in range(2):
        shutil.copy(ready.path, ready.path.with_name("master.wav"))
        with ready.path.with_name("master.wav").open("ab") as file:
            file.write(bytes([number]) * 100)
        superseded.tidy(ready.session.pk)
    assert sorted(content[-1] for content in aside(ready)) == [0, 1]


def test_nothing_is_tidied_while_a_claim_stands(ready):
    other = ready.path.with_name(f"master-{uuid.uuid4()}.wav")
    shutil.copy(ready.path, other)
    Recording.objects.update(token=uuid.uuid4())
    superseded.tidy(ready.session.pk)
    assert other.exists()
