"""What a connection may store by what its audio begins with: every kind of file, cut anywhere, and raw samples."""

import json
import random
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.admission import Admission
from tests.sound import encoded, encoded_live, speech, wav_bytes

RATE_HZ = 48000
KINDS = {
    "wav": "wav",
    "rf64": "wav",
    "bw64": "wav",
    "mp3": "mp3",
    "bare mp3": "mp3",
    "320k mp3": "mp3",
    "flac": "flac",
    "tagged flac": "flac",
    "aac": "aac",
    "tagged aac": "aac",
    "webm": "webm",
    "ogg": "ogg",
    "mp4": "mp4",
    "live mp4": "mp4",
    "mov": "mp4",
    "old mov": "mp4",
}
TAG = b"ID3\x04\0\0\0\0\x0c\0" + bytes(1536)
APE_HEADER = struct.pack("<IIIIQ", 2000, 300, 1, 0xA0000000, 0)
NOISE = random.Random(1).randbytes(70_000)


class Files(dict[str, bytes]):
    """Hypothesis would write all of it out for an example that fails."""

    def __repr__(self) -> str:
        return "files"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, sound = tmp_path_factory.mktemp("files"), speech(1, RATE_HZ)
    bare = ("-id3v2_version", "0", "-write_xing", "0")
    wav, flac = wav_bytes(sound, RATE_HZ), encoded(sound, RATE_HZ, folder / "a.flac")
    aac, mov = encoded(sound, RATE_HZ, folder / "a.aac"), encoded(sound, RATE_HZ, folder / "a.mov")
    return Files(
        {
            "wav": wav,
            "rf64": b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0) + wav[12:],
            "bw64": b"BW64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0) + wav[12:],
            "mp3": encoded(sound, RATE_HZ, folder / "a.mp3"),
            "bare mp3": encoded_live(sound, RATE_HZ, "mp3", *bare),
            "320k mp3": encoded_live(sound, RATE_HZ, "mp3", "-b:a", "320k", *bare),
            "flac": flac,
            "tagged flac": TAG + flac,
            "aac": aac,
            "tagged aac": TAG + aac,
            "webm": encoded(sound, RATE_HZ, folder / "a.webm"),
            "ogg": encoded(sound, RATE_HZ, folder / "a.ogg", "-c:a", "libopus"),
            "mp4": encoded(sound, RATE_HZ, folder / "a.mp4"),
            "live mp4": encoded_live(sound, RATE_HZ, "mp4", "-movflags", "frag_keyframe+empty_moov"),
            "mov": mov,
            "old mov": mov[mov.index(b"wide") - 4 :],
        }
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Recordings of kinds that the server does not record, by the word that an error has for them."""
    folder, sound = tmp_path_factory.mktemp("foreign"), speech(1, RATE_HZ)
    made = {
        name: encoded(sound, RATE_HZ, folder / f"a.{suffix}", *arguments)
        for name, suffix, arguments in (
            ("aiff", "aiff", ()),
            ("caf", "caf", ()),
            ("au", "au", ()),
            ("w64", "w64", ()),
            ("asf", "wma", ()),
            ("mpeg_ts", "ts", ("-c:a", "aac")),
            ("loas", "loas", ("-c:a", "aac", "-f", "latm")),
            ("mpeg_layer_i_ii", "mp2", ()),
            ("ac3", "ac3", ()),
            ("wavpack", "wv", ()),
            ("tta", "tta", ()),
            ("voc", "voc", ()),
            ("flv", "flv", ("-c:a", "aac", "-ar", "44100")),
            ("avi", "avi", ("-c:a", "pcm_s16le")),
        )
    }
    return made | {
        "rifx": b"RIFX" + bytes(4) + b"WAVEfmt " + NOISE[:400],
        "amr": b"#!AMR-WB\n" + NOISE[:400],
        "midi": b"MThd\0\0\0\6\0\1\0\2\1\xe0MTrk" + NOISE[:400],
        "dsf": b"DSD \x1c\0\0\0\0\0\0\0" + NOISE[:400],
        "dsdiff": b"FRM8\0\0\0\0\0\1\0\0DSD FVER" + NOISE[:400],
        "realmedia": b".RMF\0\0\0\x12\0\1" + NOISE[:400],
        "opus_packets": b"OpusHead\1\1" + NOISE[:400],
        "json": json.dumps({"event": "media", "media": {"payload": "AAAA"}}).encode(),
        "data_url": b"data:audio/webm;base64,GkXfo59ChoEBQveBAULygQRC",
    }


def default_session(**more) -> Admission:
    return Admission("wav", more.pop("chunks", "auto"), is_undecided=True, **more)


def take(admission: Admission, messages: Sequence[bytes]) -> list[str | None]:
    """Says each message, decides what it decides, and returns the code of each rejection, None where it is stored."""
    codes = []
    for message in messages:
        rejection = admission.rejection(message)
        if admission.found:
            rejection = admission.decide(admission.found) or rejection
        codes.append(rejection.code if rejection else None)
    return codes


def cut(data: bytes, *at: int) -> list[bytes]:
    """The data in pieces that end at these places."""
    places = sorted({0, len(data), *(min(place, len(data)) for place in at)})
    return [data[start:end] for start, end in pairwise(places)]


def slices(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


cuts = st.lists(st.integers(1, 6000), max_size=12)


# What fits


@pytest.mark.parametrize("kind", KINDS)
@given(at=cuts)
@settings(max_examples=60, deadline=None)
def test_a_default_session_becomes_what_its_first_bytes_are(files, kind, at):
    admission = default_session()
    assert set(take(admission, cut(files[kind], *at))) == {None}
    assert (admission.audio_format, admission.is_undecided) == (KINDS[kind], False)


@pytest.mark.parametrize("chunks", ["auto", "stream", "files"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_session_takes_files_of_its_format_one_after_another(files, kind, chunks):
    admission = Admission(KINDS[kind], chunks)
    assert take(admission, [files[kind]] * 3) == [None] * 3
    undecided = default_session(chunks=chunks)
    assert take(undecided, [files[kind]] * 3) == [None] * 3
    assert undecided.audio_format == KINDS[kind]


@pytest.mark.parametrize("kind", ["bare mp3", "320k mp3", "aac"])
@given(start=st.integers(1, 5000), at=cuts)
@settings(max_examples=60, deadline=None)
def test_a_stream_that_was_joined_in_its_middle_is_taken(files, kind, start, at):
    assert set(take(Admission(KINDS[kind], "auto"), cut(files[kind][start:], *at))) == {None}


@pytest.mark.parametrize("kind", ["bare mp3", "aac"])
def test_junk_and_zeros_before_the_first_frame_are_taken(files, kind):
    for before in (bytes(20_000), NOISE[:1500], TAG + bytes(3000)):
        assert set(take(Admission(KINDS[kind], "auto"), slices(before + files[kind], 700))) == {None}


@pytest.mark.parametrize("kind", ["bare mp3", "aac"])
def test_a_stream_of_two_frames_is_taken(files, kind):
    first = files[kind].index(files[kind][:2], 10)
    second = files[kind].index(files[kind][:2], first + 10)
    for session in (Admission(KINDS[kind], "auto"), Admission(KINDS[kind], "files"), default_session(chunks="files")):
        assert take(session, [files[kind][:second]]) == [None]
        assert session.is_undecided or session.audio_format == KINDS[kind]


@pytest.mark.parametrize(("kind", "size"), [("bare mp3", 2), ("aac", 2), ("webm", 5), ("wav", 3)])
def test_a_stream_that_ends_too_early_is_what_its_bytes_say(files, kind, size):
    """Frames, or bytes: those that are too few to be one thing or another are raw samples."""
    if kind in ("bare mp3", "aac"):
        for _ in range(size):
            size = files[kind].index(files[kind][:2], size + 10)
    admission = default_session()
    assert take(admission, [files[kind][:size]]) == [None]
    assert admission.is_undecided
    assert admission.conclude() == (KINDS[kind] if size > 5 else "wav")
    tagged = default_session()
    assert take(tagged, [TAG]) == [None]
    assert tagged.conclude() == "mp3"


def raw_samples() -> Iterator[bytes]:
    sound = speech(1, 16000)
    generator = np.random.default_rng(7)
    yield bytes(18000)
    yield b"\xff" * 18000
    yield sound.tobytes()
    yield (sound // 200).astype("<i2").tobytes()
    yield (sound / 32768).astype("<f4").tobytes()
    yield sound.astype("<i4").tobytes()
    yield np.tile(np.array([32767, -32768, -1, 0], "<i2"), 3000).tobytes()
    for _ in range(200):
        yield generator.integers(0, 256, 20_000, dtype=np.uint8).tobytes()
        yield generator.integers(-3, 3, 10_000).astype("<i2").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 160, 3200, 20_000])
def test_raw_samples_are_always_taken(size):
    for data in raw_samples():
        data = data[:200] if size == 1 else data
        for session in (default_session(), Admission("wav", "auto"), Admission("wav", "files")):
            assert set(take(session, slices(data, size))) == {None}
            # Until some thousand bytes came, they may be the middle of frames.
            assert (session.audio_format, session.is_undecided and len(data) > 200) == ("wav", False)
            assert session.conclude() == "wav"


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_whatever_comes_is_answered(messages):
    for audio_format in ("wav", "mp3", "flac", "aac", "webm", "ogg", "mp4"):
        for chunks in ("auto", "stream", "files"):
            for is_undecided in (False, True):
                codes = take(Admission(audio_format, chunks, is_undecided=is_undecided), messages)
                assert set(codes) <= {None, "format_mismatch", "missing_header"}


# What does not


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "flac", "aac", "webm", "ogg", "mp4"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_another_format_is_stored_behind_its_header(files, kind, audio_format):
    if KINDS[kind] == audio_format:
        return
    admission = Admission(audio_format, "auto")
    codes = take(admission, slices(files[kind], 500))
    rejected = next(number for number, code in enumerate(codes) if code)
    # Three frames of 320 kbit/s are 2880 bytes, and a tag of 1546 comes first.
    assert rejected <= 6
    assert len(set(codes[rejected:])) == 1


@pytest.mark.parametrize("kind", ["webm", "ogg", "flac", "mp4", "live mp4", "mov", "old mov"])
@given(at=cuts)
@settings(max_examples=40, deadline=None)
def test_a_header_is_seen_wherever_it_is_cut(files, kind, at):
    for source in (Admission("wav", "auto"), Admission("wav", "stream"), Admission("wav", "auto", is_named=True)):
        messages = cut(files[kind][:6000], *at, 16)
        codes = take(source, messages)
        assert codes[-1] == "format_mismatch"
        assert sum(len(message) for message, code in zip(messages, codes, strict=True) if code is None) < 16


def test_the_error_says_what_was_found_and_what_would_be_right(files):
    rejection = Admission("wav", "auto").rejection(files["webm"])
    assert rejection.detail == (
        "The message begins as WebM, but the format of the session is wav. Open a session with format=webm."
    )
    assert rejection.details == {"received": "ebml", "valid_values": ["wav"], "format": "webm"}


def test_foreign_recordings_are_named_and_rejected_in_every_session(foreign):
    for name, data in foreign.items():
        for session in (default_session(), *(Admission(each, "auto") for each in dict.fromkeys(KINDS.values()))):
            rejection = session.rejection(data)
            assert rejection is not None, name
            if rejection.code == "format_mismatch":
                assert (rejection.details["received"], "does not record" in rejection.detail) == (name, True)
            assert take(session, slices(data, 333)) == [rejection.code] * len(slices(data, 333))
    assert "flac" in default_session().rejection(foreign["aiff"]).details["valid_values"]


def test_aac_without_adts_headers_is_rejected(files, foreign):
    adts, at, units = files["aac"], 0, []
    while at < len(adts):
        size = (adts[at + 3] & 3) << 11 | adts[at + 4] << 3 | adts[at + 5] >> 5
        units.append(adts[at + 7 : at + size])
        at += size
    units *= 4
    codes = take(Admission("aac", "auto"), units)
    stored = sum(len(unit) for unit, code in zip(units, codes, strict=True) if code is None)
    assert (codes[-1], stored < 6000) == ("format_mismatch", True)
    assert take(Admission("aac", "auto"), [b"".join(units)]) == ["format_mismatch"]
    assert take(Admission("aac", "files"), units[:3]) == ["format_mismatch"] * 3
    assert set(take(Admission("aac", "auto"), slices(foreign["loas"], 1000))) == {"format_mismatch"}


def test_a_tag_before_a_wav_file_is_told_to_go(files):
    for admission in (Admission("wav", "auto"), Admission("wav", "files"), default_session()):
        rejection = admission.rejection(TAG + files["wav"])
        assert (rejection.code, rejection.details["received"]) == ("format_mismatch", "id3")
        assert "without the tag" in rejection.detail


def test_mp3_of_free_format_is_rejected(files):
    constant = bytearray(encoded_live(speech(1, RATE_HZ), RATE_HZ, "mp3", "-b:a", "128k", "-write_xing", "0"))
    constant = constant[constant.index(b"\xff\xfb") :]
    for at in range(0, len(constant) - 3, 384):
        constant[at + 2] &= 0x0F
    for messages in ([bytes(constant)], slices(bytes(constant), 1200)):
        rejection = Admission("mp3", "auto").rejection(messages[0])
        assert "free format" in rejection.detail
        assert set(take(Admission("mp3", "auto"), messages)) == {"format_mismatch"}


@pytest.mark.parametrize("kind", ["flac", "webm", "ogg", "live mp4"])
def test_a_stream_without_its_header_is_rejected_until_one_comes(files, kind):
    late = slices(files[kind], 4000)[1:]
    admission = Admission(KINDS[kind], "auto")
    assert set(take(admission, late)) <= {"missing_header", "format_mismatch"}
    assert take(admission, slices(files[kind], 4000)) == [None] * len(slices(files[kind], 4000))


# Afterwards


def test_after_a_rejection_the_next_header_that_fits_goes_on(files):
    samples = speech(1, RATE_HZ).tobytes()
    admission = Admission("wav", "auto")
    assert set(take(admission, slices(files["webm"], 500))) == {"format_mismatch"}
    assert take(admission, [samples[:3200], b"R"]) == ["format_mismatch"] * 2
    assert take(admission, [files["wav"][:500], samples[:3200]]) == [None] * 2


def test_a_default_session_goes_on_with_the_next_container(files, foreign):
    admission = default_session()
    assert take(admission, [foreign["aiff"], NOISE[:500], files["webm"][:500], NOISE[:500]]) == [
        *("format_mismatch", "format_mismatch", None, None)
    ]
    assert admission.audio_format == "webm"


def test_a_file_behind_too_few_bytes_to_tell_is_seen(files):
    for admission in (Admission("wav", "auto"), default_session()):
        assert take(admission, [b"ab", files["flac"], files["flac"]]) == [None, "format_mismatch", "format_mismatch"]


def test_a_second_recorder_of_another_kind_is_rejected_in_the_middle(files):
    samples = speech(1, RATE_HZ).tobytes()
    codes = take(Admission("wav", "auto"), [samples[:3200], *slices(files["ogg"], 500), samples[:3200], files["wav"]])
    assert codes == [None, *["format_mismatch"] * (len(codes) - 2), None]
    assert set(take(Admission("wav", "stream"), [samples[:3200], *slices(files["ogg"], 500)])) == {None}


def test_under_files_each_message_is_judged_by_itself(files):
    messages = [files["flac"], files["wav"], files["tagged flac"], files["flac"][100:], files["flac"]]
    assert take(Admission("flac", "files"), messages) == [None, "format_mismatch", None, "missing_header", None]


def test_a_named_source_has_to_connect_again(files):
    for chunks in ("auto", "stream", "files"):
        admission = Admission("flac", chunks, is_named=True)
        codes = take(admission, [files["wav"], files["flac"], files["flac"]])
        assert codes == ["format_mismatch"] * 3


def test_an_empty_message_is_never_rejected():
    admission = Admission("flac", "auto", is_named=True)
    assert take(admission, [b"no header", b"", b"no header"]) == ["missing_header", None, "missing_header"]


def test_a_connection_that_continues_needs_no_header(files):
    for kind in KINDS:
        for chunks in ("auto", "stream"):
            later = slices(files[kind], 3000)[1:]
            assert set(take(Admission(KINDS[kind], chunks, has_begun=True), later)) == {None}
    codes = take(Admission("wav", "auto", has_begun=True), cut(files["webm"], 1, 3, 9))
    assert (codes[0], codes[-1]) == (None, "format_mismatch")


def test_what_an_earlier_connection_stored_is_remembered(files):
    admission = default_session(has_begun=True)
    admission.recall(files["webm"][:2])
    assert take(admission, [files["webm"][2:]]) == [None]
    assert admission.audio_format == "webm"


def test_another_connection_s_decision_is_what_counts(files):
    admission = default_session()
    assert admission.rejection(files["webm"]) is None
    assert admission.found == "webm"
    assert admission.decide("wav").code == "format_mismatch"
    assert take(admission, [NOISE[:300]]) == ["format_mismatch"]


def test_unknown_bytes_have_the_format_that_the_operator_has_set(files):
    for kind, codes in (("bare mp3", {None}), ("webm", {None})):
        admission = Admission("mp3", "auto", is_undecided=True)
        assert set(take(admission, slices(files[kind][400:] if kind != "webm" else files[kind], 900))) == codes
        assert admission.audio_format == KINDS[kind]
    admission = Admission("flac", "auto", is_undecided=True)
    assert set(take(admission, slices(NOISE, 900))) == {"missing_header"}
    assert admission.is_undecided


# Streams that begin in the middle


@pytest.mark.parametrize("size", [100, 900, 5000, 1 << 20])
@pytest.mark.parametrize(("kind", "skipped"), [("bare mp3", 500), ("320k mp3", 700), ("aac", 333)])
def test_frames_that_are_joined_in_the_middle_are_no_raw_pcm(files, kind, skipped, size):
    for begun in (files[kind][skipped:], bytes(300) + files[kind], b"APETAGEX" + APE_HEADER + bytes(300) + files[kind]):
        session = default_session()
        assert set(take(session, slices(begun, size))) == {None}
        assert session.audio_format == KINDS[kind]
    assert Admission("wav", "auto").rejection(files[kind][skipped:]).code == "format_mismatch"


@pytest.mark.parametrize("size", [900, 5000, 1 << 20])
@pytest.mark.parametrize(
    ("muxer", "options"),
    [
        ("webm", ("-c:a", "libopus")),
        ("ogg", ("-c:a", "libopus", "-page_duration", "20000")),
        ("mp4", ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "200000")),
    ],
)
def test_a_container_that_begins_in_the_middle_asks_for_its_header(muxer, options, size):
    session, live = default_session(), encoded_live(speech(2, RATE_HZ), RATE_HZ, muxer, *options)
    codes = take(session, slices(live[2000:], size))
    assert (codes[-1], session.is_undecided) == ("missing_header", True)
    assert sum(size for code in codes if code is None) <= 1 << 13
    assert take(session, [live]) == [None]
    assert session.audio_format == muxer


@pytest.mark.parametrize("size", [900, 5000, 1 << 20])
@pytest.mark.parametrize(("rate", "channels"), [(RATE_HZ, 1), (44100, 2)])
def test_flac_that_begins_in_the_middle_asks_for_its_header(rate, channels, size):
    session, live = default_session(), encoded_live(speech(4, rate, channels), rate, "flac")
    for begin in (100, 6000, len(live) // 2):
        session = default_session()
        codes = take(session, slices(live[begin:], size))
        assert (codes[-1], session.is_undecided) == ("missing_header", True)
        assert sum(size for code in codes if code is None) <= 1 << 15
        assert take(session, [live]) == [None]
        assert session.audio_format == "flac"
    assert Admission("wav", "auto").rejection(live[6000:]).code == "format_mismatch"


def test_one_header_of_flac_is_raw_pcm_by_chance():
    live = encoded_live(speech(4, RATE_HZ), RATE_HZ, "flac")
    frame = live[live.index(b"\xff\xf8") :][:12]
    for samples in (frame + NOISE, (frame + NOISE[:500]) * 100):
        session = default_session()
        assert set(take(session, slices(samples, 900))) == {None}
        assert (session.audio_format, session.is_undecided) == ("wav", False)


def test_raw_pcm_is_decided_as_such_soon(files):
    for samples in (NOISE, bytes(1 << 17), speech(1, RATE_HZ).tobytes(), b"\xff" * (1 << 16), b"\xff\xfb" * (1 << 15)):
        for size in (100, 960, 3200, 1 << 16):
            session = default_session()
            assert set(take(session, slices(samples, size))) == {None}
            assert (session.audio_format, session.is_undecided) == ("wav", False)
