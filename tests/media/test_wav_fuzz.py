"""The WAV reader, fed with what recorders write and with what nobody should: all samples are there, or it is said."""

import itertools
import struct
from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from audio.media.samples import PcmFormat, Samples
from audio.media.wav_reader import AUDIO_DROPPED, SIZE_EXCEEDED, WavReader

RAW = PcmFormat("s16le", 16000, 1)
TAGS = {
    "u8": (1, 8),
    "s16le": (1, 16),
    "s24le": (1, 24),
    "s32le": (1, 32),
    "f32le": (3, 32),
    "f64le": (3, 64),
    "alaw": (6, 8),
    "mulaw": (7, 8),
}
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
PRINTABLE = bytes(range(33, 127))
FUZZ = settings(max_examples=100, deadline=None)


def subchunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def fmt(pcm: PcmFormat, is_extensible: bool = False) -> bytes:
    tag, bits = TAGS[pcm.encoding]
    sizes = (pcm.channels, pcm.sample_rate, pcm.sample_rate * pcm.frame_bytes, pcm.frame_bytes, bits)
    if not is_extensible:
        return subchunk(b"fmt ", struct.pack("<HHIIHH", tag, *sizes))
    return subchunk(b"fmt ", struct.pack("<HHIIHHHHIH", 0xFFFE, *sizes, 22, bits, 0, tag) + GUID_TAIL)


@dataclass
class File:
    """A file as a recorder writes it, and its samples."""

    pcm: PcmFormat
    data: bytes
    file: bytes


NAMES = st.one_of(
    st.sampled_from((b"LIST", b"bext", b"C2PA", b"guan", b"minf", b"id3 ", b"a   ", b"%$#!")),
    st.lists(st.sampled_from(PRINTABLE), min_size=4, max_size=4).map(bytes),
).filter(lambda name: name not in (b"data", b"fmt ", b"ds64", b"RIFF", b"RF64", b"BW64", b"RIFX"))
CHUNKS = st.lists(st.builds(subchunk, NAMES, st.binary(max_size=40)), max_size=3).map(b"".join)
FORMATS = st.builds(PcmFormat, st.sampled_from(sorted(TAGS)), st.sampled_from((8000, 44100)), st.integers(1, 3))


@st.composite
def files(draw, sizes=("true",), least=1):
    """One file whose header's sizes are true, or are not, in one of these ways."""
    pcm = draw(FORMATS)
    count = draw(st.integers(least, 40)) * pcm.frame_bytes
    data, before, after = draw(st.binary(min_size=count, max_size=count)), draw(CHUNKS), draw(CHUNKS)
    how = draw(st.sampled_from(sizes))
    if how.startswith("live"):
        after = b""
    head, body = b"WAVE" + before + fmt(pcm, draw(st.booleans())), data + b"\0" * (len(data) % 2)
    true_size = len(head) + 8 + len(body) + len(after)
    magic, riff_size, data_size = b"RIFF", true_size, len(data)
    match how:
        case "rf64":
            magic, riff_size, data_size = draw(st.sampled_from((b"RF64", b"BW64"))), 0xFFFFFFFF, 0xFFFFFFFF
            ds64 = subchunk(b"ds64", struct.pack("<QQQI", true_size + 36, len(data), 0, 0))
            head = b"WAVE" + ds64 + head[4:]
        case "live":
            riff_size = draw(st.sampled_from((0, 0xFFFFFFFF, 0x7FFFF024, 0xFFFFFFF8, 0x80000024)))
            data_size = draw(st.sampled_from((0, 0xFFFFFFFF, 0x7FFFF000, 0xFFFFFFD4, 0x80000000)))
            body = data
        case "live, as if empty":
            riff_size, data_size, body = len(head) + 8, 0, data
        case "no RIFF size":
            riff_size = draw(st.sampled_from((0, 0xFFFFFFFF, len(head) + 8)))
            # Only such names are told from raw PCM by themselves.
            after = draw(st.sampled_from((b"", subchunk(b"LIST", b"INFO"), subchunk(b"C2PA", after))))
        case "no pad byte":
            body = data
            riff_size = true_size - len(data) % 2
        case "more declared":
            body, after, data_size = data, b"", len(data) + draw(st.integers(1, 4000))
            riff_size = len(head) + 8 + data_size
        case "less declared":
            after, body, data_size = b"", data, draw(st.integers(1, len(data)))
            riff_size = draw(st.sampled_from((len(head) + 8 + len(data), len(head) + 8 + data_size)))
    file = magic + struct.pack("<I", riff_size) + head + b"data" + struct.pack("<I", data_size) + body + after
    return File(pcm, data, file)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(data):
            return pieces
        pieces.append(data[at : at + size])
        at += size
    return pieces


