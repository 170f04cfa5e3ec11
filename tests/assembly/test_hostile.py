"""Sessions of hostile media: whatever is sent, nothing else is opened, the work is bounded, and the end is clear."""

import os
import random
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio.assembly import chunks
from audio.media import ffmpeg, remux
from audio.models import RecordingState
from audio.storage.paths import folder
from tests import bait
from tests.sound import FFMPEG, cut, decoded, encoded, encoded_live, speech, wav_bytes

REASONS = ("undecodable_chunk", "unsupported_media", "media_limit_exceeded", "ffmpeg_failed")
LIVE_MP4 = ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov+default_base_moof")


@pytest.fixture
def trap(tmp_path):
    with bait.set_in(tmp_path) as trap:
        yield trap


def assert_ended_well(session, payloads):
    """The recording holds all, or says why not; nothing temporary is left; the chunks are there as they were sent."""
    recording = session.recording
    if recording.state == RecordingState.READY:
        assert recording.chunks_done == len(payloads)
        assert session.path.stat().st_size == recording.size_bytes
    else:
        assert recording.state == RecordingState.FAILED
        assert recording.error_code in REASONS
        assert 1 <= (recording.failed_sequence or 1) <= len(payloads)
        assert recording.error_detail
        assert str(session.root) not in recording.error_detail
    # Working folders are the only folders there.
    assert not [path for path in folder(session.session.pk).rglob("*") if path.is_dir()]
    assert [chunk.payload for chunk in chunks.read_range(session.session.pk, 1, len(payloads))] == payloads


def assert_no_secret(session, log):
    for path in folder(session.session.pk).rglob("*"):
        assert bait.SECRET not in path.read_bytes()
    assert bait.SECRET.decode() not in session.recording.error_detail + log


def made(stored, payloads, audio_format, chunk_mode="auto", **parameters):
    """A session of these chunks whose recording was made, or could not be."""
    session = stored(format=audio_format, chunk_mode=chunk_mode, **parameters)
    session.add(payloads)
    session.made()
    assert_ended_well(session, payloads)
    return session


def test_a_message_of_headers_alone_costs_no_run_of_ffmpeg_for_each(stored, monkeypatch):
    runs = []
    command = ffmpeg._command
    monkeypatch.setattr(ffmpeg, "_command", lambda *arguments: runs.append(arguments) or command(*arguments))
    monkeypatch.setattr("audio.assembly.files._MOST_FILES_BEYOND_MESSAGES", 10)
    header = bait.MAGIC["flac"][0].ljust(42, b"\x01")
    session = made(stored, [header * 20_000], "flac", sample_rate=44100)
    assert (session.recording.state, session.recording.error_code) == ("failed", "media_limit_exceeded")
    assert len(runs) < 50


# Nothing else is opened


@pytest.mark.parametrize("kind", bait.LISTS)
@pytest.mark.parametrize("audio_format", bait.FORMATS)
def test_a_list_in_disguise_opens_nothing(stored, trap, caplog, audio_format, kind):
    payloads = bait.disguised(trap.bait(kind), audio_format)
    sessions = [made(stored, payloads, audio_format, "files")]
    sessions += [made(stored, [payload], audio_format, "stream") for payload in payloads]
    for session in sessions:
        assert_no_secret(session, caplog.text)
    trap.assert_untouched()
    # Headerless PCM is whatever was sent; nothing else is a recording.
    audible = {"wav": [payloads[0]]}.get(audio_format, [])
    for session, payload in zip(sessions[1:], payloads, strict=True):
        assert (session.recording.state == RecordingState.READY) == (payload in audible)
        assert session.recording.state == RecordingState.READY or session.recording.failed_sequence == 1
    assert sessions[0].recording.state == RecordingState.FAILED
    assert sessions[0].recording.failed_sequence in (1, 2)


@pytest.mark.parametrize("kind", bait.LISTS)
def test_a_list_among_parts_that_are_joined_opens_nothing(stored, trap, caplog, kind):
    whole = encoded_live(speech(1, 48000), 48000, "ogg", "-c:a", "libopus")
    payloads = [whole, bait.MAGIC["ogg"][0] + trap.bait(kind), whole]
    session = made(stored, payloads, "ogg", sample_rate=48000)
    trap.assert_untouched()
    assert_no_secret(session, caplog.text)
    assert session.recording.failed_sequence == 2


