"""Headers are found wherever they lie and however the stream is cut, and nowhere else."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audio.media.frames import FrameCounter
from audio.media.parts import FORMATS, MOST_OGG_PAGE_BYTES, ChunkOffsets, HeaderScanner, ogg_is_cut_off
from tests.containers import vector
from tests.sound import encoded, encoded_live, speech

FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "200000")
MAGICS = [b"\x1a\x45\xdf\xa3", b"OggS\0\x02", b"ftyp", b"fLaC", b"ID3"]
PAGES = ("-page_duration", "1")


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """By format, streams of several writers, live and not."""
    folder, sound = tmp_path_factory.mktemp("streams"), speech(0.4, 48000)
    return {
        "webm": [
            b"".join(vector("webm-opus")),
            b"".join(vector("webm-pcm")),
            encoded_live(sound, 48000, "webm", "-c:a", "libopus"),
            encoded_live(sound, 48000, "matroska", "-c:a", "aac"),
            encoded(sound, 48000, folder / "a.webm"),
        ],
        "ogg": [
            encoded_live(sound, 48000, "ogg", "-c:a", "libopus"),
            encoded_live(sound, 48000, "ogg", "-c:a", "libvorbis", *PAGES),
            encoded_live(sound, 48000, "ogg", "-c:a", "flac"),
        ],
        "mp4": [
            b"".join(vector("mp4-opus")),
            encoded_live(sound, 48000, "mp4", "-c:a", "aac", *FRAGMENTED),
            encoded(sound, 48000, folder / "a.m4a"),
            encoded(sound, 48000, folder / "a.mov", "-c:a", "pcm_s16le"),
        ],
        "flac": [encoded_live(sound, 48000, "flac"), encoded(sound, 48000, folder / "a.flac", "-sample_fmt", "s32")],
    }


def found(scanner, data, sizes):
    """Where parts begin in data that comes in pieces of those sizes, with the state as JSON in between."""
    starts, at, number = [], 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        starts += scanner.feed(data[at : at + size])
        at, number = at + size, number + 1
        scanner = type(scanner).restore(json.loads(json.dumps(scanner.state())))
    return starts + (scanner.finish() if isinstance(scanner, FrameCounter) else [])


@pytest.mark.slow
@pytest.mark.parametrize("audio_format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 6000), min_size=1, max_size=4), data=st.data())
def test_every_header_is_found_however_the_stream_is_cut(streams, audio_format, sizes, data):
    chosen = data.draw(st.lists(st.sampled_from(streams[audio_format]), min_size=1, max_size=4))
    # Those that a lost connection ends in the middle, too.
    ends = [data.draw(st.integers(len(stream) // 2, len(stream))) for stream in chosen]
    parts = [stream[:end] for stream, end in zip(chosen, ends, strict=True)]
    expected = [sum(map(len, parts[:number])) for number in range(len(parts))]
    assert found(HeaderScanner(audio_format), b"".join(parts), sizes) == expected


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_byte_at_a_time(streams, audio_format):
    parts = [stream[:2000] for stream in streams[audio_format][:2]]
    assert found(HeaderScanner(audio_format), b"".join(parts), [1]) == [0, len(parts[0])]


@pytest.mark.parametrize("audio_format", FORMATS)
def test_noise_holds_no_header(audio_format):
    noise = np.random.default_rng(1).bytes(3_000_000)
    magics = (b"\x1a\x45\xdf\xa3", b"OggS", b"\0\0\0\x18ftyp", b"fLaC", b"ID3")
    salted = b"".join(noise[at : at + 300] + magics[at % 5] for at in range(0, 300_000, 307))
    assert found(HeaderScanner(audio_format), noise + salted, [70_000]) == []


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40), st.sampled_from([b"\x1a\x45\xdf\xa3", b"OggS\0\x02", b"ftyp", b"fLaC", b"ID3"])
        ),
        max_size=12,
    ),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=3),
    audio_format=st.sampled_from(FORMATS),
)
@example(pieces=[b"ftyp", b"ftyp"], sizes=[1], audio_format="mp4")
def test_where_headers_are_found_does_not_depend_on_the_messages(pieces, sizes, audio_format):
    data = b"".join(pieces)
    assert found(HeaderScanner(audio_format), data, sizes) == found(HeaderScanner(audio_format), data, [1 << 20])
    scanner = HeaderScanner(audio_format)
    scanner.feed(data)
    assert len(scanner.held) <= max(1024, len(data) and 9)


def ogg_page(serial: int, payload: bytes, flags: int = 2) -> bytes:
    return (
        b"OggS\0"
        + bytes((flags,))
        + bytes(8)
        + serial.to_bytes(4, "little")
        + bytes(8)
        + bytes((1, len(payload)))
        + payload
    )


def test_first_pages_that_follow_each_other_are_of_one_group():
    group = ogg_page(1, b"fishead\0" + bytes(56)) + ogg_page(2, b"OpusHead" + bytes(11)) + ogg_page(3, b"\x80theora")
    rest = ogg_page(1, bytes(50), 0) + ogg_page(2, bytes(50), 0)
    for size in (1, 7, 83, 5000):
        assert found(HeaderScanner("ogg"), 2 * (group + rest), [size]) == [0, len(group + rest)]


def test_a_tag_before_flac_belongs_to_it(streams):
    flac, tag = streams["flac"][0], b"ID3\x04\0\0\0\0\0\x10" + bytes(16)
    for size in (1, 5, 4096):
        assert found(HeaderScanner("flac"), tag + flac + tag + flac, [size]) == [0, len(tag + flac)]


@pytest.mark.parametrize("brand", [b"qt  ", b"M4A ", b"isom", b"3gp4", b"dash", b"heic"])
def test_any_brand(brand):
    box = b"\0\0\0\x18ftyp" + brand + bytes(4) + b"isom" + bytes(4)
    assert found(HeaderScanner("mp4"), box + bytes(500) + box, [11]) == [0, len(box) + 500]


# MP3 and ADTS


def live(seconds, rate, kind, channels=1, *options):
    plain = ("-write_xing", "0", "-id3v2_version", "0") if kind == "mp3" else ()
    return encoded_live(speech(seconds, rate, channels), rate, "adts" if kind == "aac" else kind, *plain, *options)


@pytest.mark.parametrize("kind", ["mp3", "aac"])
@pytest.mark.parametrize(("rate", "channels"), [(48000, 1), (16000, 1), (44100, 2)])
@pytest.mark.parametrize("has_parts", [True, False])
@pytest.mark.parametrize("size", [1, 417, 100_000])
def test_frames_of_other_parameters_begin_a_part(kind, rate, channels, has_parts, size):
    first, second = live(0.5, 44100, kind), live(0.5, rate, kind, channels)
    assert found(FrameCounter(kind, has_parts), first + second + first, [size]) == [
        len(first),
        len(first) + len(second),
    ]


@pytest.mark.parametrize("size", [1, 417, 100_000])
def test_an_info_frame_or_a_tag_begins_a_part_only_where_files_may_follow_each_other(tmp_path, size):
    plain = live(0.5, 44100, "mp3")
    tagged = encoded(speech(0.5, 44100), 44100, tmp_path / "a.mp3")
    bare_info = encoded(speech(0.5, 44100), 44100, tmp_path / "b.mp3", "-id3v2_version", "0")
    stream = plain + tagged + bare_info
    assert found(FrameCounter("mp3"), stream, [size]) == [len(plain), len(plain + tagged)]
    assert found(FrameCounter("mp3", has_parts=False), stream, [size]) == []


def test_a_tag_at_the_end_begins_nothing():
    plain = live(0.5, 44100, "mp3")
    ape = b"APETAGEX\xd0\x07\0\0\x20\0\0\0\0\0\0\0\0\0\0\0" + bytes(8)
    for tag in (b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\0\x10" + bytes(16), ape):
        counter = FrameCounter("mp3")
        assert counter.feed(plain + tag) + counter.finish() == []
        assert counter.unrecognised == []


# Offsets


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), data=st.data())
def test_the_chunk_that_holds_a_byte(sizes, data):
    offsets, begins = ChunkOffsets(), [sum(sizes[:number]) for number in range(len(sizes))]
    for sequence, begin in enumerate(begins, start=1):
        offsets.add(begin, sequence)
    asked = data.draw(st.integers(0, sum(sizes) - 1))
    offsets.forget_before(data.draw(st.integers(0, asked)))
    sequence, begin = offsets.at(asked)
    assert begin <= asked < begin + sizes[sequence - 1]
    assert begins[sequence - 1] == begin


def test_an_ogg_stream_ends_with_a_page(streams):
    for stream in streams["ogg"]:
        assert not ogg_is_cut_off(stream)
        assert not ogg_is_cut_off(stream[-MOST_OGG_PAGE_BYTES:])
        last = stream.rindex(b"OggS")
        assert not ogg_is_cut_off(stream[:last])
        for end in range(last + 1, len(stream)):
            assert ogg_is_cut_off(stream[:end])
        assert ogg_is_cut_off(stream[:last] + bytes(10))


def test_an_ogg_stream_does_not_end_within_a_packet():
    page = b"OggS\0\0" + bytes(20) + b"\x02\xff\xff"
    assert ogg_is_cut_off(page + bytes(510))
    assert not ogg_is_cut_off(page + bytes(510) + page[:-1] + b"\x05" + bytes(260))
