"""Sessions of PCM and WAV of which a part is bad: that part is noted, and everything else is recorded."""

import struct

import numpy as np
import pytest

from audio.assembly.chunks import window_after
from audio.assembly.concatenate import concatenate
from audio.assembly.losses import Losses
from audio.assembly.pcm import PcmAssembler
from audio.media import wav
from audio.media.convert import Converter
from audio.media.samples import PcmFormat
from audio.storage.downloads import master_format
from tests.sound import cut, encoded, speech, wav_bytes

RATE_HZ = 8000
CODECS = {"IMA ADPCM": "adpcm_ima_wav", "Microsoft ADPCM": "adpcm_ms", "MP3": "libmp3lame"}


def sound(seed: int, seconds: float = 0.5) -> np.ndarray:
    return speech(seconds, RATE_HZ, seed=seed)


def unsupported(tmp_path, codec: str) -> bytes:
    return encoded(sound(9), RATE_HZ, tmp_path / "bad.wav", "-c:a", codec)


def data_of(path) -> bytes:
    return path.read_bytes()[wav.HEADER_BYTES :]


def entries(session) -> list[dict]:
    return session.recording.checkpoint["losses"]["entries"]


@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
@pytest.mark.parametrize("name", CODECS)
def test_a_wav_of_another_codec_among_others(stored, tmp_path, name, chunk_mode):
    first, last = sound(1), sound(2)
    session = stored(format="wav", sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    session.add([wav_bytes(first, RATE_HZ), unsupported(tmp_path, CODECS[name]), wav_bytes(last, RATE_HZ)])
    concatenate(session.session.pk)
    assert session.recording.state == "live"
    (entry,) = entries(session)
    assert name in entry.pop("detail")
    assert entry == {
        "code": "unsupported_media",
        "first_sequence": 2,
        "last_sequence": 2,
        "start_seconds": 0.5,
        "end_seconds": 0.5,
    }
    session.made()
    assert data_of(session.path) == first.tobytes() + last.tobytes()


@pytest.mark.parametrize("chunk_mode", ["auto", "stream"])
def test_it_ends_where_its_riff_ends_and_raw_pcm_goes_on(stored, tmp_path, chunk_mode):
    bad = unsupported(tmp_path, "adpcm_ima_wav")
    first, last = sound(1), sound(2)
    session = stored(format="wav", sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    for message in [*cut(wav_bytes(first, RATE_HZ), 700), *cut(bad, 900), *cut(last.tobytes(), 501)]:
        session.add([message])
        concatenate(session.session.pk)
    (entry,) = entries(session)
    slices = [len(cut(wav_bytes(first, RATE_HZ), 700)), len(cut(bad, 900))]
    assert (entry["first_sequence"], entry["last_sequence"]) == (slices[0] + 1, sum(slices))
    session.made()
    assert data_of(session.path) == first.tobytes() + last.tobytes()


def test_another_producer_is_not_affected(stored, tmp_path):
    microphone = sound(1, 2).tobytes()
    session = stored(format="wav", sample_rate=RATE_HZ)
    for number, piece in enumerate(cut(microphone, 3200)):
        session.add([piece], "microphone")
        if number == 2:
            session.add([unsupported(tmp_path, "adpcm_ima_wav")], "telephone")
        concatenate(session.session.pk)
        assert session.recording.state == "live"
    (entry,) = entries(session)
    assert (entry["first_sequence"], entry["start_seconds"]) == (4, pytest.approx(9600 / 2 / RATE_HZ))
    session.made()
    assert data_of(session.path) == microphone


@pytest.mark.parametrize("chunk_mode", ["auto", "files"])
def test_a_header_that_is_cut_off(stored, chunk_mode):
    first, last = sound(1), sound(2)
    session = stored(format="wav", sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    session.add([wav_bytes(first, RATE_HZ), wav_bytes(first, RATE_HZ)[:36], wav_bytes(last, RATE_HZ)])
    concatenate(session.session.pk)
    assert [(entry["code"], entry["first_sequence"]) for entry in entries(session)] == [("undecodable_chunk", 2)]
    session.made()
    assert data_of(session.path) == first.tobytes() + last.tobytes()


def test_a_session_of_bad_files_alone_fails_with_the_first(stored, tmp_path):
    session = stored(format="wav", sample_rate=RATE_HZ)
    session.add([unsupported(tmp_path, "adpcm_ima_wav"), wav_bytes(sound(1), RATE_HZ)[:30]])
    recording = session.made()
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "unsupported_media", 1)
    assert "IMA ADPCM" in recording.error_detail
    assert "2 parts" in recording.error_detail


def test_junk_behind_a_file_is_left_out_and_noted(stored):
    first, last = sound(1), sound(2)
    session = stored(format="wav", sample_rate=RATE_HZ)
    session.add([wav_bytes(first, RATE_HZ) + b"\xff" * 99, wav_bytes(last, RATE_HZ)])
    concatenate(session.session.pk)
    (entry,) = entries(session)
    assert (entry["code"], entry["first_sequence"]) == ("audio_dropped", 1)
    assert "99 bytes" in entry["detail"]
    assert session.made().state == "ready"
    assert data_of(session.path) == first.tobytes() + last.tobytes()


@pytest.mark.parametrize("message_bytes", [1000, 20000, 1 << 20])
@pytest.mark.parametrize("riff_excess_bytes", [0, 100])
@pytest.mark.parametrize("chunk_mode", ["auto", "stream", "files"])
def test_samples_behind_the_declared_end_are_recorded_and_noted(stored, chunk_mode, riff_excess_bytes, message_bytes):
    samples = sound(1, 2).tobytes()
    head = bytearray(wav_bytes(sound(1, 1), RATE_HZ)[:44])
    struct.pack_into("<I", head, 4, struct.unpack_from("<I", head, 4)[0] + riff_excess_bytes)
    session = stored(format="wav", sample_rate=RATE_HZ, chunk_mode=chunk_mode)
    session.add([head + samples] if chunk_mode == "files" else cut(bytes(head) + samples, message_bytes))
    concatenate(session.session.pk)
    assert [entry["code"] for entry in entries(session)] == ["wav_size_exceeded"]
    assert session.made().state == "ready"
    assert data_of(session.path) == samples


def test_the_list_is_bounded_and_the_count_is_not(stored):
    session = stored(format="wav", sample_rate=RATE_HZ)
    bad = wav_bytes(sound(1), RATE_HZ)[:30]
    for _ in range(3):
        session.add([bad] * 50)
        session.add([sound(1).tobytes()])
        concatenate(session.session.pk)
    # Of each run of bad headers the next message is the end.
    carried = Losses(**session.recording.checkpoint["losses"])
    assert (carried.count, carried.lost) == (150, 150)
    assert len(carried.entries) == 100
    assert len(str(session.recording.checkpoint)) < 40_000


# What the session leaves open


def pcm_route(session, known=None, checkpoint=None):
    return PcmAssembler(session.session, known, 0, checkpoint or {})


@pytest.mark.parametrize("channels", [1, 2])
def test_the_first_samples_decide_rate_and_channels_where_the_session_names_none(stored, channels):
    samples = speech(0.5, 22050, channels)
    session = stored(format="wav", sample_rate=44100, channels=1, undecided=["sample_rate", "channels"])
    # What follows without a header has the rate and channels of the file.
    session.add([wav_bytes(samples, 22050), samples.tobytes()])
    assembler = pcm_route(session)
    pieces = list(assembler.take(window_after(session.session.pk, 0), True))
    assert assembler.output.format == PcmFormat("s16le", 22050, channels)
    assert b"".join(pieces)[wav.HEADER_BYTES :] == 2 * samples.tobytes()


def test_more_than_two_channels_are_mixed_to_two(stored, tmp_path):
    file = encoded(speech(0.5, 48000, 2), 48000, tmp_path / "six.wav", "-ac", "6")
    session = stored(format="wav", sample_rate=44100, channels=1, undecided=["channels"])
    session.add([file])
    assembler = pcm_route(session)
    pieces = list(assembler.take(window_after(session.session.pk, 0), True))
    assert assembler.output.format == PcmFormat("s16le", 44100, 2)
    assert pieces[0] == wav.header(assembler.output.format, 0)


def test_what_was_decided_stays_in_the_next_window(stored):
    samples = speech(0.5, 22050, 2)
    session = stored(format="wav", sample_rate=44100, channels=1, undecided=["sample_rate", "channels"])
    session.add([wav_bytes(samples, 22050)])
    assembler = pcm_route(session)
    list(assembler.take(window_after(session.session.pk, 0), False))
    recording = session.recording
    recording.master_encoding, recording.sample_rate, recording.channels = "s16le", 22050, 2
    session.add([samples.tobytes()])
    assembler = PcmAssembler(session.session, master_format(session.session, recording), 1, assembler.checkpoint())
    assert b"".join(assembler.take(window_after(session.session.pk, 1), True)) == samples.tobytes()


def test_headerless_pcm_has_the_sessions_defaults(stored):
    session = stored(format="wav", sample_rate=44100, channels=1, undecided=["sample_rate", "channels"])
    session.add([sound(1).tobytes()])
    assembler = pcm_route(session)
    list(assembler.take(window_after(session.session.pk, 0), True))
    assert assembler.output.format == PcmFormat("s16le", 44100, 1)


# Accounts


def test_samples_in_are_samples_out_whatever_is_converted(stored):
    session = stored(format="wav", sample_rate=16000, channels=1)
    for rate_hz in (8000, 11025, 16000, 44100, 48000, 8000):
        for channels in (1, 2):
            session.add(cut(wav_bytes(speech(0.31, rate_hz, channels), rate_hz), 3001))
            session.add([wav_bytes(speech(0.31, rate_hz, channels)[:3], rate_hz)])
            concatenate(session.session.pk)
    assert session.recording.checkpoint["losses"]["entries"] == []
    recording = session.made()
    assert recording.state == "ready"
    assert recording.duration_seconds == pytest.approx(12 * 0.31, abs=0.01)


def test_samples_that_are_lost_on_the_way_are_noted(stored, monkeypatch):
    feed = Converter.feed
    monkeypatch.setattr(Converter, "feed", lambda self, samples: (piece[:-2] for piece in feed(self, samples)))
    session = stored(format="wav", sample_rate=RATE_HZ)
    session.add([sound(1).tobytes()])
    concatenate(session.session.pk)
    assert [entry["code"] for entry in entries(session)] == ["audio_unaccounted"]


def test_a_reader_without_the_newest_fields_is_understood(stored):
    session = stored(format="wav", sample_rate=RATE_HZ)
    session.add([sound(1).tobytes()])
    old = {
        "phase": "data",
        "format": ["s16le", RATE_HZ, 1],
        "held": "",
        "left": len(sound(1).tobytes()),
        "long_size": None,
        "is_padded": False,
    }
    (chunk,) = window_after(session.session.pk, 0)
    checkpoint = {"readers": {str(chunk.source_id): old}, "converters": {}}
    assembler = pcm_route(session, PcmFormat("s16le", RATE_HZ, 1), checkpoint)
    assert b"".join(assembler.take([chunk], True)) == sound(1).tobytes()
    assert struct.calcsize("<h") * assembler.output.seconds * RATE_HZ == sound(1).nbytes


@pytest.mark.parametrize("chunk_mode", ["auto", "stream"])
@pytest.mark.parametrize("window", [1, 5])
def test_what_looks_like_the_beginning_of_a_header_stays_before_another_sources_samples(stored, chunk_mode, window):
    session = stored(format="wav", chunk_mode=chunk_mode)
    ends = [b"AR", b"BW", b"RIFF", b"RF64", b"RIFFabcd", b"RIFF\x10\0\0\0WA", b"\0B"]
    sent = [bytes([number]) * 30 + end for number in range(20) for end in ends]
    for at in range(0, len(sent), window):
        for number, payload in enumerate(sent[at : at + window], start=at):
            session.add([payload], source="ab"[number % 2])
        concatenate(session.session.pk)
    session.made()
    assert data_of(session.path) == b"".join(sent)
