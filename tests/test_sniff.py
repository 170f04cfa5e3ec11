"""First bytes and what they say: real files of every kind, cut files, and noise."""

import numpy as np
import pytest

from audio.sniff import Container, contradicts, id3_size_bytes, lacks_header, sniff
from tests.sound import encoded, encoded_live, speech, wav_bytes

FORMATS = ("wav", "mp3", "flac", "aac", "webm", "ogg", "mp4")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, samples = tmp_path_factory.mktemp("files"), speech(1)
    return {
        "wav": wav_bytes(samples, 16000),
        "mp3": encoded(samples, 16000, folder / "a.mp3"),
        "flac": encoded(samples, 16000, folder / "a.flac"),
        "aac": encoded(samples, 16000, folder / "a.aac"),
        "webm": encoded(samples, 16000, folder / "a.webm"),
        "ogg": encoded(samples, 16000, folder / "a.ogg", "-c:a", "libopus"),
        "mp4": encoded(samples, 16000, folder / "a.mp4"),
        "bare": encoded_live(samples, 16000, "mp3", "-id3v2_version", "0"),
        "info": encoded(samples, 16000, folder / "b.mp3", "-id3v2_version", "0"),
    }


def test_each_kind_is_recognised(files):
    assert {name: sniff(data[:8192]).value for name, data in files.items()} == {
        "wav": "riff_wave",
        "mp3": "id3",
        "flac": "flac",
        "aac": "adts",
        "webm": "ebml",
        "ogg": "ogg",
        "mp4": "mp4",
        "bare": "mpeg_audio",
        "info": "mpeg_audio",
    }


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_format_takes_its_own_and_rejects_the_others(files, audio_format):
    rejected = {name for name in FORMATS if contradicts(audio_format, files[name])}
    # Bare frames and FLAC headers may stand inside of a container, right behind a cut.
    inside = {"webm": {"aac", "flac"}, "ogg": {"aac", "flac"}, "mp4": {"aac"}}
    assert rejected == set(FORMATS) - {audio_format} - inside.get(audio_format, set())


def test_raw_pcm_contradicts_nothing():
    noise = np.random.default_rng(1).integers(0, 256, 2_000_000, dtype=np.uint8).tobytes()
    assert all(sniff(noise[at : at + 40]) is Container.UNKNOWN for at in range(0, len(noise), 40))
    for value in (b"\x00", b"\xff", b"\x7f", b"\x80"):
        assert contradicts("wav", value * 9000) is None
    full_scale = np.tile(np.array([32767, -32768, -1, 0], "<i2"), 3000).tobytes()
    assert contradicts("wav", full_scale) is None


@pytest.mark.parametrize("magic", [b"RIFF", b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"ID3", b"\x00\x00\x00\x18ftyp"])
def test_magic_without_structure_is_not_enough(magic):
    assert sniff(magic + b"\xff" * 100) is Container.UNKNOWN


@pytest.mark.parametrize("audio_format", ["flac", "ogg", "webm", "mp4"])
def test_a_stream_has_to_begin_with_its_header(files, audio_format):
    data = files[audio_format]
    assert not any(lacks_header(audio_format, data[:size]) for size in (1, 2, 3, 4, 5, 8, 100, len(data)))
    assert lacks_header(audio_format, data[40:])
    assert lacks_header(audio_format, b"\xab")


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "aac"])
def test_these_need_no_header(audio_format):
    assert not lacks_header(audio_format, b"\xab\xcd")


def test_the_size_of_an_id3_tag(files):
    size = id3_size_bytes(files["mp3"])
    assert files["mp3"][size] == 0xFF
    assert id3_size_bytes(files["mp3"][:9]) == 0
