"""A run that dies at any step, and is repeated, loses no sample and doubles none.

Death is a BaseException at the step, and everything that the process held is dropped. This shows that what is
committed and what is on the disk always fit together; it can't show that fsync itself keeps its word.
"""

import os
import wave

import numpy as np
import pytest

from audio.assembly.concatenate import concatenate
from audio.assembly.families import ASSEMBLERS
from audio.assembly.run import Run
from audio.media import waveform
from audio.storage.lock import LOCK_NAME
from audio.storage.paths import folder, peaks_path
from tests.containers import hashes, vector
from tests.sound import cut, decoded, encoded, speech, wav_bytes

pytestmark = pytest.mark.database


class KilledError(BaseException):
    """Stands for SIGKILL."""


class Trigger:
    """Fires at the nth call, once."""

    def __init__(self, occurrence: int) -> None:
        self.left = occurrence

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def _mid_write(monkeypatch, fires):
    pwrite = os.pwrite

    def write(handle, data, offset):
        if fires():
            pwrite(handle, bytes(data)[: len(data) // 2 + 1], offset)
            raise KilledError
        return pwrite(handle, data, offset)

    monkeypatch.setattr("audio.assembly.master.os.pwrite", write)


def _before_fsync(monkeypatch, fires):
    fsync = os.fsync

    def sync(handle):
        if fires():
            raise KilledError
        fsync(handle)

    monkeypatch.setattr("audio.assembly.master.os.fsync", sync)


def _before_commit(monkeypatch, fires):
    commit = Run._commit

    def killed(self, *also, **values):
        if fires():
            raise KilledError
        commit(self, *also, **values)

    monkeypatch.setattr(Run, "_commit", killed)


def _after_commit(monkeypatch, fires):
    commit = Run._commit

    def killed(self, *also, **values):
        commit(self, *also, **values)
        if fires():
            raise KilledError

    monkeypatch.setattr(Run, "_commit", killed)


def _after_finish(monkeypatch, fires):
    def killed(finish):
        def finish_and_die(*arguments):
            made = finish(*arguments)
            if fires():
                raise KilledError
            return made

        return finish_and_die

    for kind in ASSEMBLERS.values():
        monkeypatch.setattr(kind, "finish", killed(kind.finish))


STEPS = [_mid_write, _before_fsync, _before_commit, _after_commit, _after_finish]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr("audio.media.plan.bounded.__defaults__", (12000,))


def _die_at(step, occurrence, session) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        step(patch, Trigger(occurrence))
        try:
            concatenate(session.session.pk)
        except KilledError:
            return True
    return False


def _die_everywhere(step, make, check):
    """Kills a run at the first, second, ... call of the step, until there is none to kill."""
    occurrence = 1
    while True:
        session = make()
        was_killed = _die_at(step, occurrence, session)
        concatenate(session.session.pk)
        assert session.recording.state == "ready", session.recording.error_detail
        check(session)
        if not was_killed:
            break
        occurrence += 1
    assert occurrence > 1


@pytest.mark.parametrize("step", STEPS)
def test_raw_pcm_with_samples_cut_between_messages(stored, step):
    samples = speech(1).tobytes()

    def make():
        session = stored(format="wav")
        session.add(cut(samples, 3001))
        session.close()
        return session

    def check(session):
        with wave.open(str(session.path)) as file:
            assert file.readframes(file.getnframes()) == samples
        assert _peaks(session) == _peaks_in_one_pass(session)

    _die_everywhere(step, make, check)


def _peaks(session) -> bytes:
    path = session.path.with_name("complete.peaks")
    assert waveform.complete(peaks_path(session.recording), path, 16000, 16000)
    return path.read_bytes()


def _peaks_in_one_pass(session) -> bytes:
    path = session.path.with_name("whole.peaks")
    waveform.write(waveform.samples_of("wav", session.path, "s16le", path.parent), path, lambda _: None)
    return path.read_bytes()


@pytest.mark.parametrize("step", STEPS)
def test_resampled_wav_files(stored, step):
    files = [wav_bytes(piece, 44100) for piece in np.array_split(speech(0.7, 44100), 9)]
    results = []

    def make():
        session = stored(format="wav")
        session.add(files)
        session.close()
        return session

    plain = make()
    concatenate(plain.session.pk)
    results.append(plain.path.read_bytes())
    _die_everywhere(step, make, lambda session: results.append(session.path.read_bytes()))
    assert len(set(results)) == 1


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("audio_format", ["mp3", "flac"])
def test_a_stream(stored, step, audio_format, tmp_path):
    source = encoded(speech(2), 16000, tmp_path / f"a.{audio_format}")

    def make():
        session = stored(format=audio_format)
        session.add(cut(source, 1, 1700))
        session.close()
        return session

    def check(session):
        assert session.path.read_bytes() == source

    _die_everywhere(step, make, check)


@pytest.mark.parametrize("step", STEPS)
def test_files_that_began_as_a_stream(stored, step, tmp_path):
    pieces = np.split(speech(0.6), 2)
    files = [encoded(piece, 16000, tmp_path / f"{n}.flac") for n, piece in enumerate(pieces)]
    expected = speech(0.6).tobytes()

    def make():
        session = stored(format="flac")
        session.add([piece for file in files for piece in cut(file, 10000)])
        session.close()
        return session

    def check(session):
        assert decoded(session.path) == expected

    _die_everywhere(step, make, check)


@pytest.mark.parametrize("step", STEPS)
def test_the_parts_of_a_reconnect(stored, step, tmp_path):
    messages, source = vector("webm-opus"), tmp_path / "part.webm"
    source.write_bytes(b"".join(messages))
    expected = 2 * hashes(source)

    def make():
        session = stored(format="webm", sample_rate=48000, channels=2)
        session.add(2 * messages)
        session.close()
        return session

    _die_everywhere(step, make, lambda session: _equal(hashes(session.path), expected))


@pytest.mark.parametrize("step", [_before_commit, _after_commit])
def test_parts_that_turn_out_at_the_end_to_need_decoding(stored, step):
    *messages, last = vector("mp4-opus")[:3]
    lengths = []

    def make():
        session = stored(format="mp4", sample_rate=48000, channels=2)
        session.add([*messages, last[:-700], *messages, last])
        session.close()
        return session

    plain = make()
    concatenate(plain.session.pk)
    lengths.append(plain.recording.duration_seconds)
    _die_everywhere(step, make, lambda session: lengths.append(session.recording.duration_seconds))
    assert len(set(lengths)) == 1


def _equal(left, right) -> None:
    assert left == right


def test_a_stale_run_commits_nothing(stored, monkeypatch):
    """The lock is lost (its folder was on another host, say) and a second run claims the recording meanwhile."""
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    session.close()
    commit, nested = Run._commit, []

    def interrupted(self, *also, **values):
        if not nested:
            nested.append(True)
            (folder(session.session.pk) / LOCK_NAME).unlink()
            concatenate(session.session.pk)
            nested.append(session.recording.updated_at)
        commit(self, *also, **values)

    monkeypatch.setattr(Run, "_commit", interrupted)
    concatenate(session.session.pk)
    recording = session.recording
    assert (recording.state, recording.updated_at) == ("ready", nested[1])
    with wave.open(str(session.path)) as file:
        assert file.readframes(file.getnframes()) == samples


def test_what_no_commit_covers_is_cut_off(stored):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples[:16000], 3200))
    concatenate(session.session.pk)
    with (session.root / session.recording.master_name).open("ab") as file:
        file.write(b"torn" * 100_000)
    session.add(cut(samples[16000:], 3200))
    session.close()
    concatenate(session.session.pk)
    assert session.path.stat().st_size == 80 + len(samples)