@pytest.mark.parametrize("place", ["file", "port"])
@pytest.mark.parametrize("kind", ["url ", "alis"])
@pytest.mark.parametrize("chunk_mode", ["stream", "files"])
def test_an_mp4_whose_samples_are_elsewhere_opens_nothing(stored, trap, caplog, tmp_path, kind, place, chunk_mode):
    file = encoded(speech(1), 16000, tmp_path / "a.mp4")
    hostile = bait.with_external_samples(file, str(trap.path) if place == "file" else trap.url, kind)
    session = made(stored, [hostile], "mp4", chunk_mode)
    trap.assert_untouched()
    assert_no_secret(session, caplog.text)


def test_these_baits_catch_a_reader_that_is_not_on_its_guard(trap, tmp_path):
    (tmp_path / "list").write_bytes(trap.bait("ffconcat"))
    (tmp_path / "a.mp4").write_bytes(
        bait.with_external_samples(encoded(speech(1), 16000, tmp_path / "a.mp4"), str(trap.path), "alis")
    )
    (tmp_path / "list.m3u8").write_bytes(trap.bait("hls"))
    careless = {
        "list": ["-safe", "0", "-f", "concat"],
        "a.mp4": ["-enable_drefs", "1", "-use_absolute_path", "1"],
        "list.m3u8": ["-allowed_extensions", "ALL", "-protocol_whitelist", "file,http,tcp,crypto"],
    }
    for name, options in careless.items():
        command = [FFMPEG, "-v", "error", *options, "-i", str(tmp_path / name), "-f", "null", "-"]
        subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert trap.is_opened() or trap.connections(), name


def test_a_list_that_passes_for_a_file_of_its_own_is_not_followed(stored, tmp_path):
    """Its frames are counted as the first file's, so that only FFmpeg's own look at it could tell."""
    first = encoded_live(speech(1), 16000, "mp3", "-b:a", "32k", "-id3v2_version", "0", "-write_xing", "0")
    # 32 kbit/s at 16 kHz: 144 bytes and 36 ms a frame. A line of a list ends with a line feed or a zero byte.
    frame = first[:4] + b"A" * 140
    hostile = b"ffconcat version 1.0\nfile 1.mp3\n#" + frame * (len(first) // 144)
    session = made(stored, [first, hostile], "mp3", "files")
    if session.recording.state == RecordingState.READY:
        mixed = np.frombuffer(decoded(session.path), "<i2").astype(float)
        half = len(mixed) // 2
        assert np.corrcoef(mixed[:half], mixed[half : 2 * half])[0, 1] < 0.5
    else:
        assert session.recording.failed_sequence == 2


# Bombs


def wav_header(rate_hz, channels, bits):
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate_hz, 0, channels * bits // 8 & 0xFFFF, bits
    ) + b"data\xff\xff\xff\xff"  # fmt: skip


@pytest.mark.parametrize(
    ("rate_hz", "channels", "bits"),
    [(1, 1, 16), (4_000_000_000, 1, 16), (16000, 65535, 16), (16000, 0, 16), (16000, 1, 0), (0, 0, 0)],
)
@pytest.mark.parametrize("chunk_mode", ["auto", "stream", "files"])
def test_an_absurd_wav_header_is_rejected(stored, rate_hz, channels, bits, chunk_mode):
    payload = wav_header(rate_hz, channels, bits) + bytes(5000)
    recording = made(stored, [payload], "wav", chunk_mode).recording
    assert (recording.state, recording.failed_sequence) == ("failed", 1)
    assert recording.error_code in ("unsupported_media", "undecodable_chunk")


def silence(seconds, path, rate=8000):
    command = [FFMPEG, "-v", "error", "-f", "lavfi", "-i", f"anullsrc=r={rate}:cl=mono:d={seconds}", "-y", str(path)]
    subprocess.run([*command[:-2], "-frame_size", "65535", "-y", str(path)], check=True)
    return path.read_bytes()


def with_flac_parameters(file, rate_hz, total):
    packed = int.from_bytes(file[18:26], "big")
    packed = rate_hz << 44 | packed & (1 << 44) - 1 & ~((1 << 36) - 1) | total
    return file[:18] + packed.to_bytes(8, "big") + file[26:]