def read(messages, chunk_mode="auto", is_restored=True):
    """What the reader gives, joined by format, and the codes of what it says; every byte is accounted for."""
    reader, entries, fed = WavReader(RAW, chunk_mode), [], 0
    for number, message in enumerate(messages, start=1):
        entries += reader.read(message, number)
        fed += len(message)
        assert reader.fed_bytes == fed
        assert len(str(reader.state())) < 4000
        if is_restored:
            reader = WavReader.restore(RAW, chunk_mode, reader.state())
    entries += reader.finish()
    assert reader.accounted.total_bytes == fed
    given_out = [entry for entry in entries if isinstance(entry, Samples)]
    assert reader.accounted.sample_bytes == sum(len(entry.data) for entry in given_out)
    runs = itertools.groupby(given_out, key=lambda entry: entry.format)
    samples = [(pcm, b"".join(entry.data for entry in run)) for pcm, run in runs]
    said = [entry.code for entry in entries if not isinstance(entry, Samples)]
    dropped = {**reader.accounted.dropped_bytes}
    assert dropped.get("partial_frame", 0) < 24 * (fed + 1)
    if dropped.get("behind_the_end", 0) >= 24 or dropped.get("undecodable"):
        assert said
    return samples, said


def joined(recorded):
    runs = itertools.groupby(recorded, key=lambda file: file[0])
    return [(pcm, b"".join(data for _, data in run)) for pcm, run in runs]


SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=6)
MODES = st.sampled_from(("auto", "stream"))


@FUZZ
@given(st.lists(files(("true", "rf64", "no pad byte")), min_size=1, max_size=4), SIZES, MODES)
def test_true_files_in_a_row_cut_anywhere(recorded, sizes, chunk_mode):
    samples, said = read(cut(b"".join(file.file for file in recorded), sizes), chunk_mode)
    assert samples == joined((file.pcm, file.data) for file in recorded)
    assert said == []


@FUZZ
@given(
    st.lists(
        st.one_of(
            files(("true", "rf64", "live", "live, as if empty", "no RIFF size", "no pad byte", "more declared")),
            st.binary(min_size=12, max_size=99)
            .filter(lambda raw: raw[:1] not in b"RB")
            .map(lambda raw: raw[: len(raw) & ~1]),
        ),
        max_size=5,
    ),
    st.sampled_from(("auto", "files")),
)
def test_whole_files_and_raw_pcm_message_by_message(messages, chunk_mode):
    expected = []
    for message in messages:
        if isinstance(message, File):
            expected.append((message.pcm, message.data))
        else:
            expected.append((RAW, message))
    has_open_end = any(
        isinstance(one, File) and not isinstance(other, File) for one, other in itertools.pairwise(messages)
    )
    samples, said = read([one.file if isinstance(one, File) else one for one in messages], chunk_mode)
    if chunk_mode == "files" or not has_open_end:
        assert samples == joined(expected)
        assert said == []


@FUZZ
@given(
    st.lists(
        st.one_of(
            files(("true", "rf64", "no pad byte")),
            st.binary(min_size=12, max_size=99)
            .filter(lambda raw: raw[:1] not in b"RB")
            .map(lambda raw: raw[: len(raw) & ~1]),
        ),
        max_size=5,
    ),
    SIZES,
)
def test_raw_pcm_between_true_files_cut_anywhere(messages, sizes):
    expected, pieces = [], []
    for message in messages:
        is_file = isinstance(message, File)
        expected.append((message.pcm, message.data) if is_file else (RAW, message))
        pieces += cut(message.file if is_file else message, sizes)
    samples, said = read(pieces)
    # A first byte that may begin the name of a sub-chunk makes the few bytes behind it doubtful, which is said.
    assert said or samples == joined(expected)


@FUZZ
@given(st.lists(files(("live", "live, as if empty")), min_size=1, max_size=4), SIZES, MODES)
def test_live_recorders_one_after_the_other_cut_anywhere(recorded, sizes, chunk_mode):
    samples, said = read(cut(b"".join(file.file for file in recorded), sizes), chunk_mode)
    assert samples == joined((file.pcm, file.data) for file in recorded)
    assert said == []


ALL = ("true", "rf64", "live", "live, as if empty", "no RIFF size", "no pad byte", "more declared", "less declared")


