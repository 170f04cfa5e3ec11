"""From chunks in the journals to a recording, through `concatenate` alone."""

import errno
import hashlib
import importlib
import itertools
import struct
import uuid
import wave

import numpy as np
import pytest

from audio.assembly import chunks
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from audio.assembly.run import Run
from audio.models import AudioChunk, AudioSession
from audio.storage.lock import session_lock
from audio.storage.paths import folder
from tests.sound import cut, decoded, encoded, encoded_live, speech, wav_bytes


def wave_frames(path) -> bytes:
    with wave.open(str(path)) as file:
        return file.readframes(file.getnframes())


# PCM and WAV


@pytest.mark.parametrize("sizes", [(3200,), (1, 3, 777), (4096,)])
def test_raw_pcm_of_any_size_gives_its_samples(stored, sizes):
    samples = speech(3).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, *sizes))
    recording = session.made()
    assert recording.state == "ready"
    assert wave_frames(session.path) == samples
    assert recording.duration_seconds == 3.0
    assert recording.size_bytes == session.path.stat().st_size == len(samples) + 80
    assert recording.sha256 == hashlib.sha256(session.path.read_bytes()).hexdigest()


def test_windows_while_the_session_is_live_give_the_same(stored):
    samples = speech(4, channels=2)
    session = stored(format="wav", channels=2)
    for piece in cut(samples.tobytes(), 9999):
        session.add(cut(piece, 1001))
        concatenate(session.session.pk)
        assert session.recording.state == "live"
    session.made()
    assert wave_frames(session.path) == samples.tobytes()


def test_a_wav_file_in_slices_with_the_header_in_the_first(stored):
    samples = speech(3)
    session = stored(format="wav")
    session.add(cut(wav_bytes(samples, 16000), 4096))
    session.made()
    assert wave_frames(session.path) == samples.tobytes()


def test_whole_wav_files_raw_pcm_and_slices_in_one_session(stored):
    samples = speech(4)
    first, second, third, fourth = np.split(samples, 4)
    session = stored(format="wav")
    sliced = b"RIFF\xff\xff\xff\xffWAVE" + wav_bytes(fourth, 16000)[12:40] + b"\xff\xff\xff\xff" + fourth.tobytes()
    session.add([wav_bytes(first, 16000), second.tobytes(), wav_bytes(third, 16000), *cut(sliced, 1111)])
    session.made()
    assert wave_frames(session.path) == samples.tobytes()


def test_another_rate_and_channels_are_resampled_and_remixed(stored):
    time_s = np.arange(44100 * 3) / 44100
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s) * 32767).astype("<i2")
    session = stored(format="wav", channels=2)
    for piece in np.array_split(tone, 7):
        session.add([wav_bytes(piece[:, None], 44100)])
        concatenate(session.session.pk)
    session.made()
    got = np.frombuffer(wave_frames(session.path), "<i2").reshape(-1, 2)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48000) / 16000) * 32767
    assert len(got) == 48000
    assert np.array_equal(got[:, 0], got[:, 1])
    # A click at one of the seven joints would stand far above rounding.
    assert np.abs(got[200:-200, 0] - expected[200:-200]).max() < 3


def test_two_sources_each_cut_inside_samples(stored):
    first, second = speech(1, seed=1).tobytes(), speech(1, seed=2).tobytes()
    session = stored(format="wav")
    for left, right in itertools.zip_longest(cut(first, 1601), cut(second, 1601), fillvalue=b""):
        session.add([left], "left")
        session.add([right], "right")
    session.made()
    got = wave_frames(session.path)
    # Each source's samples are whole and in its own order, whatever stands between them.
    left_runs = got[:1600]
    assert left_runs == first[:1600]
    assert len(got) == len(first) + len(second)
    assert sorted(struct.unpack(f"<{len(got) // 2}h", got)) == sorted(np.frombuffer(first + second, "<i2").tolist())


