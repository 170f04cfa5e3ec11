"""What came is in the recording, or is said: parts whole, cut off, spoiled or foreign, in messages cut anywhere."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audio.assembly.chunks import read_range
from audio.integrity import replay
from audio.jobs import rows, run
from audio.media.frames import FrameCounter, flac_stream_info
from audio.models import AudioSession, TaskKind
from audio.storage import paths
from tests.containers import duration_seconds, hashes
from tests.sound import cut, decoded, encoded, encoded_live, speech

RATE_HZ = 48000
# An example costs seconds: a few each run, and none to make a failing one smaller.
QUICK = settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FRAGMENTED = ("-c:a", "aac", "-movflags", "empty_moov+default_base_moof", "-frag_duration", "100000")
LIVE = {
    "webm": ("webm", "-c:a", "libopus"),
    "ogg": ("ogg", "-c:a", "libopus"),
    "mp4": ("mp4", *FRAGMENTED),
    "flac": ("flac",),
    "mp3": ("mp3", "-write_xing", "0", "-id3v2_version", "0"),
    "aac": ("adts",),
}
# How much of a part's audio its encoder adds at a joint, at most.
JOINT_SECONDS = 0.08


class Streams(dict):
    """Shown in short where a test fails."""

    def __repr__(self) -> str:
        return "streams"


@pytest.fixture(scope="module")
def streams():
    """By format, live streams of different lengths and, the last two, other parameters."""
    shapes = ((0.6, RATE_HZ, 1), (0.9, RATE_HZ, 1), (0.5, 44100, 2), (0.7, 24000, 1))
    return Streams(
        {
            name: [
                (seconds, encoded_live(speech(seconds, rate, channels, seed), rate, *options))
                for seed, (seconds, rate, channels) in enumerate(shapes)
            ]
            for name, options in LIVE.items()
        }
    )


def whole(stream: bytes) -> bytes:
    return stream


def headless(stream: bytes) -> bytes:
    return stream[len(stream) // 3 :]


def cut_off(stream: bytes) -> bytes:
    return stream[: len(stream) * 2 // 3 + 1]


def noise(stream: bytes) -> bytes:
    return np.random.default_rng(len(stream)).bytes(4000)


SPOILT: list[Callable[[bytes], bytes]] = [headless, cut_off, noise]


def assert_said(recording, payloads):
    """A failed recording says why and where, within bounds."""
    if recording.state == "failed":
        assert recording.error_detail and recording.error_code
    for warning in recording.warnings:
        assert 1 <= warning["first_sequence"] <= warning["last_sequence"] <= len(payloads)
        assert 0 <= warning["start_seconds"] <= warning["end_seconds"]
        assert warning["detail"]


def assert_proved(session):
    """A ready recording is what its chunks make."""
    if session.recording.state == "ready":
        row = AudioSession.objects.get(pk=session.session.pk)
        replay.compare(row, session.recording, session.path, lambda _: None)


@pytest.mark.parametrize("audio_format", LIVE)
@QUICK
@given(
    chosen=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    sizes=st.lists(st.integers(150, 9000), min_size=1, max_size=3),
    chunk_mode=st.sampled_from(["auto", "stream"]),
)
def test_whole_streams_in_a_row_are_all_there(stored, streams, audio_format, chosen, sizes, chunk_mode):
    parts = [streams[audio_format][number] for number in chosen]
    payloads = cut(b"".join(stream for _, stream in parts), *sizes)
    session = stored(format=audio_format, sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    session.add(payloads)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert recording.warnings == []
    expected = sum(seconds for seconds, _ in parts)
    assert recording.duration_seconds == pytest.approx(expected, abs=JOINT_SECONDS * len(parts))
    heard = len(decoded(session.path, rate=RATE_HZ)) / 2 / recording.channels / RATE_HZ
    assert heard == pytest.approx(recording.duration_seconds, abs=JOINT_SECONDS)
    assert_proved(session)


@pytest.mark.parametrize("audio_format", LIVE)
@QUICK
@given(
    spoil=st.sampled_from(SPOILT),
    place=st.integers(0, 2),
    sizes=st.lists(st.integers(200, 9000), min_size=1, max_size=3),
)
def test_what_a_spoilt_part_takes_along_is_said(stored, streams, audio_format, spoil, place, sizes):
    parts = [stream for _, stream in streams[audio_format][:2]] * 2
    good_seconds = sum(seconds for number, (seconds, _) in enumerate(streams[audio_format][:2] * 2) if number != place)
    parts[place] = spoil(parts[place])
    payloads = cut(b"".join(parts), *sizes)
    session = stored(format=audio_format, sample_rate=RATE_HZ)
    session.add(payloads)
    recording = session.made()
    assert_said(recording, payloads)
    assert_proved(session)
    if recording.file_name:
        # The others are there.
        assert recording.duration_seconds >= good_seconds - JOINT_SECONDS * len(parts)
    else:
        assert recording.state == "failed"
    if spoil is noise:
        assert recording.state == "failed" or recording.warnings or audio_format in ("webm", "ogg", "mp4")
    assert [chunk.payload for chunk in read_range(session.session.pk, 1, len(payloads))] == payloads


# Single promises


def test_a_header_cut_in_two_begins_a_part(stored, streams, tmp_path):
    for audio_format in ("webm", "ogg", "mp4"):
        stream = streams[audio_format][0][1]
        (tmp_path / f"part.{audio_format}").write_bytes(stream)
        session = stored(format=audio_format, sample_rate=RATE_HZ)
        session.add([stream[:-1], stream[-1:] + stream[:1], stream[1:7], stream[7:] + stream[:500], stream[500:]])
        assert session.made().state == "ready"
        assert hashes(session.path) == 3 * hashes(tmp_path / f"part.{audio_format}")


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
@pytest.mark.parametrize("chunk_mode", ["auto", "stream"])
def test_a_change_of_rate_in_the_middle_keeps_both_sides(stored, streams, audio_format, chunk_mode):
    (first_seconds, first), (second_seconds, second) = streams[audio_format][0], streams[audio_format][3]
    session = stored(format=audio_format, sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    session.add(cut(first + second, 1000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert recording.duration_seconds == pytest.approx(first_seconds + second_seconds, abs=2 * JOINT_SECONDS)
    counter = FrameCounter(audio_format)
    assert counter.feed(session.path.read_bytes()) == []


def test_rubbish_in_a_stream_is_a_warning_with_its_chunk_and_its_moment(stored, streams):
    seconds, stream = streams["mp3"][0]
    session = stored(format="mp3", sample_rate=RATE_HZ)
    session.add([stream, bytes(3000), stream])
    recording = session.made()
    assert recording.state == "ready"
    (warning,) = recording.warnings
    assert (warning["code"], warning["first_sequence"]) == ("unrecognised_bytes", 2)
    assert warning["start_seconds"] == pytest.approx(seconds, abs=JOINT_SECONDS)
    assert session.path.read_bytes() == stream + bytes(3000) + stream


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
def test_a_stream_that_is_mostly_something_else_is_not_ready(stored, streams, audio_format):
    stream = streams[audio_format][0][1]
    session = stored(format=audio_format, sample_rate=RATE_HZ)
    session.add([stream, np.random.default_rng(1).bytes(2 * len(stream))])
    recording = session.made()
    assert (recording.state, recording.error_code) == ("failed", "undecodable_chunk")
    assert "bytes" in recording.error_detail
    assert session.path.read_bytes().startswith(stream)


def test_flac_frames_that_never_came_are_a_warning(stored, tmp_path):
    stream = encoded(speech(3, 44100), 44100, tmp_path / "a.flac")
    third = len(stream) // 3
    session = stored(format="flac", sample_rate=44100)
    session.add([stream[:third], stream[2 * third :]])
    recording = session.made()
    assert recording.state == "ready"
    assert [(warning["code"], warning["first_sequence"]) for warning in recording.warnings] == [("gap", 2)]
    info = flac_stream_info(session.path.read_bytes()[:1000])
    assert info.total_samples == round(recording.duration_seconds * 44100) < 3 * 44100


@pytest.mark.parametrize("cut_to", [0.5, 1])
def test_the_info_frame_of_a_live_mp3_is_made_true(stored, tmp_path, cut_to):
    stream = encoded(speech(2, 44100), 44100, tmp_path / "a.mp3")
    stream = stream[: int(len(stream) * cut_to)]
    session = stored(format="mp3", sample_rate=44100)
    session.add(cut(stream, 700))
    recording = session.made()
    assert recording.state == "ready"
    assert len(decoded(session.path)) / 2 / 44100 == pytest.approx(recording.duration_seconds, abs=0.03)
    assert duration_seconds(session.path) == pytest.approx(recording.duration_seconds, abs=0.06)
    assert (session.path.read_bytes() == stream) == (cut_to == 1)
    assert_proved(session)


@pytest.mark.parametrize("audio_format", ["webm", "mp4", "flac", "mp3", "aac", "ogg"])
def test_what_nobody_named_the_media_decide(stored, streams, audio_format):
    seconds, stream = streams[audio_format][2]
    session = stored(sample_rate=16000, channels=1, format="wav", undecided=["format", "sample_rate", "channels"])
    session.add(cut(stream, 1, 5, 3000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    row = AudioSession.objects.get(pk=session.session.pk)
    rate_hz = RATE_HZ if audio_format in ("webm", "ogg") else 44100
    assert (row.format, row.sample_rate, row.channels, row.undecided) == (audio_format, rate_hz, 2, [])
    assert (recording.sample_rate, recording.channels) == (rate_hz, 2)
    assert recording.duration_seconds == pytest.approx(seconds, abs=JOINT_SECONDS)


@pytest.mark.parametrize("size", [3200, 3201])
def test_a_damaged_chunk_costs_itself_alone(stored, size):
    data = speech(1).tobytes()
    pieces = cut(data, size)
    session = stored(format="wav")
    session.add(pieces)
    journal = next(session.root.rglob("*.journal"))
    content = bytearray(journal.read_bytes())
    at = content.index(pieces[3])
    content[at : at + 4] = bytes(4 * [0x55])
    journal.write_bytes(content)
    recording = session.made()
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "chunk_damaged", 4)
    # Silence takes its place: what follows stays at its moment.
    expected = data[: 3 * size] + bytes(size) + data[4 * size :]
    assert session.path.read_bytes()[80 : 80 + len(expected)] == expected
    (warning,) = recording.warnings
    assert (warning["start_seconds"], warning["end_seconds"]) == (
        pytest.approx(3 * size / 32000, abs=0.001),
        pytest.approx(4 * size / 32000, abs=0.001),
    )


def spoiled(stream: bytes, size: int = 100) -> bytes:
    middle = len(stream) // 2
    return stream[:middle] + bytes(size) + stream[middle + size :]


@pytest.mark.parametrize(
    ("spoil", "warnings"),
    [
        (lambda flac: flac + b"TAG" + bytes(125), []),
        (lambda flac: flac[:-900], ["stream_damaged"]),
        (spoiled, None),
    ],
)
def test_of_flac_that_is_damaged_everything_else_can_be_made(stored, tmp_path, spoil, warnings):
    sound = speech(3, RATE_HZ)
    data = spoil(encoded(sound, RATE_HZ, tmp_path / "a.flac"))
    session = stored(format="flac", sample_rate=RATE_HZ)
    session.add(cut(data, 1000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    if warnings is not None:
        assert [entry["code"] for entry in recording.warnings] == warnings
        assert len(decoded(session.path)) / 2 / RATE_HZ == pytest.approx(recording.duration_seconds, abs=0.001)
    for kind, audio_format in ((TaskKind.WAVEFORM, ""), (TaskKind.TRANSCODE, "wav")):
        task = rows.enqueue(session.session, kind, audio_format)
        run.run(task.pk)
        task.refresh_from_db()
        assert task.state == "completed", task.error_detail
    heard = np.frombuffer((paths.root() / task.file_name).read_bytes()[-2000:], "<i2")
    assert len(decoded(paths.root() / task.file_name)) / 2 / RATE_HZ == pytest.approx(
        recording.duration_seconds, abs=0.11
    )
    assert np.abs(heard).max() > 0
    assert_proved(session)


@pytest.mark.parametrize("audio_format", ["webm", "ogg"])
def test_what_ffmpeg_leaves_out_of_a_damaged_container_is_said(stored, tmp_path, audio_format):
    streams = [
        encoded_live(speech(3, RATE_HZ, seed=seed), RATE_HZ, audio_format, "-c:a", "libopus", "-page_duration", "20000")
        if audio_format == "ogg"
        else encoded_live(speech(3, RATE_HZ, seed=seed), RATE_HZ, audio_format, "-c:a", "libopus")
        for seed in (1, 2)
    ]
    session = stored(format=audio_format, sample_rate=RATE_HZ)
    session.add(cut(streams[0] + spoiled(streams[1], 1000), 1000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert [entry["code"] for entry in recording.warnings] == ["stream_damaged"]
    (entry,) = recording.warnings
    assert entry["first_sequence"] > 5
    assert (entry["start_seconds"], entry["end_seconds"]) == pytest.approx((3, 6), abs=JOINT_SECONDS)
    assert_proved(session)


@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
@pytest.mark.parametrize("audio_format", ["webm", "ogg"])
def test_what_is_damaged_or_cut_off_is_said_in_every_mode(stored, audio_format, chunk_mode):
    # Ogg has a page a packet.
    options = ("-c:a", "libopus", *(("-page_duration", "20000") if audio_format == "ogg" else ()))
    first, second = (encoded_live(speech(2, RATE_HZ, 1, seed), RATE_HZ, audio_format, *options) for seed in (1, 2))
    for spoilt in (second[:-50], spoiled(second, 1000)):
        session = stored(format=audio_format, sample_rate=RATE_HZ, chunk_mode=chunk_mode)
        session.add([first, spoilt, first])
        recording = session.made()
        assert recording.state == "ready", recording.error_detail
        assert {entry["code"] for entry in recording.warnings} <= {"stream_damaged", "file_incomplete"}
        assert recording.warnings[-1]["code"] == "stream_damaged"
        assert {entry["first_sequence"] for entry in recording.warnings} == {2}
        assert recording.duration_seconds > 5
        assert_proved(session)


@pytest.mark.parametrize(
    ("codec", "muxer"), [("pcm_mulaw", "mov"), ("pcm_alaw", "mov"), ("pcm_s8", "mov"), ("pcm_mulaw", "matroska")]
)
@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
def test_telephone_sound_in_a_container(stored, tmp_path, codec, muxer, chunk_mode):
    source = tmp_path / "source"
    data = encoded(speech(1, 8000), 8000, source, "-c:a", codec, "-f", muxer)
    session = stored(format="webm" if muxer == "matroska" else "mp4", sample_rate=8000, chunk_mode=chunk_mode)
    session.add([data, data])
    recording = session.made()
    assert (recording.state, recording.warnings) == ("ready", []), recording.error_detail
    assert recording.duration_seconds == pytest.approx(2, abs=0.01)
    if chunk_mode == "auto":
        assert decoded(session.path) == decoded(source) * 2
    assert_proved(session)
