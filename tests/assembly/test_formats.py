"""Every format in every manner, at every rate and channel count that it allows; each row says what is exact.

samples   the recording's samples are those that were sent
bytes     the recording is what was sent, so it decodes to what the source decodes to
packets   the packets are those that were sent, and decode to what the source decodes to
frames    as many sample frames as the inputs have together: no gap, nothing lost
decoded   as many sample frames as the inputs decode to: the format tells no delay
"""

import audioop
import hashlib
import wave
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from audio.media.frames import describe, flac_stream_info
from tests.containers import hashes
from tests.sound import cut, decoded, encoded, encoded_live, speech, wav_bytes

RATES_HZ = (8000, 16000, 22050, 44100, 48000, 96000)
FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")
SECONDS = 0.25
# With the MD5 in STREAMINFO this is what `flac -t` looks at: the CRC of every frame, and that all decode.
STRICT = ("-xerror", "-err_detect", "crccheck+explode")


@dataclass(frozen=True)
class Row:
    """A format, how its sources are encoded, what it allows, and what is exact of a stream and of whole files.

    `decoded_hz` is the rate that it decodes to, 0 for that of the source.
    """

    format: str
    stream_options: tuple[str, ...]
    file_options: tuple[str, ...]
    rates_hz: tuple[int, ...]
    stream: str
    files: str
    decoded_hz: int = 0


OPUS = ("-c:a", "libopus")
ROWS = [
    Row("wav", (), (), RATES_HZ, "samples", "samples"),
    Row("flac", (), (), RATES_HZ, "samples", "samples"),
    Row("mp3", (), (), RATES_HZ[:-1], "bytes", "frames"),
    Row("aac", (), (), RATES_HZ, "bytes", "decoded"),
    Row("webm", OPUS, OPUS, (8000, 16000, 48000), "packets", "frames", 48000),
    Row("ogg", OPUS, OPUS, (8000, 16000, 48000), "packets", "frames", 48000),
    Row("mp4", ("-c:a", "aac", *FRAGMENTED), ("-c:a", "aac"), RATES_HZ, "packets", "frames"),
]
MUXERS = {"aac": "adts"}


def _cases() -> Iterator:
    for row in ROWS:
        for rate_hz in row.rates_hz:
            for channels in (1, 2):
                yield pytest.param(row, rate_hz, channels, id=f"{row.format}-{rate_hz}-{channels}")


def frames_of(path, channels: int) -> int:
    return len(decoded(path)) // 2 // channels


def check_header(path, recording, rate_hz: int, channels: int, samples: bytes) -> None:
    """What the header says of the length is right to the frame; a FLAC that says its MD5 says the right one."""
    frames = len(samples) // 2 // channels
    assert recording.duration_seconds == frames / rate_hz
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (frames, rate_hz, channels)
    else:
        info = flac_stream_info(path.read_bytes()[:100])
        assert (info.total_samples, info.sample_rate, info.channels) == (frames, rate_hz, channels)
        assert info.body[18:] in (bytes(16), hashlib.md5(samples, usedforsecurity=False).digest())


@pytest.mark.parametrize(("row", "rate_hz", "channels"), list(_cases()))
def test_one_stream_cut_anywhere(stored, tmp_path, row, rate_hz, channels):
    sound = speech(SECONDS, rate_hz, channels)
    if row.format == "wav":
        source = wav_bytes(sound, rate_hz)
    else:
        source = encoded_live(sound, rate_hz, MUXERS.get(row.format, row.format), *row.stream_options)
    session = stored(format=row.format, sample_rate=rate_hz, channels=channels)
    session.add(cut(source, 1, 2, 3, 700, 1001))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    path = tmp_path / f"source.{row.format}"
    path.write_bytes(source)
    got = decoded(session.path, "s16le", *STRICT)
    match row.stream:
        case "samples":
            assert got == sound.tobytes()
            check_header(session.path, recording, rate_hz, channels, got)
        case "bytes":
            assert session.path.read_bytes() == source
            assert recording.duration_seconds == len(got) // 2 // channels / rate_hz
        case "packets":
            assert hashes(session.path) == hashes(path)
            assert decoded(path).startswith(got)
            # FFmpeg tells the time of the last packet: an encoder's delay before zero is not always in it.
            seconds = len(got) / 2 / channels / (row.decoded_hz or rate_hz)
            assert recording.duration_seconds == pytest.approx(seconds, abs=0.04)