@pytest.mark.parametrize(
    ("encoding", "codec"), [("s24le", "pcm_s24le"), ("s32le", "pcm_s32le"), ("f32le", "pcm_f32le")]
)
def test_deep_raw_pcm_is_exact(stored, encoding, codec):
    samples = encoded_live(speech(1), 16000, encoding, "-filter:a", "volume=0.3137", "-c:a", codec)
    session = stored(format="wav", encoding=encoding)
    session.add(cut(samples, 1, 1000, 997))
    session.made()
    assert decoded(session.path, encoding) == samples


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_companded_pcm_becomes_sixteen_bits(stored, encoding, tmp_path):
    samples = encoded_live(speech(1, 8000), 8000, encoding)
    session = stored(format="wav", encoding=encoding, sample_rate=8000)
    session.add(cut(samples, 333))
    session.made()
    reference = tmp_path / "reference.wav"
    encoded(speech(1, 8000), 8000, reference, "-c:a", f"pcm_{encoding}")
    assert wave_frames(session.path) == decoded(reference)


def test_a_session_of_less_than_one_sample_is_ready_and_empty(stored):
    session = stored(format="wav")
    session.add([b"\x01"])
    assert session.made().state == "ready"
    assert wave_frames(session.path) == b""


def test_a_session_without_chunks_stays_empty(stored):
    session = stored(format="wav")
    assert session.made().state == "empty"


# One continuous stream


def _mp3(tmp_path, samples):
    return {
        "info": encoded(samples, 16000, tmp_path / "a.mp3"),
        "vbr": encoded(samples, 16000, tmp_path / "b.mp3", "-q:a", "4", "-id3v2_version", "0"),
        "bare": encoded_live(samples, 16000, "mp3"),
        "bare_vbr": encoded_live(samples, 16000, "mp3", "-q:a", "5"),
    }


@pytest.mark.parametrize("kind", ["info", "vbr", "bare", "bare_vbr"])
@pytest.mark.parametrize("sizes", [(1, 2, 400), (4096,)])
def test_an_mp3_cut_anywhere_decodes_to_what_the_source_does(stored, tmp_path, kind, sizes):
    source = _mp3(tmp_path, speech(4))[kind]
    (tmp_path / "source.mp3").write_bytes(source)
    session = stored(format="mp3")
    for pieces in _by(9, cut(source, *sizes)):
        session.add(pieces)
        concatenate(session.session.pk)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert decoded(session.path) == decoded(tmp_path / "source.mp3")
    assert recording.duration_seconds == pytest.approx(len(decoded(session.path)) / 32000)


def _by(count, items):
    return [items[start : start + count] for start in range(0, len(items), count)]


def test_a_cut_between_the_tag_and_the_first_frame_starts_no_second_part(stored, tmp_path):
    source = encoded(speech(2), 16000, tmp_path / "a.mp3")
    tag = source.index(b"\xff\xf3")
    session = stored(format="mp3")
    session.add([source[:tag], source[tag:]])
    session.made()
    assert session.path.read_bytes() == source


@pytest.mark.parametrize("options", [(), ("-sample_fmt", "s32")])
@pytest.mark.parametrize("is_live", [True, False])
def test_a_flac_cut_anywhere_is_exact_and_knows_its_length(stored, tmp_path, is_live, options):
    samples = speech(4, channels=2)
    if is_live:
        source = encoded_live(samples, 16000, "flac", *options)
    else:
        source = encoded(samples, 16000, tmp_path / "a.flac", *options)
    (tmp_path / "source.flac").write_bytes(source)
    session = stored(format="flac", channels=2)
    session.add(cut(source, 1, 3000))
    recording = session.made()
    assert recording.state == "ready"
    assert decoded(session.path, "s32le") == decoded(tmp_path / "source.flac", "s32le")
    assert decoded(session.path) == samples.tobytes()
    assert recording.duration_seconds == 4.0
    packed = int.from_bytes(session.path.read_bytes()[18:26], "big")
    assert packed & (1 << 36) - 1 == 64000


