"""FFmpeg fed with bombs under small limits; the parsers, readers and planners of ours fed with anything at all."""

import contextlib
import itertools
import os
import re
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from audio.errors import FfmpegFailedError, MediaError, MediaLimitExceededError
from audio.media import ffmpeg, frames, pcm, plan
from audio.media.ffmpeg import Limits
from audio.media.frames import FlacCounter, FrameCounter, PartDescription
from audio.media.plan import Part
from audio.media.samples import PcmFormat
from audio.media.wav_reader import WavReader
from audio.sniff import Container, contradicts, id3_size_bytes, is_info_frame, lacks_header, sniff
from tests import bait
from tests.server import eventually
from tests.sound import encoded, speech

# Limits


@pytest.fixture(scope="module")
def weeks(tmp_path_factory):
    path = tmp_path_factory.mktemp("bombs") / "weeks.flac"
    path.write_bytes(bait.weeks_of_silence())
    return path


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_time_of_the_processor_is_bounded(weeks, tmp_path):
    before = children()
    with ffmpeg.working_folder(tmp_path) as work:
        with pytest.raises(MediaLimitExceededError):
            for _ in ffmpeg.output_of(plan.decode("flac", str(weeks), 16), work, Limits(cpu_seconds=1)):
                pass
        assert list(work.iterdir()) == []
    assert children() == before


def test_time_on_the_wall_is_bounded_and_the_group_of_processes_ends(weeks, tmp_path):
    before = children()
    blocks = ffmpeg.output_of(plan.decode("flac", str(weeks), 16), tmp_path, Limits(wall_seconds=1))
    next(blocks)
    (pid,) = children() - before
    assert os.getpgid(pid) == pid
    # Nobody reads on: only the alarm can end it.
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z")
    with pytest.raises(MediaLimitExceededError):
        list(blocks)
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert children() == before


@pytest.mark.slow
def test_output_is_bounded(weeks, tmp_path):
    arguments = [*plan.decode("flac", str(weeks), 16)[:-1], "-y", "file:out.wav"]
    with ffmpeg.working_folder(tmp_path) as work:
        with pytest.raises(MediaLimitExceededError):
            ffmpeg.run(arguments, work, Limits(file_bytes=1 << 20))
        assert (work / "out.wav").stat().st_size <= 1 << 20
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded(tmp_path):
    mp4 = encoded(speech(1), 16000, tmp_path / "a.mp4")
    at = mp4.rindex(b"moov") - 4
    # A table of so many sizes, of which the file has only the first.
    table = bait.box(b"stsz", struct.pack(">III", 0, 0, 50_000_000), bytes(4000))
    moov = bait.patched(mp4[at:], (b"trak", b"mdia", b"minf", b"stbl", b"stsz"), table)
    (tmp_path / "bomb.mp4").write_bytes(mp4[:at] + moov)
    arguments = plan.decode("mp4", str(tmp_path / "bomb.mp4"), 16)
    with pytest.raises(MediaLimitExceededError):
        list(ffmpeg.output_of(arguments, tmp_path, Limits(memory_bytes=200 << 20)))


def test_what_pydub_decodes_is_bounded_by_what_the_file_declares(weeks, tmp_path):
    # A quarter of a second it says, and is nine days: nothing waits for more than it says.
    lying = frames.flac_stream_info(weeks.read_bytes()[:100]).with_total(2000).body
    data = weeks.read_bytes()[:8] + lying + weeks.read_bytes()[42:]
    parts = [Part(1, 1, data, frames.describe("flac", data))]
    assert plan.is_batchable(parts[0].description)
    with ffmpeg.working_folder(tmp_path) as work:
        samples = list(itertools.islice(pcm.decode(parts, "flac", work), 5))
    # Halved down to itself it is decoded block by block.
    assert max(len(entry.data) for entry in samples) <= 2 << 20


def test_what_ffmpeg_rejects_to_open_is_not_tried_again(tmp_path):
    # Its exit code is that of an FFmpeg which somebody stopped.
    (tmp_path / "list").write_text("ffconcat version 1.0\nfile /a/b.wav\n")
    with pytest.raises(FfmpegFailedError):
        ffmpeg.run(["-f", "concat", "-i", "file:list", "-f", "null", "-"], tmp_path)


# Sniffing

