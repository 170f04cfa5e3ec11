"""Parts copied into one container: joints keep their length, every packet is proved, the sound is chosen."""

import subprocess
from pathlib import Path

import pytest

from audio.errors import MediaError, UnsupportedMediaError
from audio.media import pcm, plan, remux
from audio.media.frames import PartDescription
from audio.media.plan import Span
from tests.containers import duration_seconds, hashes, vector
from tests.gaps import RATE, bursts, ogg_with_gaps, onsets_seconds, retimed
from tests.sound import FFMPEG, decoded, encoded, speech


def master_of(folder: Path, suffix: str, *parts: bytes) -> tuple[Path, list[Span]]:
    path, spans, end = folder / f"master.{suffix}", [], 0
    path.write_bytes(b"".join(parts))
    for part in parts:
        spans.append(Span(end, end + len(part)))
        end += len(part)
    return path, spans


def copied(folder: Path, suffix: str, *parts: bytes) -> tuple[Path, float, remux.Proof]:
    master, spans = master_of(folder, suffix, *parts)
    header = remux.header_of(master, spans[0], suffix, folder)
    output = folder / f"recording.{suffix}"
    seconds = remux.copy(master, spans, suffix, header.codec, output, folder)
    return output, seconds, remux.compare(master, spans, suffix, output, folder)


def late_ogg(folder: Path, *codec: str) -> bytes:
    """An Ogg stream of three seconds that was joined after an hour."""
    path = folder / "late.ogg"
    encoded(speech(3, RATE), RATE, folder / "plain.ogg", *codec)
    later = ["-i", str(folder / "plain.ogg"), "-c", "copy", "-bsf:a", "setts=ts='PTS+3600/TB'"]
    subprocess.run([FFMPEG, "-v", "error", *later, "-y", str(path)], check=True)
    return path.read_bytes()


@pytest.mark.parametrize("codec", ["libopus", "libvorbis"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_part_that_begins_late_makes_no_hole(tmp_path, codec, parts):
    late = late_ogg(tmp_path, "-c:a", codec)
    _, seconds, proof = copied(tmp_path, "ogg", *[late] * parts)
    assert seconds == pytest.approx(3.0 * parts, abs=0.02 * parts)
    assert proof.is_exact


@pytest.mark.parametrize("suffix", ["webm", "ogg", "mp4"])
def test_a_gap_is_kept_in_the_container(tmp_path, suffix):
    path = retimed(bursts(), tmp_path / f"gap.{suffix}", gap_at=1.0, gap_seconds=5.0)
    output, seconds, proof = copied(tmp_path, suffix, path.read_bytes(), path.read_bytes())
    assert seconds == pytest.approx(14, abs=0.05)
    # The page of Ogg at the joint tells the time of its last packet alone.
    assert proof.is_complete and proof.most_displaced_seconds < 0.02
    blocks = pcm.Blocks(output, suffix, "s16le", tmp_path)
    data = b"".join(block.data for block in blocks.samples())
    assert onsets_seconds(data) == pytest.approx([0.5, 6.5, 7.5, 13.5], abs=0.02)


@pytest.mark.parametrize("packets_per_page", [1, 7, 50])
def test_the_pages_of_an_ogg_with_gaps_are_copied_to_their_time(tmp_path, packets_per_page):
    sound = bursts(4)
    path = ogg_with_gaps(sound, tmp_path / "gap.ogg", gap_at=2.0, gap_seconds=30.0, packets_per_page=packets_per_page)
    output, seconds, proof = copied(tmp_path, "ogg", path.read_bytes())
    assert seconds == pytest.approx(34, abs=0.03)
    assert proof.is_exact
    data = b"".join(block.data for block in pcm.Blocks(output, "ogg", "s16le", tmp_path).samples())
    assert onsets_seconds(data) == pytest.approx([0.5, 1.5, 32.5, 33.5], abs=0.15 if packets_per_page > 1 else 0.02)


def test_timestamps_that_restart_within_a_part_go_on(tmp_path):
    path = retimed(bursts(3), tmp_path / "again.webm", restart_at=1.0)
    output, seconds, proof = copied(tmp_path, "webm", path.read_bytes(), path.read_bytes())
    assert seconds == pytest.approx(6, abs=0.05)
    assert proof.is_exact
    data = b"".join(block.data for block in pcm.Blocks(output, "webm", "s16le", tmp_path).samples())
    assert onsets_seconds(data) == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], abs=0.03)


