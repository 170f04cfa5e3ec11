"""Gaps in what was sent are the same gaps everywhere: in the recording, in all that is made of it, in its waveform."""

import numpy as np
import pytest

from audio.assembly.concatenate import concatenate
from audio.jobs import peaks, rows, run
from audio.models import Recording, TaskKind
from audio.storage import paths
from tests.gaps import RATE, bursts, ogg_with_gaps, onsets_seconds, retimed
from tests.sound import cut, decoded

# A tone in the middle of the first second, then nothing is sent for five seconds, then one of the second second.
MOMENTS = [0.5, 6.5]


def gapped(kind, folder):
    if kind == "ogg":
        path = ogg_with_gaps(bursts(), folder / "gap.ogg", gap_at=1.0, gap_seconds=5.0, packets_per_page=1)
    else:
        path = retimed(bursts(), folder / f"gap.{kind}", gap_at=1.0, gap_seconds=5.0)
    return path.read_bytes()


def made(session, kind, audio_format=""):
    task = rows.enqueue(session, kind, audio_format)
    run.run(task.pk)
    task.refresh_from_db()
    assert task.state == "completed", task.error_detail
    return paths.root() / task.file_name


@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
@pytest.mark.parametrize("kind", ["webm", "ogg", "mp4"])
def test_a_second_is_the_same_second_everywhere(stored, tmp_path, kind, chunk_mode):
    data = gapped(kind, tmp_path)
    session = stored(format=kind, sample_rate=RATE, channels=1, chunk_mode=chunk_mode)
    session.add(cut(data, 1000) if chunk_mode == "auto" else [data])
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert recording.duration_seconds == pytest.approx(7, abs=0.05)
    for target in ("wav", "mp3", "flac", "opus", "m4a", "aac"):
        path = made(session.session, TaskKind.TRANSCODE, target)
        options = ("-f", "aac") if target == "aac" else ()
        # ADTS and MP3 without an Info frame can't say that their encoder's delay is none of the sound.
        late = 0.05 if target == "aac" else 0.02
        assert onsets_seconds(decoded(path, "s16le", *options, rate=RATE)) == pytest.approx(MOMENTS, abs=late), target
    made(session.session, TaskKind.WAVEFORM)
    shown = peaks.shown(session.session, Recording.objects.get(pk=session.session.pk), 700, 0.0, None)
    assert shown.duration_seconds == pytest.approx(recording.duration_seconds, abs=0.05)
    loud = np.flatnonzero(shown.pairs[:, 1] > 4000) * shown.duration_seconds / len(shown.pairs)
    assert [loud[0], loud[loud > 1][0]] == pytest.approx(MOMENTS, abs=0.03)


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_a_reconnect_begins_where_the_recorder_before_it_ended(stored, tmp_path, kind):
    session = stored(format=kind, sample_rate=RATE, channels=1)
    for _ in range(2):
        session.add(cut(gapped(kind, tmp_path), 1000))
        concatenate(session.session.pk)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert recording.duration_seconds == pytest.approx(14, abs=0.06)
    path = made(session.session, TaskKind.TRANSCODE, "wav")
    assert onsets_seconds(decoded(path)) == pytest.approx([0.5, 6.5, 7.5, 13.5], abs=0.03)
