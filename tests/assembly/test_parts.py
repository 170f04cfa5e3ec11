"""What browsers record: slices of WebM, Ogg and MP4, and the parts that reconnects make, become one recording."""

import numpy as np
import pytest

from audio.assembly import container
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from audio.media import ffmpeg
from audio.storage.paths import folder
from tests.containers import VECTORS, duration_seconds, has_index, hashes, packets, timeline_seconds, vector
from tests.sound import cut, decoded, encoded, encoded_live, speech

FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "500000")
KINDS = ["webm-opus", "mp4-opus", "webm", "webm-pcm", "ogg", "mp4-aac"]


def slices(kind: str, seed: int = 1) -> tuple[str, list[bytes]]:
    """What a recorder sends: the format, and its messages."""
    if (VECTORS / kind).is_dir():
        return kind.split("-")[0], vector(kind)
    sound = speech(1.5, 48000, 2, seed)
    match kind:
        case "mp4-aac":
            source = encoded_live(sound, 48000, "mp4", "-c:a", "aac", *FRAGMENTED)
        case _:
            source = encoded_live(sound, 48000, kind, "-c:a", "libopus")
    return kind.split("-")[0], cut(source, 5000)


def recorders(stored, tmp_path, *kinds_and_seeds: tuple[str, int]):
    """A session with what these recorders sent, one after the other, and each one's bytes as a file."""
    paths, session = [], None
    for number, (kind, seed) in enumerate(kinds_and_seeds):
        audio_format, messages = slices(kind, seed)
        session = session or stored(format=audio_format, sample_rate=48000, channels=2)
        # An empty message stores nothing.
        session.add(message for message in messages if message)
        concatenate(session.session.pk)
        paths.append(tmp_path / f"part{number}.{audio_format}")
        paths[-1].write_bytes(b"".join(messages))
    return session, paths