def test_a_small_flac_of_hours_of_silence_is_bounded(stored, tmp_path, settings):
    settings.MAX_SESSION_DURATION_HOURS = 0.01
    hours = silence(7200, tmp_path / "a.flac")
    assert len(hours) < 50_000
    recording = made(stored, [silence(5, tmp_path / "b.flac"), hours], "flac", "files").recording
    assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "media_limit_exceeded", 2)
    # As a stream it stays as small as it is.
    session = made(stored, cut(hours, 9000), "flac")
    assert (session.recording.state, session.recording.duration_seconds) == ("ready", 7200)
    assert session.recording.size_bytes == len(hours)


@pytest.mark.parametrize(
    "limits", [ffmpeg.Limits(cpu_seconds=1), ffmpeg.Limits(memory_bytes=40 << 20)], ids=["processor", "memory"]
)
def test_a_session_that_needs_more_than_is_allowed_fails_and_leaves_nothing(stored, monkeypatch, limits):
    monkeypatch.setattr(ffmpeg.output_of, "__defaults__", (limits, *ffmpeg.output_of.__defaults__[1:]))
    before = children()
    recording = made(stored, [bait.weeks_of_silence()], "flac", "files").recording
    assert (recording.state, recording.failed_sequence) == ("failed", 1)
    # Where there is no memory to begin with, FFmpeg says so in other words.
    assert recording.error_code == "media_limit_exceeded" or limits.memory_bytes < 1 << 30
    assert children() == before


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.parametrize("total", [0, 20, 100_000, (1 << 36) - 1])
@pytest.mark.parametrize("rate_hz", [1, 700_000])
def test_a_flac_of_an_absurd_rate_or_length_is_rejected(stored, tmp_path, rate_hz, total):
    payload = with_flac_parameters(silence(100, tmp_path / "a.flac"), rate_hz, total)
    session = made(stored, [payload], "flac", "files")
    if session.recording.state == RecordingState.READY:
        # The frames tell their rate too.
        assert session.recording.duration_seconds <= 101
    else:
        assert session.recording.failed_sequence == 1