KINDS = {
    "aac.webm": ("-c:a", "aac", "-f", "matroska"), "flac.webm": ("-c:a", "flac", "-f", "matroska"),
    "mp3.webm": ("-c:a", "mp3", "-f", "matroska"), "pcm.webm": ("-c:a", "pcm_s24le", "-f", "matroska"),
    "pcm.mp4": ("-c:a", "pcm_s16le", "-f", "mov"), "big.mp4": ("-c:a", "pcm_s16be", "-f", "mov"),
    "alac.mp4": ("-c:a", "alac"), "aac.mp4": ("-c:a", "aac"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_what_cameras_and_screen_recorders_write_is_recorded(tmp_path, name):
    source, suffix = tmp_path / f"source.{name}", name.rsplit(".", maxsplit=1)[1]
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=2", "-c:v", "mpeg4")
    encoded(speech(2, RATE, 2), RATE, source, *picture, *KINDS[name])
    output, seconds, proof = copied(tmp_path, suffix, source.read_bytes())
    assert seconds == pytest.approx(2, abs=0.06)
    assert proof.is_exact
    assert decoded(output) == decoded(source)


def two_tracks(folder: Path, first: bytes) -> bytes:
    """QuickTime with two tracks of AAC, of which the first one is said to have another codec."""
    path = folder / "tracks.mov"
    encoded(speech(2, RATE), RATE, path, "-map", "0", "-map", "0", "-c:a", "aac", "-f", "mov")
    data = bytearray(path.read_bytes())
    at = data.find(b"mp4a", data.find(b"stsd"))
    data[at : at + 4] = first
    at = data.find(b"esds", at)
    data[at : at + 4] = b"dapa"
    return bytes(data)


def test_the_first_track_that_can_be_recorded_is_recorded(tmp_path):
    data = two_tracks(tmp_path, b"apac")
    _, seconds, proof = copied(tmp_path, "mp4", data, data)
    assert seconds == pytest.approx(4, abs=0.1)
    assert proof.is_exact
    whole = tmp_path / "whole.mp4"
    whole.write_bytes(data)
    part = plan.Part(3, 3, data, None)
    decoded_bytes = b"".join(samples.data for samples in pcm.stream(whole, part, "mp4", tmp_path))
    assert len(decoded_bytes) == pytest.approx(2 * RATE * 2, rel=0.02)


def picture(folder: Path, *options: str) -> Path:
    path = folder / "picture.webm"
    source = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=1", "-f", "lavfi", "-i", "sine=d=1"]
    subprocess.run([FFMPEG, "-v", "error", *source, *options, "-f", "matroska", "-y", str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-map", "0", "-c:v", "libvpx"), "The file has no audio."),
        (
            ("-c:v", "libvpx", "-c:a", "ac3"),
            "The codec of the stream is AC-3; webm accepts Opus, Vorbis, AAC, FLAC, MP3, ALAC, mu-law, A-law, PCM.",
        ),
    ],
)
def test_a_rejection_names_the_sound(tmp_path, options, sentence):
    path = picture(tmp_path, *options)
    with pytest.raises(UnsupportedMediaError) as caught:
        remux.header_of(path, Span(0, path.stat().st_size), "webm", tmp_path)
    assert caught.value.detail == sentence
    part = plan.Part(4, 4, path.read_bytes(), None)
    with pytest.raises(UnsupportedMediaError) as caught:
        list(pcm.decode([part], "webm", tmp_path))
    assert (caught.value.detail, caught.value.details["sequence"]) == (sentence, 4)


def test_of_a_damaged_file_the_message_is_not_about_the_picture(tmp_path):
    data = picture(tmp_path, "-c:v", "libvpx", "-c:a", "libopus").read_bytes()
    with pytest.raises(MediaError) as caught:
        list(pcm.decode([plan.Part(1, 1, data[:300], None)], "webm", tmp_path))
    assert "whitelist" not in caught.value.detail


def test_what_a_recording_lacks_is_told(tmp_path):
    parts = [encoded(speech(2, RATE, seed=seed), RATE, tmp_path / f"{seed}.webm", "-c:a", "libopus") for seed in (1, 2)]
    output, _, proof = copied(tmp_path, "webm", *parts)
    assert proof.is_exact
    assert hashes(output) == hashes(tmp_path / "1.webm", tmp_path / "2.webm")
    master, spans = master_of(tmp_path, "webm", *parts)
    shorter = tmp_path / "shorter.webm"
    command = [FFMPEG, "-v", "error", "-i", str(output), "-c", "copy", "-t", "3", "-y", str(shorter)]
    subprocess.run(command, check=True)
    lacking = remux.compare(master, spans, "webm", shorter, tmp_path)
    assert (lacking.packets, lacking.extra, lacking.is_complete) == (proof.packets, 0, False)
    assert lacking.lost_seconds == pytest.approx(1.0, abs=0.05)
    assert lacking.first_missing.part == 1
    assert lacking.first_missing.seconds == pytest.approx(3.0, abs=0.05)
    # Only one part is in it; the other one is whole.
    alone = remux.compare(master, spans[1:], "webm", output, tmp_path)
    assert (alone.missing, alone.extra) == (0, proof.packets - alone.packets) or alone.missing == alone.packets


def test_a_packet_that_was_moved_or_changed_is_told(tmp_path):
    source = encoded(speech(2, RATE), RATE, tmp_path / "source.webm", "-c:a", "libopus")
    output, _, _ = copied(tmp_path, "webm", source)
    master, spans = master_of(tmp_path, "webm", source)
    late = tmp_path / "late.webm"
    command = [FFMPEG, "-v", "error", "-i", str(output), "-c", "copy", "-bsf:a", "setts=ts='PTS+if(gt(N,50),1/TB,0)'"]
    subprocess.run([*command, "-y", str(late)], check=True)
    moved = remux.compare(master, spans, "webm", late, tmp_path)
    assert (moved.missing, moved.displaced) == (0, moved.packets - 51)
    assert moved.most_displaced_seconds == pytest.approx(1, abs=0.01)
    data = bytearray(output.read_bytes())
    data[len(data) // 2] ^= 0xFF
    output.write_bytes(data)
    changed = remux.compare(master, spans, "webm", output, tmp_path)
    assert (changed.missing, changed.extra) == (1, 1)


@pytest.mark.parametrize("name", ["webm-opus", "webm-opus-mono", "webm-opus-paused", "mp4-opus", "webm-pcm"])
def test_what_browsers_record_is_proved(tmp_path, name):
    data = b"".join(vector(name))
    for parts in ([data], [data, data, data]):
        _, _, proof = copied(tmp_path, name.split("-")[0], *parts)
        assert proof.is_exact
        assert proof.packets > 10


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("ogg", "libvorbis")])
def test_of_a_whole_file_nothing_falls_short(tmp_path, suffix, codec):
    data = encoded(speech(4, RATE), RATE, tmp_path / f"sound.{suffix}", "-c:a", codec)
    told: list[pcm.Shortfall] = []
    list(pcm.decode([plan.Part(5, 5, data, None)], suffix, tmp_path, told.append))
    assert told == []


def test_packets_that_no_decoder_takes_are_silence_and_told(tmp_path):
    data = bytearray(encoded(bursts(8), RATE, tmp_path / "sound.mp4", "-c:a", "aac"))
    middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    told: list[pcm.Shortfall] = []
    samples = list(pcm.decode([plan.Part(5, 5, bytes(data), None)], "mp4", tmp_path, told.append))
    onsets = onsets_seconds(b"".join(block.data for block in samples))
    assert [*onsets[:2], onsets[-1]] == pytest.approx([0.5, 1.5, 7.5], abs=0.02)
    assert (len(told), told[0].sequence, told[0].sample_rate) == (1, 5, RATE)
    assert 0.05 < told[0].seconds < 4


def test_a_file_that_ends_early_is_told(tmp_path):
    path = tmp_path / "sound.mp3"
    data = encoded(speech(4), 16000, path)
    path.write_bytes(data[: len(data) // 2])
    part = plan.Part(5, 5, b"", PartDescription(16000, 1, 16, 4 * 16000))
    told: list[pcm.Shortfall] = []
    frames = sum(len(block.data) // 2 for block in pcm.stream(path, part, "mp3", tmp_path, told.append))
    assert told == [pcm.Shortfall(5, 4 * 16000, frames, 16000)]
    assert told[0].seconds == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_whole_files_in_a_row_last_as_long_as_their_recording(tmp_path, rate):
    file = encoded(speech(2, rate), rate, tmp_path / "sound.m4a", "-c:a", "aac")
    output, seconds, proof = copied(tmp_path, "mp4", file, file, file)
    assert proof.is_exact
    # What precedes zero in the first file is not heard.
    assert duration_seconds(output) == pytest.approx(seconds, abs=0.011)
    heard = b"".join(block.data for block in pcm.Blocks(output, "mp4", "s16le", tmp_path).samples())
    # The last packet is decoded as a whole.
    assert 0 <= len(heard) / 2 / rate - seconds < 0.011


def test_a_reconnect_of_chrome_begins_behind_the_whole_last_packet(tmp_path):
    # Its muxer says that the last packet has 1024 samples, as one of AAC would.
    data = b"".join(vector("mp4-opus"))
    whole = tmp_path / "whole.mp4"
    whole.write_bytes(data)
    one = list(remux.packets(whole, None, "mp4", tmp_path))
    assert one[-1].duration_seconds == pytest.approx(1024 / RATE, abs=0.001)
    assert one[-2].duration_seconds == pytest.approx(0.06, abs=0.01)
    output, _, proof = copied(tmp_path, "mp4", data, data)
    joined = list(remux.packets(output, None, "mp4", tmp_path))
    assert proof.is_exact
    begin = joined[len(one)].start_seconds - joined[len(one) - 1].start_seconds
    assert begin == pytest.approx(one[-2].duration_seconds, abs=0.002)