@pytest.mark.parametrize("kind", KINDS)
def test_the_slices_of_one_recorder(stored, tmp_path, kind):
    session, (source,) = recorders(stored, tmp_path, (kind, 1))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert hashes(session.path) == hashes(source)
    assert recording.duration_seconds == pytest.approx(duration_seconds(session.path), abs=0.03)
    assert has_index(session.path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reconnect_with_a_new_recorder_gives_one_recording_with_every_packet(stored, tmp_path, kind):
    session, sources = recorders(stored, tmp_path, (kind, 1), (kind, 2), (kind, 3))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert hashes(session.path) == hashes(*sources)
    times = [time for time, _ in packets(session.path)]
    assert times == sorted(times)
    assert has_index(session.path)
    # By the clock of the sender, as the packets' times tell it.
    each = [timeline_seconds(source, is_followed=source is not sources[-1]) for source in sources]
    assert duration_seconds(session.path) == pytest.approx(sum(each), abs=0.05)
    assert recording.duration_seconds == pytest.approx(sum(each), abs=0.05)
    # Seeking into the last part leaves what lies behind that moment, not the whole.
    rest = len(decoded(session.path, "s16le", "-ss", str(sum(each[:2]) + 0.5))) / 4 / 48000
    assert rest == pytest.approx(each[2] - 0.5, abs=0.1)
    assert [path.name for path in folder(session.session.pk).glob("*.*")] == [session.path.name]


def test_a_recorder_that_was_cut_off_keeps_the_next_one_whole(stored, tmp_path):
    audio_format, first = slices("webm-opus")
    session = stored(format=audio_format, sample_rate=48000, channels=2)
    session.add([*first[:-1], first[-1][:-700], *first])
    (tmp_path / "cut.webm").write_bytes(b"".join(first)[:-700])
    (tmp_path / "whole.webm").write_bytes(b"".join(first))
    assert session.made().state == "ready"
    assert hashes(session.path) == hashes(tmp_path / "cut.webm", tmp_path / "whole.webm")


def test_where_a_part_can_not_be_copied_to_its_end_all_are_decoded(stored, tmp_path):
    audio_format, first = slices("mp4-opus")
    session = stored(format=audio_format, sample_rate=48000, channels=2)
    session.add([*first[:3], first[3][:-700], *first[:4]])
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    (tmp_path / "cut.mp4").write_bytes(b"".join(first[:4])[:-700])
    (tmp_path / "whole.mp4").write_bytes(b"".join(first))
    each = [len(decoded(tmp_path / name)) / 4 / 48000 for name in ("cut.mp4", "whole.mp4")]
    assert recording.duration_seconds == pytest.approx(sum(each), abs=0.02)
    assert duration_seconds(session.path) == pytest.approx(recording.duration_seconds, abs=0.05)


@pytest.mark.parametrize(("kind", "options"), [("webm", ("-c:a", "libvorbis")), ("ogg", ("-ac", "1"))])
def test_parts_of_another_codec_or_parameters_are_decoded(stored, tmp_path, kind, options):
    audio_format, first = slices(kind)
    source = tmp_path / f"first.{audio_format}"
    source.write_bytes(b"".join(first))
    second = encoded_live(speech(1.5, 48000, 2), 48000, kind, "-c:a", "libopus", *options)
    session = stored(format=audio_format, sample_rate=48000, channels=2)
    session.add([*first, *cut(second, 4000)])
    concatenate(session.session.pk)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert recording.duration_seconds == pytest.approx(3.0, abs=0.05)
    assert len(decoded(session.path)) / 4 / 48000 == pytest.approx(3.0, abs=0.05)
    assert not set(hashes(source)) & set(hashes(session.path))


def test_a_checkpoint_of_an_older_version_is_not_continued(stored, tmp_path):
    """The parts are decoded by now, which the checkpoint of an older version says in other words."""
    session, paths = recorders(stored, tmp_path, ("webm", 1), ("webm-pcm", 2), ("webm", 3))
    recording = session.recording
    assert (recording.state, recording.checkpoint.pop("family")) == ("live", "files")
    recording.checkpoint |= {"version": 2, "route": "files"}
    recording.save(update_fields=["checkpoint"])
    made = session.made()
    assert (made.state, made.warnings) == ("ready", [])
    seconds = sum(timeline_seconds(path) for path in paths)
    assert made.duration_seconds == pytest.approx(seconds, abs=0.1)


def test_a_recorder_that_sent_its_header_only_leaves_nothing_out(stored, tmp_path):
    audio_format, first = slices("mp4-opus")
    session = stored(format=audio_format, sample_rate=48000, channels=2)
    session.add([first[0], *first[:4], first[0], *first[:4], first[0]])
    (tmp_path / "part.mp4").write_bytes(b"".join(first))
    assert session.made().state == "ready"
    assert hashes(session.path) == 2 * hashes(tmp_path / "part.mp4")


def test_a_part_that_is_none_is_named_and_the_others_are_kept(stored, tmp_path):
    audio_format, first = slices("webm-opus")
    session = stored(format=audio_format, sample_rate=48000, channels=2)
    session.add([*first, first[0][:40] + bytes(3000), *first])
    (tmp_path / "part.webm").write_bytes(b"".join(first))
    recording = session.made()
    assert (recording.state, recording.error_code) == ("failed", "undecodable_chunk")
    assert recording.failed_sequence == len(first) + 1
    assert hashes(session.path) == 2 * hashes(tmp_path / "part.webm")


def test_a_header_alone_is_no_recording(stored):
    session = stored(format="mp4", sample_rate=48000, channels=2)
    session.add([slices("mp4-opus")[1][0]])
    recording = session.made()
    assert (recording.state, recording.failed_sequence) == ("failed", 1)


def test_more_parts_than_are_carried_are_decoded(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_MOST_PARTS", 2)
    session, _ = recorders(stored, tmp_path, ("ogg", 1), ("ogg", 2), ("ogg", 3))
    recording = session.made()
    assert recording.state == "ready"
    assert recording.duration_seconds == pytest.approx(4.5, abs=0.05)


def test_each_part_is_looked_at_once_and_all_are_copied_in_one_run(stored, monkeypatch):
    runs = []
    command = ffmpeg._command
    monkeypatch.setattr(ffmpeg, "_command", lambda *arguments: runs.append(arguments) or command(*arguments))
    _, messages = slices("ogg")
    session = stored(format="ogg", sample_rate=48000, channels=2)
    for _ in range(3):
        for message in messages:
            session.add([message])
            concatenate(session.session.pk)
    # The header and the timeline of each part that is complete.
    assert len(runs) == 4
    session.made()
    # Those of the last one, the copy, and its proof: the header, each part, and the recording.
    assert len(runs) == 12


def test_made_again_it_is_the_same(stored, tmp_path):
    session, sources = recorders(stored, tmp_path, ("webm-opus", 1), ("webm-opus", 1))
    session.made()
    rebuild(session.session.pk)
    assert session.made().state == "ready"
    assert hashes(session.path) == hashes(*sources)


def test_whole_files_per_message_are_decoded_without_their_padding(stored, tmp_path):
    files = [encoded(speech(1, 48000, 2, seed=n), 48000, tmp_path / f"{n}.ogg", "-c:a", "libopus") for n in range(3)]
    session = stored(format="ogg", sample_rate=48000, channels=2, chunk_mode="files")
    session.add(files)
    assert session.made().duration_seconds == 3.0


@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
@pytest.mark.parametrize("kind", ["flac", "ogg", "webm"])
def test_files_in_one_message_are_all_decoded(stored, tmp_path, kind, chunk_mode):
    sounds = [speech(1, 48000, channels, seed) for seed, channels in ((1, 1), (2, 1), (3, 2))]
    codec = ("-c:a", "flac") if kind != "webm" else ("-c:a", "libopus")
    data = [encoded(sound, 48000, tmp_path / f"{number}.{kind}", *codec) for number, sound in enumerate(sounds)]
    session = stored(format=kind, sample_rate=48000, channels=1, chunk_mode=chunk_mode)
    session.add([b"".join(data)])
    recording = session.made()
    assert (recording.state, recording.warnings) == ("ready", []), recording.error_detail
    assert recording.duration_seconds == pytest.approx(3, abs=0.05)
    if kind == "flac":
        heard = np.frombuffer(decoded(session.path), "<i2")
        assert np.array_equal(heard[:96000], np.concatenate(sounds[:2])[:, 0])


def test_of_files_in_one_message_a_bad_one_costs_itself_alone(stored, tmp_path):
    sounds = [speech(1, 48000, 1, seed) for seed in (1, 2, 3)]
    good = [encoded(sound, 48000, tmp_path / f"{number}.flac") for number, sound in enumerate(sounds)]
    bad = good[1][:42] + b"\x55" * 3000
    session = stored(format="flac", sample_rate=48000, channels=1, chunk_mode="files")
    session.add([good[0] + bad + good[2]])
    recording = session.made()
    assert (recording.state, len(recording.warnings)) == ("failed", 1)
    assert decoded(session.path) == np.concatenate([sounds[0], sounds[2]]).tobytes()


def test_a_webm_header_may_write_its_sizes_in_eight_bytes(stored, tmp_path):
    first, second = (encoded(speech(1, 48000, seed=seed), 48000, tmp_path / f"{seed}.webm") for seed in (1, 2))
    wide = widened(second)
    session = stored(format="webm", sample_rate=48000, channels=1)
    session.add([first, wide[:1], wide[1:]])
    recording = session.made()
    assert (recording.state, recording.warnings) == ("ready", []), recording.error_detail
    (tmp_path / "wide.webm").write_bytes(wide)
    assert hashes(session.path) == hashes(tmp_path / "1.webm", tmp_path / "wide.webm")


def widened(webm: bytes) -> bytes:
    """The same file, the sizes in its EBML header written in eight bytes."""
    end, made, at = 5 + (webm[4] & 0x7F), b"", 5
    while at < end:
        size = webm[at + 2] & 0x7F
        made += webm[at : at + 2] + (size | 1 << 56).to_bytes(8, "big") + webm[at + 3 : at + 3 + size]
        at += 3 + size
    return webm[:4] + (len(made) | 1 << 56).to_bytes(8, "big") + made + webm[end:]