def test_an_mp4_that_names_the_same_bytes_again_and_again_is_bounded(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(remux, "_MOST_OVERHEAD_BYTES", 1 << 20)
    session = made(stored, [repeating(encoded(speech(4), 16000, tmp_path / "a.mp4"), 2000)], "mp4")
    assert (session.recording.state, session.recording.error_code) == ("failed", "media_limit_exceeded")


def repeating(mp4, times):
    """An MP4 file whose table of chunks names the whole of its samples so many times, as one sample each."""
    at = mp4.rindex(b"moov") - 4
    moov, start = mp4[at:], mp4.index(b"mdat") + 4
    table = ("trak", "mdia", "minf", "stbl")
    for name, body in {
        "stsz": struct.pack(">III", 0, at - start, times),
        "stsc": struct.pack(">IIIII", 0, 1, 1, 1, 1),
        "stco": struct.pack(">II", 0, times) + struct.pack(">I", start) * times,
        "stts": struct.pack(">IIII", 0, 1, times, 1024),
    }.items():
        path = tuple(part.encode() for part in (*table, name))
        moov = bait.patched(moov, path, bait.box(name.encode(), body))
    return mp4[:at] + moov


def nested_boxes(depth):
    box = b""
    for _ in range(depth):
        box = bait.box(b"moov", box)
    return bait.MAGIC["mp4"][0] + box


def nested_elements(depth):
    # SimpleTag (ID 0x67C8) may contain itself.
    element = b""
    for _ in range(depth):
        element = b"\x67\xc8" + (len(element) | 1 << 56).to_bytes(8, "big") + element
    return bait.MAGIC["webm"][0] + b"\x12\x54\xc3\x67" + (len(element) | 1 << 56).to_bytes(8, "big") + element


@pytest.mark.parametrize("chunk_mode", ["stream", "files"])
@pytest.mark.parametrize(
    ("audio_format", "make"), [("mp4", nested_boxes), ("webm", nested_elements)], ids=["mp4", "webm"]
)
def test_deep_nesting_is_no_depth_for_us(stored, audio_format, make, chunk_mode):
    assert made(stored, [make(20_000)], audio_format, chunk_mode).recording.state == "failed"


@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
def test_a_giant_tag_is_passed_over_or_is_all_there_is(stored, tmp_path, audio_format):
    sound = encoded_live(speech(1), 16000, {"aac": "adts"}.get(audio_format, audio_format))
    tag = bait.id3(bytes(8 << 20))
    session = made(stored, cut(tag + sound, 1 << 20), audio_format)
    assert session.recording.duration_seconds == pytest.approx(1, abs=0.3)
    endless = b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + sound
    assert made(stored, [endless], audio_format).recording.error_code == "undecodable_chunk"


def test_an_mp3_that_declares_centuries_has_the_length_of_its_frames(stored, tmp_path):
    file = bytearray(encoded(speech(1), 16000, tmp_path / "a.mp3"))
    at = max(file.find(b"Xing"), file.find(b"Info"))
    file[at + 8 : at + 12] = b"\xff\xff\xff\xff"
    for chunk_mode in ("auto", "files"):
        recording = made(stored, [bytes(file)], "mp3", chunk_mode).recording
        assert recording.state == "failed" or recording.duration_seconds == pytest.approx(1, abs=0.2)


def test_an_ogg_of_an_absurd_position_ends(stored):
    file = bytearray(encoded_live(speech(1, 48000), 48000, "ogg", "-c:a", "libopus"))
    last = file.rindex(b"OggS")
    struct.pack_into("<q", file, last + 6, 1 << 61)
    struct.pack_into("<I", file, last + 22, 0)
    struct.pack_into("<I", file, last + 22, page_crc(file[last:]))
    for chunk_mode in ("auto", "files"):
        session = made(stored, [bytes(file)], "ogg", chunk_mode, sample_rate=48000)
        assert session.recording.duration_seconds == pytest.approx(1, abs=0.1)


def page_crc(page):
    """RFC 3533 section 6: of a page whose CRC is zero."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def test_an_mp4_whose_samples_last_for_days_is_decoded_as_what_it_holds(stored, tmp_path):
    file = encoded(speech(1), 16000, tmp_path / "a.mp4")
    at = file.rindex(b"moov") - 4
    table = bait.box(b"stts", struct.pack(">IIII", 0, 1, 1000, 0x7FFFFFFF))
    hostile = file[:at] + bait.patched(file[at:], (b"trak", b"mdia", b"minf", b"stbl", b"stts"), table)
    made(stored, [hostile], "mp4")
    session = made(stored, [hostile], "mp4", "files")
    assert session.recording.state == "failed" or session.recording.duration_seconds == pytest.approx(1, abs=0.2)


# Damage


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place, sound = tmp_path_factory.mktemp("files"), speech(0.5)
    return {
        "wav": wav_bytes(sound, 16000),
        "mp3": encoded(sound, 16000, place / "a.mp3"),
        "flac": encoded(sound, 16000, place / "a.flac"),
        "aac": encoded(sound, 16000, place / "a.aac"),
        "webm": encoded_live(sound, 16000, "webm"),
        "ogg": encoded_live(sound, 16000, "ogg", "-c:a", "libopus"),
        "mp4": encoded_live(sound, 16000, "mp4", *LIVE_MP4),
    }


def damaged(file, chance):
    """The file with some of its bits turned, some of it missing, or cut off."""
    data = bytearray(file)
    for _ in range(chance.choice((0, 1, 8, 64))):
        # Headers are where damage does most.
        at = chance.randrange(chance.choice((64, len(data))))
        data[at] ^= 1 << chance.randrange(8)
    if chance.random() < 0.3:
        start = chance.randrange(len(data))
        del data[start : start + chance.randrange(2000)]
    return bytes(data[: chance.choice((len(data), chance.randrange(1, len(data) + 1)))]) or b"\0"


@pytest.mark.parametrize("chunk_mode", ["auto", "stream", "files"])
@pytest.mark.parametrize("audio_format", bait.FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_never_stop_the_worker(stored, files, audio_format, chunk_mode, seed):
    chance, file = random.Random(seed), files[audio_format]
    payloads = [damaged(file, chance), file, damaged(file, chance)]
    if chunk_mode != "files":
        payloads = [piece for payload in payloads for piece in cut(payload, chance.choice((100, 1000, 9000)))]
    made(stored, payloads, audio_format, chunk_mode)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_sent_the_worker_lives(stored, files, data):
    audio_format = data.draw(st.sampled_from(bait.FORMATS))
    chunk_mode = data.draw(st.sampled_from(("auto", "stream", "files")))
    kinds = [st.binary(min_size=1, max_size=300), st.sampled_from([files[audio_format], *bait.MAGIC[audio_format]])]
    seeds = st.integers(0, 1 << 32).map(lambda seed: damaged(files[audio_format], random.Random(seed)))
    made(stored, data.draw(st.lists(st.one_of(*kinds, seeds), min_size=1, max_size=4)), audio_format, chunk_mode)
