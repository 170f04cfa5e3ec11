"""The WAV reader, which is fed with messages that are cut anywhere."""

import itertools
import random
import struct

import pytest

from audio.errors import UndecodableChunkError, UnsupportedMediaError
from audio.media.samples import PcmFormat
from audio.media.wav_reader import WavReader
from tests.sound import cut, encoded, encoded_live, speech, wav_bytes

RAW = PcmFormat("s16le", 16000, 1)
SAMPLES = speech(0.2).tobytes()


def read(messages, chunk_mode="auto", raw=RAW, restored=True):
    reader, out = WavReader(raw, chunk_mode), []
    for message in messages:
        out += reader.feed(message)
        if restored:
            reader = WavReader.restore(raw, chunk_mode, reader.state())
    return out + reader.flush()


def joined(samples):
    runs = itertools.groupby(samples, key=lambda entry: entry.format)
    return [(pcm, b"".join(entry.data for entry in run)) for pcm, run in runs]


def riff(*subchunks, size=None, magic=b"RIFF"):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in subchunks)
    return magic + struct.pack("<I", size if size is not None else len(body) + 4) + b"WAVE" + body


FMT = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)


@pytest.mark.parametrize("seed", range(8))
def test_a_file_with_everything_in_it_may_be_cut_anywhere(seed):
    chance = random.Random(seed)
    file = riff(
        (b"LIST", b"odd"), (b"fmt ", FMT + b"\0\0"), (b"fact", b"1234"), (b"data", SAMPLES), (b"LIST", b"x" * 99)
    )
    pieces, at = [], 0
    while at < len(file):
        size = chance.choice((1, 2, 7, 100, 3000))
        pieces.append(file[at : at + size])
        at += size
    assert joined(read(pieces)) == [(RAW, SAMPLES)]


def test_a_whole_file_ends_with_its_message_and_raw_pcm_may_follow():
    stereo = PcmFormat("s16le", 44100, 2)
    file = wav_bytes(speech(0.1, 44100, 2), 44100) + b"LIST\x04\0\0\0abcd"
    assert joined(read([file, SAMPLES])) == [(stereo, speech(0.1, 44100, 2).tobytes()), (RAW, SAMPLES)]


def test_raw_pcm_follows_a_sliced_file_and_what_trails_it():
    file = riff((b"fmt ", FMT), (b"data", SAMPLES), (b"LIST", b"y" * 2001))
    assert joined(read([*cut(file, 1000), *cut(SAMPLES, 1)])) == [(RAW, SAMPLES + SAMPLES)]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_stream_of_unknown_size_goes_on(size):
    head = riff((b"fmt ", FMT), size=size) + b"data" + struct.pack("<I", size)
    assert joined(read([head + SAMPLES[:11], SAMPLES[11:], SAMPLES])) == [(RAW, SAMPLES + SAMPLES)]


def test_a_new_header_starts_a_new_file_under_auto_and_is_data_under_stream():
    endless = riff((b"fmt ", FMT), size=0) + b"data\0\0\0\0"
    again = wav_bytes(speech(0.1), 16000)
    assert joined(read([endless + SAMPLES, again])) == [(RAW, SAMPLES + speech(0.1).tobytes())]
    assert joined(read([endless + SAMPLES, again], "stream")) == [(RAW, SAMPLES + again)]


def test_files_end_with_their_messages():
    assert joined(read([SAMPLES[:101], SAMPLES[:101]], "files")) == [(RAW, SAMPLES[:100] * 2)]
    assert joined(read([b"RIF", SAMPLES], "files")) == [(RAW, b"RI" + SAMPLES)]


def test_rf64_takes_the_size_from_ds64():
    ds64 = struct.pack("<QQQI", 0, len(SAMPLES), 0, 0)
    file = riff((b"ds64", ds64), (b"fmt ", FMT), size=0xFFFFFFFF, magic=b"RF64")
    file += b"data\xff\xff\xff\xff" + SAMPLES + b"LIST\x02\0\0\0zz"
    assert joined(read(cut(file, 33))) == [(RAW, SAMPLES)]