MAGICS = [magic for audio_format in bait.FORMATS for magic in bait.MAGIC[audio_format]]
FRAGMENTS = st.sampled_from(
    [
        *MAGICS,
        b"RF64\xff\xff\xff\xffWAVE",
        b"moov",
        b"OggS\0\0",
        b"\xff\xfb\x90\x64",
        b"\xff\xf3\x48\xc4",
        b"Xing",
        b"Info",
    ]
)
ANYTHING = st.lists(st.one_of(st.binary(max_size=60), FRAGMENTS), max_size=6).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(head=ANYTHING, audio_format=st.sampled_from(bait.FORMATS), mode=st.sampled_from(("auto", "stream", "files")))
def test_sniffing_answers_whatever_comes(head, audio_format, mode):
    found = sniff(head)
    assert found in Container
    assert contradicts(audio_format, head) in (None, found) or found is Container.ID3
    assert sniff(head + bytes(20_000)) == sniff((head + bytes(20_000))[:8192])
    assert isinstance(lacks_header(audio_format, head), bool)
    assert isinstance(is_info_frame(head), bool)
    assert 0 <= id3_size_bytes(head) < 1 << 29


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    loudness=st.sampled_from((1, 20, 300, 8000, 32767)),
    kind=st.sampled_from(("<i2", "<i4", "<f4", "u1")),
)
def test_raw_pcm_is_never_rejected(seed, loudness, kind):
    noise = np.random.default_rng(seed).standard_normal(4000) * loudness
    limits = (0, 255) if kind == "u1" else (-32768, 32767)
    data = np.clip(noise, *limits).astype(kind).tobytes()
    for at in range(0, len(data) - 64, 64):
        assert contradicts("wav", data[at:]) is None


# The WAV reader

RAW = PcmFormat("s16le", 16000, 1)
FMT = b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", 1, 2, 44100, 176400, 4, 16)
WAV_PIECES = st.sampled_from(
    [b"RIFF\x24\0\0\0WAVE", b"RF64\xff\xff\xff\xffWAVE", FMT, b"ds64\x1c\0\0\0" + bytes(8) + b"\x09" + bytes(19),
     b"data\x07\0\0\0", b"data\xff\xff\xff\xff", b"data\0\0\0\0", b"LIST\x03\0\0\0abc\0", b"LI", b"fact\x02\0\0\0xx"]
)  # fmt: skip
HEADED = st.lists(st.one_of(WAV_PIECES, st.binary(max_size=20)), max_size=9).map(b"".join)
WAVS = st.one_of(HEADED, HEADED.map(lambda rest: b"RIFF\x24\0\0\0WAVE" + FMT + rest), ANYTHING)


def read(messages, chunk_mode, restored=False):
    """What the reader gives, joined by format; None where it rejects the header."""
    reader, out = WavReader(RAW, chunk_mode), []
    try:
        for message in messages:
            out += reader.feed(message)
            if restored:
                reader = WavReader.restore(RAW, chunk_mode, reader.state())
        out += reader.flush()
    except MediaError:
        return None
    runs = itertools.groupby(out, key=lambda entry: entry.format)
    return [(pcm_format, b"".join(entry.data for entry in run)) for pcm_format, run in runs]


def pieces(data, sizes):
    """The data cut into pieces of those sizes, again and again."""
    out, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            return out
        out.append(data[at : at + size])
        at += size
    return out


@settings(max_examples=300, deadline=None)
@given(data=WAVS, sizes=st.lists(st.integers(1, 11), min_size=1, max_size=6))
def test_a_wav_stream_may_be_cut_anywhere(data, sizes):
    # Slices so small that no file begins and ends in one: what trails a whole file in its message is skipped.
    assert read(pieces(data, sizes), "stream") == read(pieces(data, [1]), "stream")


@settings(max_examples=200, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), HEADED), sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_an_endless_wav_stream_and_raw_pcm_may_be_cut_into_any_slices(data, sizes):
    endless = b"RIFF\xff\xff\xff\xffWAVE" + FMT + b"data\xff\xff\xff\xff" + data
    assert read(pieces(endless, sizes), "stream") == read([endless], "stream")
    assume(not b"RF".startswith(data[:1]))
    whole = len(data) // 2 * 2
    assert read(pieces(data, sizes), "stream") == ([(RAW, data[:whole])] if whole else [])


@settings(max_examples=200, deadline=None)
@given(messages=st.lists(WAVS, max_size=5), chunk_mode=st.sampled_from(("auto", "stream", "files")))
def test_the_readers_state_is_all_of_it_and_nothing_is_made_up(messages, chunk_mode):
    result = read(messages, chunk_mode)
    assert read(messages, chunk_mode, restored=True) == result
    if result is not None:
        assert sum(len(data) for _, data in result) <= sum(map(len, messages))
        assert all(len(data) % pcm_format.frame_bytes == 0 for pcm_format, data in result)


# The planner

DESCRIPTIONS = st.one_of(
    st.none(),
    st.builds(
        PartDescription,
        sample_rate=st.sampled_from((1, 8000, 44100, 1_000_000)),
        channels=st.integers(0, 8),
        bits=st.sampled_from((4, 16, 24)),
        sample_frames=st.one_of(st.integers(0, 2_000_000), st.integers(0, 1 << 36)),
    ),
)