@FUZZ
@given(st.lists(files(ALL), min_size=1, max_size=4), SIZES, st.sampled_from(("auto", "stream", "files")))
def test_whatever_the_sizes_say_all_samples_are_there_or_it_is_said(recorded, sizes, chunk_mode):
    if chunk_mode == "files":
        messages = [file.file for file in recorded]
    else:
        messages = cut(b"".join(file.file for file in recorded), sizes)
    samples, said = read(messages, chunk_mode)
    if said or samples == joined((file.pcm, file.data) for file in recorded):
        assert set(said) <= {AUDIO_DROPPED, SIZE_EXCEEDED}
        return
    # Behind a declared end that was too early a message of its own is raw PCM, and a zero byte is a pad byte.
    came, given_out = sum(len(file.data) for file in recorded), sum(len(data) for _, data in samples)
    assert came - len(recorded) * 24 < given_out <= came


@settings(max_examples=100, deadline=None)
@given(FORMATS, st.integers(1, 3000), st.integers(1500, 4000), SIZES, MODES)
def test_samples_go_on_behind_their_declared_end_and_it_is_said(pcm, declared, extra, sizes, chunk_mode):
    frames = (declared + extra) // pcm.frame_bytes + 1
    data = bytes(1 + number % 97 for number in range(frames * pcm.frame_bytes))
    head = b"WAVE" + fmt(pcm)
    file = b"RIFF" + struct.pack("<I", len(head) + 8 + declared) + head + b"data" + struct.pack("<I", declared) + data
    # In messages none of which begins where the declared samples end.
    messages = [file[:20], file[20 : len(head) + 16 + declared + 1], *cut(file[len(head) + 16 + declared + 1 :], sizes)]
    samples, said = read(messages, chunk_mode)
    assert samples == [(pcm, data)]
    assert said == [SIZE_EXCEEDED]


BAD = st.sampled_from(
    [
        struct.pack("<HHIIHH", 0x11, 1, 8000, 4055, 256, 4),
        struct.pack("<HHIIHH", 0x31, 1, 8000, 1625, 65, 0),
        struct.pack("<HHIIHH", 0x55, 2, 44100, 16000, 1, 0),
        struct.pack("<HHIIHH", 1, 9, 8000, 0, 18, 16),
        b"short",
    ]
)


@FUZZ
@given(
    st.lists(files(("true", "no pad byte")), min_size=1, max_size=2),
    BAD,
    st.binary(max_size=200),
    CHUNKS,
    st.lists(files(("true", "live")), min_size=1, max_size=2),
    SIZES,
    st.sampled_from(("auto", "stream", "files")),
)
def test_a_file_that_can_not_be_decoded_costs_that_file_only(before, body, data, after, behind, sizes, chunk_mode):
    inner = b"WAVE" + subchunk(b"fmt ", body) + subchunk(b"data", data) + after
    bad = b"RIFF" + struct.pack("<I", len(inner)) + inner
    whole = [*(file.file for file in before), bad, *(file.file for file in behind)]
    messages = whole if chunk_mode == "files" else cut(b"".join(whole), sizes)
    samples, said = read(messages, chunk_mode)
    assert samples == joined((file.pcm, file.data) for file in [*before, *behind])
    assert set(said) in ({"unsupported_media"}, {"undecodable_chunk"})


PIECES = st.sampled_from(
    [b"RIFF\x24\0\0\0WAVE", b"RF64\xff\xff\xff\xffWAVE", b"BW64\xff\xff\xff\xffWAVE", b"RIFX\0\0\0\x24WAVE",
     fmt(PcmFormat("s16le", 44100, 2)), fmt(PcmFormat("f64le", 8000, 3), True), subchunk(b"fmt ", b"x" * 20),
     b"ds64\x1c\0\0\0" + bytes(8) + b"\x09" + bytes(19), b"data\x07\0\0\0", b"data\xff\xff\xff\xff", b"data\0\0\0\0",
     b"LIST\x03\0\0\0abc\0", b"LI", b"R", b"RIF", b"WAVE", b"fact\x02\0\0\0xx", b"x" * 1100]
)  # fmt: skip
ANYTHING = st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=12).map(b"".join)


@FUZZ
@given(ANYTHING, SIZES)
@example(b"R", [1])
def test_a_stream_is_read_alike_however_it_is_cut(data, sizes):
    samples, said = read(cut(data, sizes), "stream")
    other, others_said = read(cut(data, [1]), "stream", is_restored=False)
    assert samples == other
    assert set(said) == set(others_said)


@FUZZ
@given(st.lists(ANYTHING, max_size=5), st.sampled_from(("auto", "stream", "files")))
def test_whatever_comes_is_accounted_for_and_the_state_is_all_of_it(messages, chunk_mode):
    assert read(messages, chunk_mode, is_restored=True) == read(messages, chunk_mode, is_restored=False)
