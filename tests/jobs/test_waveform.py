"""Peaks at every zoom, against the samples themselves."""

import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from audio.assembly import concatenate
from audio.assembly.rebuild import rebuild
from audio.errors import MasterDamagedError, RecordingNotReadyError, TaskRunningError
from audio.jobs import peaks, recording, rows, run
from audio.media import waveform
from audio.media.samples import PcmFormat, Samples
from audio.models import BackgroundTask, Recording, TaskKind
from audio.storage import paths
from tests.sound import cut, decoded, encoded, speech

RATE = 16000


def recorded(stored, samples, **parameters):
    session = stored(format="wav", channels=samples.shape[1], **parameters)
    session.add(cut(samples.tobytes(), 64000))
    session.made()
    return session.session


def shown(session, points, start=0.0, end=None):
    return peaks.shown(session, Recording.objects.get(pk=session.pk), points, start, end)


def computed(session):
    run.run(rows.enqueue(session, TaskKind.WAVEFORM).pk)


def covers(pairs, samples, first_frame, last_frame, slack_frames):
    """Whether each pair is that of its share of the span, give or take so many frames at its borders."""
    edges = np.linspace(first_frame, last_frame, len(pairs) + 1).astype(int)
    for (low, high), first, last in zip(pairs, edges, edges[1:], strict=False):
        inner = samples[first + slack_frames : last - slack_frames]
        outer = samples[max(0, first - slack_frames) : last + slack_frames]
        if low < outer.min() - 1 or high > outer.max() + 1:
            return False
        if len(inner) and (low > inner.min() + 1 or high < inner.max() - 1):
            return False
    return True


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("points", "start", "end"), [(1000, 0, None), (7, 0, None), (100, 3, 29.5), (50, 10, 10.01)])
def test_each_point_is_that_of_its_samples(stored, channels, points, start, end):
    samples = speech(40, channels=channels)
    session = recorded(stored, samples)
    with pytest.raises(TaskRunningError):
        shown(session, points, start, end)
    computed(session)
    found = shown(session, points, start, end)
    first, last = round(start * RATE), round((end or 40) * RATE)
    assert (found.sample_rate, found.duration_seconds, found.start_seconds) == (RATE, 40, start)
    assert points / 2 < len(found.pairs) <= points
    # A point is off by a quarter of its width at most, or by a pair of the first level.
    slack_frames = max(256, (last - first) // points // 4) if last - first > 256 * points else 4
    assert covers(found.pairs, samples, first, last, slack_frames + 4)


def test_nothing_loud_is_lost_at_any_zoom(stored):
    samples = np.zeros((40 * RATE, 1), dtype="<i2")
    samples[123_456] = 32767
    samples[500_001] = -32767
    session = recorded(stored, samples)
    computed(session)
    for points in (1, 10, 100, 1000, 10_000):
        pairs = shown(session, points).pairs
        assert (pairs[:, 1] == 32766).sum() + (pairs[:, 1] == 32767).sum() == 1
        assert pairs[:, 0].min() <= -32765


def test_a_compressed_recording_is_decoded_once(stored, tmp_path):
    data = encoded(speech(20), RATE, tmp_path / "speech.mp3")
    session = stored(format="mp3")
    session.add(cut(data, 4000))
    session.made()
    computed(session.session)
    found = shown(session.session, 100)
    samples = np.frombuffer(decoded(session.path), dtype="<i2")
    assert found.duration_seconds == len(samples) / RATE
    assert covers(found.pairs, samples, 0, len(samples), 600)


def test_a_live_session_shows_what_is_concatenated(stored):
    session = stored(format="wav")
    samples = speech(4)
    for part in (samples[: 2 * RATE], samples[2 * RATE :]):
        session.add([part.tobytes()])
        concatenate.concatenate(session.session.pk)
        done = session.session.total_chunks * 2
        # The near zoom comes from the samples, the far one from the peaks that the windows have left.
        for points, slack_frames in ((50, 20), (10, 256)):
            found = shown(session.session, points)
            assert (found.duration_seconds, len(found.pairs)) == (done, points)
            assert covers(found.pairs, samples, 0, done * RATE, slack_frames)


def test_a_live_compressed_session_has_to_be_closed_first(stored, tmp_path):
    session = stored(format="mp3")
    session.add(cut(encoded(speech(5), RATE, tmp_path / "speech.mp3"), 4000))
    concatenate.concatenate(session.session.pk)
    with pytest.raises(RecordingNotReadyError):
        shown(session.session, 50)


def test_memory_does_not_grow_with_the_length(tmp_path):
    pcm, block = PcmFormat("s16le", 96000, 2), speech(2, 96000, 2).tobytes()
    tracemalloc.start()
    waveform.write((Samples(pcm, block) for _ in range(100)), tmp_path / "peaks", lambda _: None)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20 < 100 * len(block) >> 6


def made_by_a_worker(stored, pieces, windows=True, **parameters):
    """A session whose chunks are concatenated as they come, or all at its close, as a worker does it."""
    session = stored(**{"format": "wav", **parameters})
    for piece in pieces:
        session.add([piece])
        if windows:
            recording.make_recording(session.session.pk)
    session.close()
    recording.make_recording(session.session.pk)
    assert session.recording.state == "ready"
    return session


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("encoding", ["s16le", "s24le", "f32le", "mulaw"])
def test_the_peaks_of_samples_come_with_the_windows(stored, tmp_path, encoding, windows):
    """They are those that one pass over the recording finds, and nobody had to ask for them."""
    samples = speech(3)
    data = samples.tobytes() if encoding == "s16le" else encoded(samples, RATE, tmp_path / "raw", "-f", encoding)
    session = made_by_a_worker(stored, cut(data, 5001), windows, encoding=encoding)
    (task,) = BackgroundTask.objects.filter(session=session.session)
    assert (task.kind, task.state, task.seconds_done) == ("waveform", "completed", 3.0)
    recording = session.recording
    blocks = waveform.samples_of("wav", session.path, recording.master_encoding, tmp_path)
    waveform.write(blocks, tmp_path / "whole.peaks", lambda _: None)
    made = paths.root() / task.file_name
    assert made.read_bytes() == (tmp_path / "whole.peaks").read_bytes()
    assert task.size_bytes == made.stat().st_size
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert not paths.peaks_path(session.recording).exists()


def test_a_copied_stream_is_decoded_once_when_it_is_ready(stored, tmp_path):
    data = encoded(speech(5), RATE, tmp_path / "speech.mp3")
    session = made_by_a_worker(stored, cut(data, 4000), format="mp3")
    (task,) = BackgroundTask.objects.filter(session=session.session)
    assert (task.kind, task.state) == ("waveform", "pending")
    recording.make_recording(session.session.pk)
    assert BackgroundTask.objects.get(session=session.session) == task


def test_peaks_that_a_power_cut_has_shortened_are_computed_anew(stored):
    session = stored(format="wav")
    samples = speech(3)
    for piece in (samples[:RATE], samples[RATE : 2 * RATE], samples[2 * RATE :]):
        session.add([piece.tobytes()])
        recording.make_recording(session.session.pk)
        peaks = paths.peaks_path(session.recording)
        if peaks.exists():
            peaks.write_bytes(peaks.read_bytes()[:100])
    session.close()
    recording.make_recording(session.session.pk)
    (task,) = BackgroundTask.objects.filter(session=session.session)
    assert (session.recording.state, task.state) == ("ready", "pending")
    run.run(task.pk)
    assert covers(shown(session.session, 40).pairs, samples, 0, 3 * RATE, 300)


def test_a_rebuilt_recording_gets_peaks_of_its_own(stored):
    session = made_by_a_worker(stored, cut(speech(2).tobytes(), 9000))
    before = BackgroundTask.objects.get(session=session.session)
    rebuild(session.session.pk)
    recording.make_recording(session.session.pk)
    after = BackgroundTask.objects.get(session=session.session, is_current=True)
    assert after != before
    assert (paths.root() / after.file_name).exists()


def test_a_damaged_file_of_peaks_is_told(tmp_path):
    (tmp_path / "peaks").write_bytes(b"something else, long enough")
    with pytest.raises(MasterDamagedError):
        waveform.read(tmp_path / "peaks", 10, 0, None)


def test_the_picture_is_svg_also_of_nothing(stored):
    session = recorded(stored, speech(2))
    computed(session)
    for start in (0, 100):
        picture = ElementTree.fromstring(waveform.svg(shown(session, 20, start)))
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(picture[0].attrib["points"].split()) == (40 if start == 0 else 0)
    assert paths.folder(session.pk).exists()
