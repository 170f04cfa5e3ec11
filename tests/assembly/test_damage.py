"""Truncated and bit-flipped sounds: what can be decoded is kept, a file that can't be is named, chunks stay.

What is sent as one stream is kept as it came, damage and all: nothing of it is left out, and nothing is reported.
A file of its own that can't be decoded to its end makes the recording `failed`, because it lacks acknowledged
audio: `failed_sequence` names it, the recording's file has all the rest. A lossy file that is merely shorter than it
should be is decoded as far as it goes.
"""

import pytest

from audio.assembly.chunks import read_range
from audio.assembly.concatenate import concatenate
from audio.assembly.rebuild import rebuild
from tests.containers import hashes
from tests.sound import cut, decoded, encoded, encoded_live, speech

RATE_HZ = 48000
OPTIONS = {"webm": ("-c:a", "libopus"), "ogg": ("-c:a", "libopus"), "mp4": ("-c:a", "aac")}
LIVE = {**OPTIONS, "mp4": ("-c:a", "aac", "-movflags", "empty_moov+default_base_moof", "-frag_duration", "100000")}


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3 + 1]


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + 8]) + data[at + 8 :]


def name(value) -> str:
    return value if isinstance(value, str) else value.__name__


def three_files(tmp_path, audio_format: str, damage) -> list[bytes]:
    """Three files of one second, the second one damaged; as files and as bytes."""
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.{audio_format}"
        file = encoded(speech(1, RATE_HZ, seed=number), RATE_HZ, path, *OPTIONS.get(audio_format, ()))
        files.append(damage(file) if number == 1 else file)
        path.write_bytes(files[-1])
    return files


@pytest.mark.parametrize(
    ("audio_format", "damage"), [("flac", truncated), ("flac", flipped), ("mp4", truncated)], ids=name
)
def test_a_file_that_can_not_be_decoded_is_named_and_the_rest_is_kept(stored, tmp_path, audio_format, damage):
    files = three_files(tmp_path, audio_format, damage)
    session = stored(format=audio_format, sample_rate=RATE_HZ, chunk_mode="files")
    session.add(files)
    for _ in range(2):
        recording = session.made()
        assert (recording.state, recording.error_code, recording.failed_sequence) == ("failed", "undecodable_chunk", 2)
        assert 2 <= recording.duration_seconds < 3
        got = decoded(session.path)
        assert len(got) >= 2 * 2 * RATE_HZ
        if audio_format == "flac":
            assert got.startswith(speech(1, RATE_HZ, seed=0).tobytes())
            assert got.endswith(speech(1, RATE_HZ, seed=2).tobytes())
        # Nothing acknowledged is lost by it, and the recording can be made again.
        assert [chunk.payload for chunk in read_range(session.session.pk, 1, 3)] == files
        rebuild(session.session.pk)


def test_several_are_counted_and_the_first_is_named(stored, tmp_path):
    good, bad, _ = three_files(tmp_path, "flac", flipped)
    session = stored(format="flac", sample_rate=RATE_HZ, chunk_mode="files")
    for file in (good, bad, good, bad, good):
        session.add([file])
        concatenate(session.session.pk)
        assert session.recording.state == "live"
    recording = session.made()
    assert (recording.state, recording.failed_sequence) == ("failed", 2)
    assert "2 parts" in recording.error_detail
    assert [(loss["code"], loss["first_sequence"]) for loss in recording.warnings] == [
        ("undecodable_chunk", 2),
        ("undecodable_chunk", 4),
    ]
    assert recording.duration_seconds >= 3


@pytest.mark.parametrize("audio_format", ["mp3", "aac", "webm"])
def test_a_lossy_file_that_ends_early_is_decoded_as_far_as_it_goes(stored, tmp_path, audio_format):
    files = three_files(tmp_path, audio_format, truncated)
    session = stored(format=audio_format, sample_rate=RATE_HZ, chunk_mode="files")
    session.add(files)
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    each = [len(decoded(tmp_path / f"{number}.{audio_format}")) // 2 for number in range(3)]
    assert 0 < each[1] < each[0]
    assert recording.duration_seconds == pytest.approx(sum(each) / RATE_HZ, abs=0.03)


@pytest.mark.parametrize("damage", [truncated, flipped], ids=name)
@pytest.mark.parametrize("audio_format", ["mp3", "aac", "flac"])
def test_a_damaged_stream_is_kept_as_it_came(stored, audio_format, damage):
    kind = "adts" if audio_format == "aac" else audio_format
    source = damage(encoded_live(speech(2, RATE_HZ), RATE_HZ, kind))
    session = stored(format=audio_format, sample_rate=RATE_HZ)
    session.add(cut(source, 3000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    # FLAC's STREAMINFO gets its total; no other byte is touched.
    assert session.path.read_bytes()[42:] == source[42:]


@pytest.mark.parametrize("damage", [truncated, flipped], ids=name)
@pytest.mark.parametrize("audio_format", ["webm", "mp4"])
def test_of_a_damaged_container_all_packets_are_kept_that_can_be_read(stored, tmp_path, audio_format, damage):
    path = tmp_path / f"source.{audio_format}"
    path.write_bytes(damage(encoded_live(speech(2, RATE_HZ), RATE_HZ, audio_format, *LIVE[audio_format])))
    session = stored(format=audio_format, sample_rate=RATE_HZ)
    session.add(cut(path.read_bytes(), 3000))
    recording = session.made()
    assert recording.state == "ready", recording.error_detail
    assert hashes(session.path) == hashes(path)
    assert recording.duration_seconds > 1
