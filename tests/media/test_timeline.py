"""One timeline: any second of what is decoded is the same second of the container, and nothing else is moved."""

import itertools
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.media import convert, pcm, plan
from audio.media.samples import Samples
from audio.media.timeline import BlockReader, Timeline
from tests.containers import vector
from tests.gaps import RATE, bursts, ogg_with_gaps, onsets_seconds, retimed
from tests.sound import FFMPEG, decoded, encoded, speech


def samples(path, audio_format=None, encoding="s16le"):
    """The samples of a file, as arrays of int16 would hold them, and how much of it is silence that was put in."""
    blocks = pcm.Blocks(path, audio_format or path.suffix[1:], encoding, path.parent)
    data = b"".join(block.data for block in blocks.samples())
    return data, blocks.silent_frames


@pytest.mark.parametrize("suffix", ["webm", "ogg", "mp4"])
def test_a_gap_is_silence_and_what_follows_keeps_its_time(tmp_path, suffix):
    path = retimed(bursts(), tmp_path / f"gap.{suffix}", gap_at=1.0, gap_seconds=5.0)
    data, silent_frames = samples(path)
    assert silent_frames == pytest.approx(5 * RATE, abs=RATE // 100)
    assert onsets_seconds(data) == pytest.approx([0.5, 6.5], abs=0.02)


def test_a_gap_of_hours_takes_no_memory_of_its_own(tmp_path):
    path = retimed(bursts(), tmp_path / "gap.webm", gap_at=1.0, gap_seconds=4 * 3600.0)
    blocks = pcm.Blocks(path, "webm", "s16le", tmp_path)
    sizes = [len(block.data) for block in blocks.samples()]
    assert sum(sizes) // 2 == pytest.approx((4 * 3600 + 2) * RATE, abs=RATE // 10)
    assert max(sizes) < 4 << 20


@pytest.mark.parametrize("packets_per_page", [1, 10, 50])
def test_ogg_tells_a_gap_by_its_pages(tmp_path, packets_per_page):
    path = ogg_with_gaps(bursts(), tmp_path / "gap.ogg", gap_at=1.0, gap_seconds=5.0, packets_per_page=packets_per_page)
    data, _ = samples(path)
    # The page that holds the gap says when it ends: of several packets all are behind the gap.
    assert onsets_seconds(data) == pytest.approx([0.5, 6.5], abs=0.02)


CODECS = {
    "webm": ("-c:a", "libopus"), "ogg": ("-c:a", "libvorbis"), "mp4": ("-c:a", "aac"), "opus.ogg": ("-c:a", "libopus"),
    "alac.mp4": ("-c:a", "alac"), "flac.mp4": ("-c:a", "flac"),
    "flac.ogg": ("-c:a", "flac"), "mp3.mp4": ("-c:a", "mp3"),
    "pcm.webm": ("-c:a", "pcm_s16le", "-f", "matroska"), "aac.webm": ("-c:a", "aac", "-f", "matroska"),
    "flac.webm": ("-c:a", "flac", "-f", "matroska"), "short.webm": ("-c:a", "libopus", "-frame_duration", "2.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", CODECS)
def test_without_a_gap_nothing_is_put_in_and_nothing_left_out(tmp_path, name):
    path = tmp_path / f"sound.{name}"
    encoded(speech(3.3, 44100 if "opus" not in CODECS[name][1] else 48000), 48000, path, *CODECS[name])
    data, silent_frames = samples(path)
    assert (data, silent_frames) == (decoded(path), 0)


@pytest.mark.parametrize("name", ["alac.mp4", "flac.mp4", "flac.ogg", "pcm.webm"])
def test_lossless_sound_is_exact(tmp_path, name):
    sound = speech(2, 48000, 2)
    encoded(sound, 48000, tmp_path / name, *CODECS[name])
    assert samples(tmp_path / name)[0] == sound.tobytes()


@pytest.mark.parametrize("name", ["webm-opus", "webm-opus-mono", "webm-opus-100ms", "webm-opus-whole"])
def test_the_jitter_of_a_browser_is_no_gap(tmp_path, name):
    path = tmp_path / "recorded.webm"
    path.write_bytes(b"".join(vector(name)))
    assert samples(path) == (decoded(path), 0)


@pytest.mark.parametrize("seed", range(3))
def test_jitter_is_no_gap(tmp_path, seed):
    random = np.random.default_rng(seed)
    path = retimed(bursts(), tmp_path / "jitter.webm", jitter_ms=lambda number: int(random.integers(-4, 5)))
    data, silent_frames = samples(path)
    assert (silent_frames, len(data)) == (0, len(decoded(path)))


def test_timestamps_that_restart_lose_nothing(tmp_path):
    whole, path = bursts(), tmp_path / "again.webm"
    retimed(whole, path, restart_at=1.0)
    data, silent_frames = samples(path)
    assert silent_frames == 0
    assert onsets_seconds(data) == pytest.approx([0.5, 1.5], abs=0.02)


def test_a_gap_behind_timestamps_that_restarted_is_kept(tmp_path):
    path = retimed(bursts(3), tmp_path / "again.webm", restart_at=1.0, gap_at=2.0, gap_seconds=5.0)
    data, _ = samples(path)
    assert onsets_seconds(data) == pytest.approx([0.5, 1.5, 7.5], abs=0.02)


def test_sound_that_begins_late_begins_the_samples(tmp_path):
    path = tmp_path / "late.webm"
    encoded_path = tmp_path / "sound.webm"
    encoded(bursts(), RATE, encoded_path, "-c:a", "libopus")
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=5")
    command = [FFMPEG, "-v", "error", *picture, "-itsoffset", "2", "-i", str(encoded_path)]
    subprocess.run([*command, "-map", "0", "-map", "1", "-c:v", "libvpx", "-c:a", "copy", "-y", str(path)], check=True)
    data, _ = samples(path)
    assert onsets_seconds(data) == pytest.approx([0.5, 1.5], abs=0.02)


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 5000)), min_size=1), st.sampled_from([8000, 44100, 48000])
)
def test_no_block_is_written_before_its_time_by_more_than_a_gap(steps, rate):
    timeline, start_ms, written = Timeline(), 0, 0
    for step_ms, frames in steps:
        silent = timeline.silence_before(start_ms, frames, rate)
        written += silent
        assert (written - start_ms * rate // 1000) >= -plan.GAP_SECONDS * rate
        # Silence goes in up to the block's moment, never beyond.
        assert silent == 0 or written == start_ms * rate // 1000
        written += frames
        assert timeline.written == written
        start_ms += step_ms
    assert timeline.silent == written - sum(frames for _, frames in steps)


@given(st.lists(st.tuples(st.integers(0, 60000), st.integers(1, 400)), max_size=20), st.integers(1, 50))
def test_blocks_are_read_however_they_are_cut(blocks, piece_bytes):
    data = bytearray(b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff")
    data += b"\x16\x54\xae\x6b\x94\xae\x92\xd7\x81\x01\xe1\x8d\x9f\x81\x02\xb5\x88" + struct.pack(">d", 48000.0)
    expected, start_ms = [], 0
    for behind_ms, size in blocks:
        start_ms += 7
        content = bytes([behind_ms % 256]) * size
        block = b"\x81" + struct.pack(">hB", behind_ms % 30000, 0x80) + content
        data += b"\x1f\x43\xb6\x75" + (0x10000000 | (15 + len(block) - 4)).to_bytes(4, "big")
        data += b"\xe7\x84" + start_ms.to_bytes(4, "big")
        data += b"\xa3" + (0x10000000 | len(block)).to_bytes(4, "big") + block
        expected.append((start_ms + behind_ms % 30000, content))
    reader = BlockReader()
    pieces = [bytes(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
    assert list(itertools.chain.from_iterable(map(reader.feed, pieces))) == expected
    assert (reader.sample_rate, reader.channels) == (48000, 2)


DEPTHS = {
    "pcm24.mov": (("-c:a", "pcm_s24le"), "s24le"), "pcm24be.mov": (("-c:a", "pcm_s24be"), "s24le"),
    "pcm32.mov": (("-c:a", "pcm_s32le"), "s32le"), "float.mov": (("-c:a", "pcm_f32le"), "f32le"),
    "floatbe.mov": (("-c:a", "pcm_f32be"), "f32le"), "alac24.mp4": (("-c:a", "alac", "-sample_fmt", "s32p"), "s24le"),
    "flac24.mp4": (("-c:a", "flac", "-sample_fmt", "s32"), "s24le"),
    "flac.mp4": (("-c:a", "flac", "-sample_fmt", "s16"), "s16le"),
    "flac24.ogg": (("-c:a", "flac", "-sample_fmt", "s32"), "s24le"),
    "alac.mp4": (("-c:a", "alac", "-sample_fmt", "s16p"), "s16le"),
    "flac24.mka": (("-c:a", "flac", "-sample_fmt", "s32"), "s24le"), "pcm24.mka": (("-c:a", "pcm_s24le"), "s24le"),
    "float.mka": (("-c:a", "pcm_f32le"), "f32le"), "opus.ogg": (("-c:a", "libopus"), "s16le"),
    "aac.mp4": (("-c:a", "aac"), "s16le"), "mp3.mka": (("-c:a", "libmp3lame"), "s16le"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHS)
def test_what_is_lossless_stays_as_deep_as_it_is(tmp_path, name):
    options, encoding = DEPTHS[name]
    generator = np.random.default_rng(5)
    sound = (generator.integers(-(1 << 23), 1 << 23, (48000, 1), "<i4") << 8).astype("<i4")
    raw, path = tmp_path / "sound.raw", tmp_path / name
    raw.write_bytes(sound.tobytes())
    command = [FFMPEG, "-v", "error", "-f", "s32le", "-ar", "48000", "-ac", "1", "-i", str(raw), *options, str(path)]
    subprocess.run(command, check=True)
    audio_format = {".mov": "mp4", ".mka": "webm"}.get(path.suffix, path.suffix[1:])
    part = plan.Part(1, 1, path.read_bytes(), None)
    decoded_samples = list(pcm.decode([part], audio_format, tmp_path))
    assert {samples.format.encoding for samples in decoded_samples} == {encoding}
    heard = convert.decode(Samples(decoded_samples[0].format, b"".join(each.data for each in decoded_samples)))
    if encoding != "s16le":
        assert np.array_equal(heard[:, 0], sound[:, 0] / (1 << 31))