def test_raw_pcm_that_begins_like_a_riff_file_is_kept():
    assert joined(read([b"R", b"I", b"FFxxxxNOPE"])) == [(RAW, b"RIFFxxxxNOPE")]
    assert joined(read([b"RIFF"])) == [(RAW, b"RIFF")]


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("pcm_u8", "u8"),
        ("pcm_s16le", "s16le"),
        ("pcm_s24le", "s24le"),
        ("pcm_s32le", "s32le"),
        ("pcm_f32le", "f32le"),
        ("pcm_f64le", "f64le"),
        ("pcm_mulaw", "mulaw"),
        ("pcm_alaw", "alaw"),
    ],
)
def test_encodings_plain_and_extensible(codec, encoding, tmp_path):
    source = speech(0.1, 48000, 2)
    raw = encoded_live(source, 48000, encoding, "-c:a", codec)
    # More than two channels make FFmpeg write WAVE_FORMAT_EXTENSIBLE.
    plain = encoded(source, 48000, tmp_path / "a.wav", "-c:a", codec)
    assert joined(read([plain])) == [(PcmFormat(encoding, 48000, 2), raw)]
    many = encoded(source, 48000, tmp_path / "b.wav", "-ac", "6", "-c:a", codec)
    ((pcm, data),) = joined(read([many]))
    assert (pcm, len(data)) == (PcmFormat(encoding, 48000, 6), 3 * len(raw))


@pytest.mark.parametrize(
    "file", [riff((b"data", SAMPLES)), riff((b"\x01\x02\x03\x04", b"")), riff((b"fmt ", bytes(70000)))]
)
def test_headers_that_can_not_be_followed(file):
    with pytest.raises((UndecodableChunkError, UnsupportedMediaError)):
        read([file])


def test_the_state_stays_small():
    reader = WavReader(RAW)
    reader.feed(riff((b"LIST", bytes(100_000)))[:-1])
    assert len(str(reader.state())) < 400


def entries_of(messages, chunk_mode="auto"):
    reader = WavReader(RAW, chunk_mode)
    entries = [entry for number, message in enumerate(messages, 1) for entry in reader.read(message, number)]
    return reader, entries + reader.finish()


def test_a_file_whose_last_sizes_overlap_the_next_header():
    # It declares a byte more than came.
    short = riff((b"fmt ", FMT), size=36 + 7) + b"data\x07\0\0\0" + b"abcdef"
    _, entries = entries_of(cut(short + riff((b"fmt ", FMT), (b"data", SAMPLES)), 3), "stream")
    assert joined(entries) == [(RAW, b"abcdef" + SAMPLES)]


@pytest.mark.parametrize("size", [1, 3, 4, 11, 19])
def test_a_second_recorder_whose_first_slice_is_tiny(size):
    endless = riff((b"fmt ", FMT), size=0xFFFFFFF8) + b"data\xd4\xff\xff\xff" + SAMPLES
    _, entries = entries_of([endless, endless[:size], endless[size:]])
    assert joined(entries) == [(RAW, SAMPLES + SAMPLES)]
    _, entries = entries_of([SAMPLES[:101], endless[:size], endless[size:]])
    assert joined(entries) == [(RAW, SAMPLES[:100] + SAMPLES)]


def test_two_recorders_in_one_message():
    endless = riff((b"fmt ", FMT), size=0) + b"data\0\0\0\0" + SAMPLES
    _, entries = entries_of([endless[:500], endless[500:] + endless[:900], endless[900:]])
    assert joined(entries) == [(RAW, SAMPLES + SAMPLES)]


def test_two_data_chunks_are_one_after_the_other():
    file = riff((b"fmt ", FMT), (b"data", SAMPLES[:1000]), (b"LIST", b"odd"), (b"data", SAMPLES[1000:]))
    assert joined(entries_of(cut(file, 77))[1]) == [(RAW, SAMPLES)]


def test_a_big_endian_file_is_rejected():
    reader, (fault, *again) = entries_of([b"RIFX" + struct.pack(">I", 1004) + b"WAVE" + bytes(1000)])
    assert (fault.code, fault.first_sequence) == ("unsupported_media", 1)
    assert not any(entry.is_new for entry in again)
    assert reader.accounted.dropped_bytes == {"undecodable": 1000}


def test_every_byte_is_accounted_for():
    file = riff((b"fmt ", FMT), (b"data", SAMPLES), (b"LIST", b"x" * 10))
    reader, _ = entries_of([file + b"\xff" * 30, SAMPLES + b"\x01"])
    assert reader.accounted.sample_bytes == 2 * len(SAMPLES)
    assert reader.accounted.structure_bytes == 44 + 18
    assert reader.accounted.dropped_bytes == {"behind_the_end": 30, "partial_frame": 1}