def test_an_adts_stream_cut_anywhere_decodes_to_what_the_source_does(stored, tmp_path):
    source = encoded(speech(4), 16000, tmp_path / "source.aac")
    session = stored(format="aac")
    session.add(cut(source, 1, 1, 555))
    recording = session.made()
    assert session.path.read_bytes() == source
    assert decoded(session.path) == decoded(tmp_path / "source.aac")
    assert recording.duration_seconds == pytest.approx(len(decoded(session.path)) / 32000)


@pytest.mark.parametrize(
    ("audio_format", "kind", "options"),
    [
        ("webm", "webm", ("-c:a", "libopus")),
        ("ogg", "ogg", ("-c:a", "libopus")),
        ("mp4", "mp4", ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov+default_base_moof")),
    ],
)
def test_a_browsers_stream_keeps_its_packets_and_gets_an_index(stored, tmp_path, audio_format, kind, options):
    source = encoded_live(speech(4, 48000), 48000, kind, *options)
    (tmp_path / f"source.{kind}").write_bytes(source)
    session = stored(format=audio_format, sample_rate=48000)
    session.add(cut(source, 1, 5000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    got, source_samples = decoded(session.path), decoded(tmp_path / f"source.{kind}")
    # The index of a finished MP4 says where in its last frame the audio ends; a live one decodes all of it.
    assert source_samples.startswith(got)
    assert len(source_samples) - len(got) < (2048 if audio_format == "mp4" else 1)
    assert recording.duration_seconds == pytest.approx(4, abs=0.1)
    assert list(folder(session.session.pk).glob("*.*")) == [session.path]
    assert session.path.suffix == f".{audio_format}"


def test_a_stream_of_something_else_fails_with_a_reason(stored):
    session = stored(format="flac")
    session.add([b"fLaX" + bytes(5000)])
    recording = session.made()
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "undecodable_chunk", 1)


def test_a_flac_header_without_a_rate_fails_with_a_reason(stored, tmp_path):
    source = bytearray(encoded(speech(1), 16000, tmp_path / "a.flac"))
    source[18:20], source[20] = b"\0\0", source[20] & 0x0F
    session = stored(format="flac")
    session.add([bytes(source)])
    assert session.made().state == "failed"


def test_an_mp3_stream_without_frames_fails_with_a_reason(stored):
    session = stored(format="mp3")
    session.add([bytes(5000)])
    assert session.made().error_code == "undecodable_chunk"


# Separate files


@pytest.mark.parametrize("chunk_mode", ["files", "auto"])
@pytest.mark.parametrize(("audio_format", "rate"), [("mp3", 16000), ("mp3", 44100), ("flac", 44100)])
def test_files_are_joined_without_gaps(stored, tmp_path, audio_format, rate, chunk_mode):
    pieces = np.split(speech(6, rate), 12)
    files = [encoded(piece, rate, tmp_path / f"{n}.{audio_format}") for n, piece in enumerate(pieces)]
    session = stored(format=audio_format, sample_rate=rate, chunk_mode=chunk_mode)
    for pair in _by(5, files):
        session.add(pair)
        concatenate(session.session.pk)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    got = decoded(session.path)
    assert len(got) // 2 == 6 * rate
    assert recording.duration_seconds == 6.0
    expected = b"".join(decoded(tmp_path / f"{n}.{audio_format}") for n in range(12))
    if audio_format == "flac":
        assert got == expected
    else:
        left, right = (np.frombuffer(data, "<i2").astype(float) for data in (got, expected))
        for start in range(0, len(left) - rate // 2, rate // 2):
            window = slice(start, start + rate // 2)
            assert np.corrcoef(left[window], right[window])[0, 1] > 0.98


def test_files_cut_into_messages_are_whole_again_under_auto(stored, tmp_path):
    pieces = np.split(speech(4, 44100), 4)
    files = [encoded(piece, 44100, tmp_path / f"{n}.flac") for n, piece in enumerate(pieces)]
    session = stored(format="flac", sample_rate=44100)
    for file in files:
        for piece in cut(file, 30000):
            session.add([piece])
            concatenate(session.session.pk)
    session.made()
    assert decoded(session.path) == speech(4, 44100).tobytes()


def test_a_part_larger_than_a_window_goes_through_a_file(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("audio.media.plan.WINDOW_BYTES", 20000)
    monkeypatch.setattr("audio.media.plan.bounded.__defaults__", (20000,))
    first, second = np.split(speech(6, 44100), 2)
    files = [encoded(piece, 44100, tmp_path / f"{n}.flac") for n, piece in enumerate((first, second))]
    session = stored(format="flac", sample_rate=44100)
    for file in files:
        session.add(cut(file, 9000))
    session.made()
    assert decoded(session.path) == speech(6, 44100).tobytes()


def test_files_of_other_parameters_come_out_at_the_sessions(stored, tmp_path):
    first = encoded(speech(2, 44100, 2), 44100, tmp_path / "a.flac")
    second = encoded(speech(2, 22050), 22050, tmp_path / "b.flac")
    third = encoded(speech(2), 16000, tmp_path / "c.flac")
    session = stored(format="flac", chunk_mode="files")
    session.add([first, second, third])
    recording = session.made()
    assert recording.duration_seconds == 6.0
    assert decoded(session.path)[-64000:] == speech(2).tobytes()


def test_deep_flac_files_keep_their_bits(stored, tmp_path):
    files, expected = [], b""
    for number, piece in enumerate(np.split(speech(2), 2)):
        path = tmp_path / f"{number}.flac"
        files.append(encoded(piece, 16000, path, "-filter:a", "volume=0.3137:precision=double", "-sample_fmt", "s32"))
        expected += decoded(path, "s32le")
    session = stored(format="flac", chunk_mode="files")
    session.add(files)
    session.made()
    assert decoded(session.path, "s32le") == expected


def test_adts_files_are_joined_with_the_priming_that_they_can_not_tell(stored, tmp_path):
    files = [encoded(speech(1, seed=n), 16000, tmp_path / f"{n}.aac") for n in range(3)]
    session = stored(format="aac", chunk_mode="files")
    session.add(files)
    recording = session.made()
    assert recording.state == "ready"
    each = len(decoded(tmp_path / "0.aac")) / 32000
    assert recording.duration_seconds == pytest.approx(3 * each)


@pytest.mark.parametrize("audio_format", ["mp3", "flac", "aac"])
def test_the_one_bad_file_is_named(stored, tmp_path, audio_format):
    files = [encoded(speech(1, seed=n), 16000, tmp_path / f"{n}.{audio_format}") for n in range(9)]
    files[6] = bytes(range(256)) * 20
    session = stored(format=audio_format, chunk_mode="files")
    session.add(files)
    recording = session.made()
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "undecodable_chunk", 7)
    assert recording.error_detail
    assert str(session.root) not in recording.error_detail
    # The other eight are kept.
    each = [len(decoded(tmp_path / f"{n}.{audio_format}")) // 2 for n in range(9)]
    assert recording.duration_seconds == (sum(each) - each[6]) / 16000
    assert len(decoded(session.path)) // 2 >= sum(each) - each[6]


# What goes wrong


def test_a_damaged_chunk_is_named(stored):
    session = stored(format="wav")
    session.add([bytes(100), bytes(100), bytes(100)])
    row = AudioChunk.objects.get(session=session.session, sequence=2)
    path = session.root / row.journal.name
    data = bytearray(path.read_bytes())
    data[row.offset + 70] ^= 1
    path.write_bytes(data)
    recording = session.made()
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "chunk_damaged", 2)


def test_a_missing_row_is_never_ready(stored):
    for missing in (2, 3):
        session = stored(format="wav")
        session.add([bytes(100)] * 3)
        AudioChunk.objects.filter(session=session.session, sequence=missing).delete()
        recording = session.made()
        assert (recording.state, recording.error_code, recording.failed_sequence) == (
            "failed", "chunk_damaged", missing,
        )  # fmt: skip


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_master_that_is_missing_or_too_short_is_made_anew(stored, is_missing):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    concatenate(session.session.pk)
    master = session.root / session.recording.master_name
    if is_missing:
        master.unlink()
    else:
        with master.open("r+b") as file:
            file.truncate(5000)
    recording = session.made()
    assert (recording.state, recording.error_code) == ("ready", "")
    assert wave_frames(session.path) == samples
    assert [path.name for path in session.path.parent.glob("master*.wav")] == [session.path.name]
    assert not list(session.path.parent.glob("aside/*"))


def test_whoever_reads_a_recording_while_it_is_made_anew_keeps_what_they_read(stored):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    session.made()
    with session.path.open("rb") as reader:
        before = reader.read(1000)
        rebuild(session.session.pk)
        concatenate(session.session.pk)
        assert before + reader.read() == session.path.read_bytes()


def test_a_busy_session_is_left_to_its_holder(stored):
    session = stored(format="wav")
    session.add([bytes(100)])
    with session_lock(session.session.pk) as is_ours:
        assert is_ours
        session.made()
        assert session.recording.state == "empty"
    concatenate(session.session.pk)
    assert session.recording.state == "ready"


def test_a_session_that_is_deleted_meanwhile_leaves_nothing(stored, monkeypatch):
    session = stored(format="wav")
    session.add([bytes(3200)])
    commit = Run._commit

    def deleted_first(self, *also, **values):
        AudioChunk.objects.filter(session=session.session).delete()
        AudioSession.objects.filter(pk=session.session.pk).delete()
        commit(self, *also, **values)

    monkeypatch.setattr(Run, "_commit", deleted_first)
    concatenate(session.session.pk)
    assert not folder(session.session.pk).exists()


def test_a_full_disk_is_raised_and_later_repeated(stored, monkeypatch):
    samples = speech(1).tobytes()
    session = stored(format="wav")
    session.add(cut(samples, 3200))
    session.close()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("audio.assembly.master.os.pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            concatenate(session.session.pk)
    assert session.recording.state == "empty"
    concatenate(session.session.pk)
    assert wave_frames(session.path) == samples


def test_chunks_and_a_close_that_arrive_during_a_run_are_seen_by_it(stored, monkeypatch):
    first, second = np.split(speech(2), 2)
    session = stored(format="wav")
    session.add([first.tobytes()])
    to_the_end = Run.to_the_end
    late = iter([True])

    def then_more(self):
        to_the_end(self)
        if next(late, False):
            session.add([second.tobytes()])
            session.close()

    monkeypatch.setattr(Run, "to_the_end", then_more)
    concatenate(session.session.pk)
    assert session.recording.state == "ready"
    assert wave_frames(session.path) == speech(2).tobytes()


def test_an_unknown_session_is_no_error_and_leaves_no_folder(stored):
    session = stored(format="wav")
    concatenate(uuid.uuid4())
    assert not (session.root / "sessions").exists()


# A session that is deleted meanwhile


@pytest.mark.parametrize(
    "name",
    ["audio.assembly.concatenate.chunks.window_after", "audio.storage.paths.clear_leftovers"],
    ids=["while its format is decided", "before its recording is claimed"],
)
def test_a_session_that_is_deleted_meanwhile_ends_the_run(stored, monkeypatch, name):
    session = stored(format="wav", undecided=["format"])
    session.add([wav_bytes(speech(1), 16000)])
    session.close()
    module, _, function = name.rpartition(".")
    real = getattr(importlib.import_module("audio.storage.paths") if "paths" in module else chunks, function)

    def deleted(*arguments):
        AudioChunk.objects.all().delete()
        AudioSession.objects.filter(pk=session.session.pk).delete()
        return real(*arguments)

    monkeypatch.setattr(name, deleted)
    concatenate(session.session.pk)
    assert not AudioSession.objects.exists()