@settings(max_examples=300, deadline=None)
@given(descriptions=st.lists(DESCRIPTIONS, max_size=12), audio_format=st.sampled_from(bait.FORMATS), data=st.binary())
def test_windows_hold_every_part_once_and_in_order(descriptions, audio_format, data):
    parts = [Part(number, number, data, description) for number, description in enumerate(descriptions, start=1)]
    windows = list(plan.windows(parts))
    assert [part for window in windows for part in window] == parts
    for window in windows:
        assert window
        if len(window) > 1:
            total = sum(part.description.sample_frames for part in window)
            channels, rate = window[0].description.channels, window[0].description.sample_rate
            assert total <= plan.DECODE_SECONDS * rate
            assert 2 * channels * total <= plan.DECODE_BYTES
            assert {(part.description.channels, part.description.sample_rate) for part in window} == {(channels, rate)}
        if all(plan.is_batchable(part.description) for part in window):
            # Of what was sent the arguments have one number, of seconds.
            arguments = plan.batch_input(audio_format, window)
            seconds = arguments[arguments.index("-t") + 1]
            assert re.fullmatch(r"\d+\.\d{3}", seconds)
            assert float(seconds) <= plan.DECODE_SECONDS + 1
            fixed = plan.batch_input(audio_format, [])
            assert [value for value in arguments if value != seconds] == [value for value in fixed if value != "1.000"]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 12 << 20), max_size=9))
def test_a_window_of_chunks_is_bounded_and_never_empty(sizes):
    count = plan.bounded(sizes)
    assert min(1, len(sizes)) <= count <= len(sizes)
    assert count <= 1 or sum(sizes[:count]) <= plan.WINDOW_BYTES


# Frames

MPEG = b"\xff\xf3\x48\xc4" + bytes(140)
ADTS = b"\xff\xf1\x60\x40\x02\x1f\xfc" + bytes(9)
FRAME_PIECES = st.sampled_from(
    [MPEG, MPEG * 3, ADTS, ADTS * 3, MPEG[:40], b"\xff", b"\xff" * 30, b"I", b"ID", b"ID3\x03\0\0\0\0\x01\x05",
     MPEG[:13] + b"Xing\0\0\0\x0f" + bytes(123), MPEG[:36] + b"VBRI" + bytes(150) + b"Xin"]
)  # fmt: skip
STREAMS = st.lists(st.one_of(FRAME_PIECES, st.binary(max_size=30)), max_size=9).map(b"".join)


def counted(messages, audio_format):
    counter = FrameCounter(audio_format)
    for message in messages:
        counter.feed(message)
        counter = FrameCounter.restore(counter.state())
        assert len(counter.held) < 30_000
    counter.finish()
    return counter.samples, counter.sample_rate, counter.channels, counter.decoded_frames


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    data=STREAMS,
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    audio_format=st.sampled_from(("mp3", "aac")),
)
@example(data=ADTS + ADTS[:6], sizes=[400], audio_format="aac")
@example(data=(b"\xff\xf3\x48\xc4" + bytes(32) + b"VBRI").ljust(197, b"\0") + b"Xin", sizes=[400], audio_format="mp3")
@example(data=b"\xff\xf3\x48\xc4" + bytes(9) + b"Xing", sizes=[400], audio_format="mp3")
@example(data=2 * (b"\xff\xf3\x48\xc4" + bytes(32) + b"VBRI").ljust(144, b"\0"), sizes=[1], audio_format="mp3")
def test_frames_are_counted_alike_however_the_stream_is_cut(data, sizes, audio_format):
    assert counted(pieces(data, sizes), audio_format) == counted([data], audio_format)


@settings(max_examples=200, deadline=None)
@given(data=st.one_of(ANYTHING, STREAMS), audio_format=st.sampled_from(bait.FORMATS))
def test_a_file_is_described_or_not(data, audio_format):
    found = frames.describe(audio_format, data)
    assert found is None or (found.sample_rate > 0 and found.sample_frames >= 0)


@settings(max_examples=200, deadline=None)
@given(
    tail=st.lists(st.one_of(st.binary(max_size=20), st.just(b"\xff\xf8\x74\x08")), max_size=9).map(b"".join),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=3),
)
def test_a_flac_is_counted_alike_however_it_is_cut(tail, sizes):
    def flac_counted(messages):
        counter = FlacCounter()
        for message in messages:
            counter.feed(message)
            counter = FlacCounter.restore(counter.state())
            assert len(counter.held) <= 64
        counter.finish()
        return counter.samples, counter.gaps

    data = bait.MAGIC["flac"][0] + tail
    assert flac_counted(pieces(data, sizes)) == flac_counted([data])


@contextlib.contextmanager
def processor_seconds(limit):
    """Ends the block when it has used so many seconds of the processor's time."""

    def stop(*_):
        raise AssertionError(f"more than {limit} seconds of the processor")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.slow
@pytest.mark.parametrize("audio_format", ["mp3", "aac"])
def test_the_work_of_counting_grows_with_the_bytes_alone(audio_format):
    # A second's work; where each byte is searched for from all before it, minutes.
    with processor_seconds(30):
        counted([b"\xff" * (1 << 21)], audio_format)


def test_the_work_of_counting_flac_grows_with_the_bytes_alone():
    # What looks like headers everywhere, and headers that hold and do not follow each other.
    header = b"\xff\xf8\x74\x08\x05\xff\xfe"
    frame = header + bytes((bait.crc(header, 8, 0x07),)) + b"\xff\xf8" * 4
    with processor_seconds(30):
        counter = FlacCounter()
        counter.feed(bait.MAGIC["flac"][0] + frame * 50_000)
        counter.finish()
    assert counter.samples == 0 or len(counter.gaps) <= 100