@pytest.mark.parametrize(("row", "rate_hz", "channels"), list(_cases()))
def test_whole_files_a_message_each(stored, tmp_path, row, rate_hz, channels):
    sounds = [speech(SECONDS, rate_hz, channels, seed) for seed in (1, 2)]
    paths = [tmp_path / f"{number}.{row.format}" for number in range(2)]
    files = [encoded(sound, rate_hz, path, *row.file_options) for sound, path in zip(sounds, paths, strict=True)]
    session = stored(format=row.format, sample_rate=rate_hz, channels=channels, chunk_mode="files")
    session.add(files)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    frames = sum(map(len, sounds))
    match row.files:
        case "samples":
            got = decoded(session.path, "s16le", *STRICT)
            assert got == b"".join(sound.tobytes() for sound in sounds)
            check_header(session.path, recording, rate_hz, channels, got)
        case "frames":
            assert recording.duration_seconds == frames / rate_hz
            decoded_hz = row.decoded_hz or rate_hz
            assert frames_of(session.path, channels) == frames * decoded_hz // rate_hz
            if row.format == "mp3":
                # What the Info frame says, delay and padding taken off.
                assert describe("mp3", session.path.read_bytes()).sample_frames == frames
        case "decoded":
            assert recording.duration_seconds == sum(frames_of(path, channels) for path in paths) / rate_hz


@pytest.mark.parametrize("row", [pytest.param(row, id=row.format) for row in ROWS])
def test_mixed_parameters_come_out_at_the_sessions(stored, tmp_path, row):
    kinds = [(48000, 2), (16000, 1), (8000, 2), (48000, 1)]
    files, seconds = [], 0.0
    for number, (rate_hz, channels) in enumerate(kinds):
        path = tmp_path / f"{number}.{row.format}"
        files.append(encoded(speech(0.5, rate_hz, channels, number), rate_hz, path, *row.file_options))
        seconds += frames_of(path, channels) / (row.decoded_hz or rate_hz) if row.files == "decoded" else 0.5
    session = stored(format=row.format, sample_rate=16000, channels=2, chunk_mode="files")
    session.add(files)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    # What is resampled ends on a frame of the session's rate.
    assert recording.duration_seconds == pytest.approx(seconds, abs=1 / 16000)
    if row.files == "samples":
        # The second is of the session's rate: every sample of it is there, in both channels.
        second = np.repeat(speech(0.5, 16000, 1, 1), 2, axis=1)
        assert decoded(session.path)[32000:64000] == second.tobytes()


def _raw(encoding: str, rate_hz: int, channels: int) -> bytes:
    values = np.random.default_rng(rate_hz).uniform(-1, 1, (rate_hz // 10, channels))
    if encoding == "f32le":
        return values.astype("<f4").tobytes()
    if encoding in ("mulaw", "alaw"):
        return (values * 127 + 128).astype(np.uint8).tobytes()
    wide = (values * (1 << 31)).astype("<i4")
    kept = int(encoding[1:3]) // 8
    return np.ascontiguousarray(wide).view(np.uint8).reshape(-1, 4)[:, 4 - kept :].tobytes()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("encoding", ["s16le", "s24le", "s32le", "f32le", "mulaw", "alaw"])
def test_raw_pcm_of_telephones_and_studios(stored, encoding, rate_hz, channels):
    raw = _raw(encoding, rate_hz, channels)
    session = stored(format="wav", encoding=encoding, sample_rate=rate_hz, channels=channels)
    session.add(cut(raw, 1, 5, 799))
    recording = session.made()
    assert recording.duration_seconds == 0.1
    expand = {"mulaw": audioop.ulaw2lin, "alaw": audioop.alaw2lin}.get(encoding)
    expected = expand(raw, 2) if expand else raw
    data = session.path.read_bytes()
    assert data[80:] == expected + bytes(len(expected) % 2)
    assert data[72:80] == b"data" + len(expected).to_bytes(4, "little")
    tag, told_channels, told_hz = (int.from_bytes(data[at : at + size], "little") for at, size in _fields(data))
    assert (tag, told_channels, told_hz) == (3 if encoding == "f32le" else 1, channels, rate_hz)


def _fields(data: bytes) -> list[tuple[int, int]]:
    at = data.index(b"fmt ") + 8
    return [(at, 2), (at + 2, 2), (at + 4, 4)]
