"""Remuxing: copy the packets of all parts of a stream into one container with a duration and an index.

When a browser reconnects, it starts a new recorder, which sends a new header. The master then contains several complete
WebM, Ogg or MP4 files, one after the other. Parts with the same codec parameters become one recording. FFmpeg reads the
parts from the master (`subfile`), by an ffconcat list. Each part begins exactly where the previous one ends. FFmpeg
estimates the length of a file, so the list contains the length by its packets. `compare` checks that the result
contains every packet of every part at the right time.
"""

import contextlib
import hashlib
import itertools
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from audio.errors import FfmpegFailedError, UnsupportedMediaError
from audio.media import ffmpeg, plan
from audio.media.parts import MOST_OGG_PAGE_BYTES, ogg_is_cut_off
from audio.media.plan import Copied, Span

# The values in FFmpeg's framemd5 output that must be equal if packets are to share one track.
_PARAMETERS = ("#extradata ", "#tb ", "#codec_id ", "#sample_rate ", "#channel_layout_name ")
_SAMPLE_RATE = re.compile(r"^#sample_rate \d+: (\d+)", re.MULTILINE)
_LAYOUT = re.compile(r"^#channel_layout_name \d+: ([^(\s]+)", re.MULTILINE)
# By FFmpeg's names of layouts.
_CHANNELS = {"mono": 1, "stereo": 2, "2.1": 3, "3.0": 3, "4.0": 4, "quad": 4, "5.0": 5, "5.1": 6, "6.1": 7, "7.1": 8}
_MOST_OVERHEAD_BYTES = 16 << 20
# The allowed difference between a packet's time in its part and in the recording. WebM counts in milliseconds.
_TOLERANCE_SECONDS = 0.002
_LOOK_AHEAD_PACKETS = 64
# Codecs whose packets are equally long. If another part follows, a last packet that declares less is decoded
# completely.
_EQUAL_PACKETS = ("aac", "mp3", "opus")
_BLOCK_BYTES = 4096
_OGG_CUT_OFF = "The stream ends within a page or a packet."


@dataclass(frozen=True, slots=True)
class PartHeader:
    """The declarations of one part: the parameters of its packets as comparable text, and whether it has packets.

    They are those of the first audio track that can be recorded. `track` is its number among the audio tracks.
    """

    parameters: str
    has_packets: bool
    track: int = 0

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec; empty if the header names none."""
        return codec_of(self.parameters)


class Packet(NamedTuple):
    """One packet of an audio track: its time, its length, and the identification of its bytes."""

    start_seconds: float
    duration_seconds: float
    size_bytes: int
    md5: bytes

    @property
    def end_seconds(self) -> float:
        """The moment at which the next packet should begin."""
        return self.start_seconds + self.duration_seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """The timeline of one part: the beginning of its first packet, the end of its last one, and their number.

    `audio_seconds` is the length of all packets together, without the gaps between them. `damage` describes an
    incomplete or unreadable place, if there is one. `padding_seconds` is the difference by which the last packet is
    shorter than the one before it.
    """

    start_seconds: float
    end_seconds: float
    packets: int
    audio_seconds: float
    has_gaps: bool
    damage: str = ""
    padding_seconds: float = 0.0

    def joint_seconds(self, codec: str) -> float:
        """The moment at which the next part begins, if one follows."""
        return self.end_seconds + (self.padding_seconds if codec in _EQUAL_PACKETS else 0.0)


@dataclass(frozen=True, slots=True)
class Missing:
    """The first packet that the recording lacks or has at another time.

    `part` counts from zero, and `packet` within the part from one. `seconds` is its position in the recording.
    """

    part: int
    packet: int
    seconds: float


@dataclass(slots=True)
class Proof:
    """The result of a comparison: how many packets the parts have, and how many are missing or at another time.

    `lost_seconds` is the length of the missing packets. `extra` counts packets that belong to no part, and
    `most_displaced_seconds` is the largest difference in the time of a packet.
    """

    packets: int = 0
    missing: int = 0
    displaced: int = 0
    extra: int = 0
    lost_seconds: float = 0.0
    most_displaced_seconds: float = 0.0
    first_missing: Missing | None = None
    first_displaced: Missing | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the recording contains every packet, and no others."""
        return not self.missing and not self.extra

    @property
    def is_exact(self) -> bool:
        """Whether every packet is also at its time."""
        return self.is_complete and not self.displaced


def codec_of(parameters: str) -> str:
    """Return FFmpeg's name of the codec in the `parameters` of a header; empty if they name none."""
    return next((line.split(": ", 1)[1] for line in parameters.splitlines() if line.startswith("#codec_id ")), "")


def rate_of(parameters: str) -> int:
    """Return the sample rate in the `parameters` of a header in Hz; 0 if they name none."""
    found = _SAMPLE_RATE.search(parameters)
    return int(found[1]) if found else 0


def channels_of(parameters: str) -> int:
    """Return the number of channels in the `parameters` of a header; 0 if it is unknown."""
    found = _LAYOUT.search(parameters)
    return _CHANNELS.get(found[1], 0) if found else 0


def header_of(path: Path, span: Span, audio_format: str, folder: Path) -> PartHeader:
    """Return the header of one part of a file. Only the beginning of the part is read.

    Raises:
        UnsupportedMediaError: The part has no audio track, or none that can be recorded.
        FfmpegFailedError: It has no header of this format.
    """
    arguments = plan.header(audio_format, plan.subfile(_linked(path, folder), span))
    return _first_recordable(ffmpeg.output_of(arguments, folder, ffmpeg.WINDOW_LIMITS), audio_format)


def header_in(path: Path, audio_format: str, folder: Path) -> PartHeader:
    """Return the header of a whole file. Errors are those of `header_of`."""
    arguments = plan.header(audio_format, f"file:{path}")
    return _first_recordable(ffmpeg.output_of(arguments, folder, ffmpeg.WINDOW_LIMITS), audio_format)


def _first_recordable(output: Iterable[bytes], audio_format: str) -> PartHeader:
    """Choose from FFmpeg's framemd5 output of all audio tracks."""
    lines = b"".join(output).decode().splitlines()
    codecs = {line.split(" ")[1].rstrip(":"): codec_of(line) for line in lines if line.startswith("#codec_id ")}
    number = next((number for number, codec in codecs.items() if plan.is_recordable(audio_format, codec)), None)
    if number is None:
        raise UnsupportedMediaError(plan.not_recordable(audio_format, list(codecs.values())))
    # Each line has the number of its track, which is no parameter of the packets.
    said = [
        f"{name}0{value}"
        for line in lines
        for name in _PARAMETERS
        if line.startswith(name) and (value := _of_track(line.removeprefix(name), number))
    ]
    if number != "0":
        said.append(f"#track {number}")
    has_packets = any(line.startswith(f"{number},") for line in lines)
    return PartHeader("\n".join(said), has_packets, int(number))


def _of_track(told: str, number: str) -> str:
    """Return the content of a line of framemd5 about a track; empty if it is about another track."""
    return told.removeprefix(number) if told.startswith((f"{number}:", f"{number},")) else ""


def packets(
    path: Path,
    span: Span | None,
    audio_format: str,
    folder: Path,
    track: int = 0,
    on_damage: Callable[[str], None] = lambda _: None,
) -> Iterator[Packet]:
    """Yield the packets of an audio track of one part of a file, or without a span of the whole file, in order.

    Decreasing timestamps are moved as in `copy`. If the part cannot be read to its end, FfmpegFailedError is raised
    after the last readable packet.
    """
    listing = _listing(path, [span], audio_format, folder)
    arguments = plan.timed_packets(audio_format, str(listing), track)
    numerator, denominator, held = 1, 1, b""
    for block in ffmpeg.output_of(arguments, folder, on_damage=on_damage):
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            if line[:1] == b"#":
                if line.startswith(b"#tb "):
                    numerator, denominator = map(int, line.split(b": ")[1].split(b"/"))
                continue
            _, _, pts, duration, size, md5, *_ = line.split(b",")
            yield Packet(int(pts) * numerator / denominator, int(duration) * numerator / denominator, int(size), md5)


def measure(path: Path, span: Span | None, audio_format: str, folder: Path, track: int = 0) -> Measured:
    """Return the timeline of one part, or without a span of the whole file. Errors are those of `packets`."""
    start, end, count, audio_seconds, has_gaps = 0.0, 0.0, 0, 0.0, False
    padding, last_seconds = 0.0, 0.0
    damage: list[str] = []
    for packet in packets(path, span, audio_format, folder, track, damage.append):
        if not count:
            start = end = packet.start_seconds
        has_gaps = has_gaps or packet.start_seconds - end > plan.GAP_SECONDS
        end = packet.end_seconds
        audio_seconds += packet.duration_seconds
        padding, last_seconds = _padding_seconds(last_seconds, packet), packet.duration_seconds
        count += 1
    if audio_format == "ogg" and _is_ogg_cut_off(path, span):
        damage.append(_OGG_CUT_OFF)
    return Measured(start, end, count, audio_seconds, has_gaps, " ".join(damage), padding)


def _padding_seconds(before_seconds: float, packet: Packet) -> float:
    """Return the difference by which a packet is shorter than the previous one."""
    padding = before_seconds - packet.duration_seconds
    return padding if padding > _TOLERANCE_SECONDS else 0.0


def _is_ogg_cut_off(path: Path, span: Span | None) -> bool:
    """Whether the last page is incomplete. FFmpeg does not report this."""
    start, end = (span.start, span.end) if span else (0, path.stat().st_size)
    with path.open("rb") as file:
        begin = max(start, end - MOST_OGG_PAGE_BYTES)
        file.seek(begin)
        return ogg_is_cut_off(file.read(end - begin))


def copy(
    path: Path,
    spans: Sequence[Span],
    audio_format: str,
    codec: str,
    output: Path,
    folder: Path,
    track: int | None = None,
    measured: Sequence[Measured] = (),
) -> float:
    """Copy the packets of the parts of a file into `output`, one part after the other, and return the seconds.

    A single part is copied as far as it can be read. Several parts must have equal parameters. If one of them cannot be
    read to its end, FfmpegFailedError is raised, because the parts after it would be missing.

    Args:
        path: The file that holds the parts.
        spans: Where they lie in it.
        audio_format: Their format.
        codec: Their codec, as FFmpeg names it.
        output: The file to write.
        folder: An empty folder to work in.
        track: The number of the audio track. By default it is read from the file.
        measured: The timelines of the parts. By default they are measured.
    """
    if track is None:
        track = header_of(path, spans[0], audio_format, folder).track
    measured = measured or _measured(path, spans, audio_format, folder, track)
    copied = Copied(track, codec, any(part.has_gaps for part in measured))
    if len(spans) == 1:
        arguments = plan.remux(audio_format, str(path), str(output), copied)
    else:
        listing = _listing(path, spans, audio_format, folder, _distances(measured, codec))
        arguments = plan.remux_parts(audio_format, str(listing), str(output), copied)
    # The tables of an MP4 file may refer to the same bytes many times.
    most_bytes = 4 * sum(span.end - span.start for span in spans) + _MOST_OVERHEAD_BYTES
    seconds = ffmpeg.run(arguments, folder, replace(ffmpeg.LONG_LIMITS, file_bytes=most_bytes))
    return duration_seconds(measured, codec) or seconds


def duration_seconds(parts: Sequence[Measured], codec: str) -> float:
    """Return the length of the recording of these parts, without the samples before zero in the first one."""
    if not parts:
        return 0.0
    begin = max(0.0, parts[0].start_seconds)
    return round(parts[-1].end_seconds - begin + sum(_distances(parts, codec)), 6)


def moments(
    path: Path,
    spans: Sequence[Span],
    audio_format: str,
    folder: Path,
    offsets: Sequence[int],
    copied: tuple[int, str, Sequence[Measured]],
) -> list[float]:
    """Return the positions in the recording of the first packets after these offsets of the file.

    Args:
        path: The file that holds the parts.
        spans: Where they lie in it, as they were given to `copy`.
        audio_format: Their format.
        folder: An empty folder to work in.
        offsets: The offsets, in order.
        copied: The number of the audio track, its codec, and the timelines of the parts; none if one is unreadable.
    """
    track, codec, measured = copied
    shifts = [*itertools.accumulate(_distances(measured, codec), initial=0.0)]
    found: list[float] = []
    begin: float | None = max(0.0, measured[0].start_seconds) if measured else None
    for number, span in enumerate(spans):
        is_last = number + 1 == len(spans)
        here = [at - span.start for at in offsets[len(found) :] if is_last or at < spans[number + 1].start]
        if not here:
            continue
        shift = shifts[number] if number < len(shifts) else 0.0
        for seconds in _behind(path, span, audio_format, folder, track, here):
            begin = max(0.0, seconds.first) if begin is None else begin
            found.append(round(max(0.0, seconds.at + shift - begin), 6))
    return found


class _Moment(NamedTuple):
    """A moment in a part, together with the moment at which its first packet begins."""

    first: float
    at: float


def _behind(
    path: Path, span: Span, audio_format: str, folder: Path, track: int, offsets: Sequence[int]
) -> list[_Moment]:
    """Return the time of the first packet after each offset of a part; the end of the part if there is none."""
    found: list[_Moment] = []
    first, end = 0.0, 0.0
    positions = _positions(path, span, audio_format, folder, track)
    # A part that cannot be read to its end is used as far as it can be read.
    with contextlib.suppress(FfmpegFailedError):
        for count, (packet, position) in enumerate(
            zip(packets(path, span, audio_format, folder, track), positions, strict=False)
        ):
            first = packet.start_seconds if not count else first
            while len(found) < len(offsets) and position >= offsets[len(found)]:
                found.append(_Moment(first, packet.start_seconds))
            end = packet.end_seconds
    return found + [_Moment(first, end)] * (len(offsets) - len(found))


def _positions(path: Path, span: Span, audio_format: str, folder: Path, track: int) -> Iterator[int]:
    """Yield the offset of each packet in its part."""
    listing = _listing(path, [span], audio_format, folder)
    held = b""
    for block in ffmpeg.output_of(plan.packet_positions(audio_format, str(listing), track), folder):
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            if line[:1] != b"#":
                yield int(line.split(b",")[2])


def _measured(path: Path, spans: Sequence[Span], audio_format: str, folder: Path, track: int) -> Sequence[Measured]:
    try:
        return [measure(path, span, audio_format, folder, track) for span in spans]
    except FfmpegFailedError:
        if len(spans) > 1:
            raise
        # One part is copied as far as it can be read.
        return []


def _distances(parts: Sequence[Measured], codec: str) -> list[float]:
    """Return the distance from the beginning of each part to that of the next, so that packets follow without a gap.

    The timestamps of a file begin at its first packet of any track, which may be earlier than its sound.
    """
    return [part.joint_seconds(codec) - following.start_seconds for part, following in itertools.pairwise(parts)]


def _listing(
    path: Path, spans: Sequence[Span | None], audio_format: str, folder: Path, distances: Sequence[float] = ()
) -> Path:
    """Write the ffconcat list of parts of a file, or of the whole file, into the working folder."""
    name = _linked(path, folder)
    addresses = [plan.subfile(name, span) if span else f"file:{name}" for span in spans]
    first = spans[0].start if spans[0] else "whole"
    listing = folder / f"{name}.{first}.ffconcat"
    listing.write_text(plan.concat_list(audio_format, addresses, distances))
    return listing


def compare(path: Path, spans: Sequence[Span], audio_format: str, output: Path, folder: Path) -> Proof:
    """Compare a recording with the parts that were copied into it, packet by packet, with limited memory.

    Args:
        path: The file that holds the parts.
        spans: Where they lie in it, as they were given to `copy`.
        audio_format: Their format.
        output: The recording.
        folder: An empty folder to work in.

    Returns:
        The result. Each packet should be in the recording, bit for bit, in order, and at the same distance from the
        beginning of its part. Each part should begin at the end of the previous one.

    Raises:
        FfmpegFailedError: A part or the recording can't be read.
    """
    header = header_of(path, spans[0], audio_format, folder)
    if header.codec.startswith("pcm_"):
        return _compare_bytes(path, spans, audio_format, output, folder, header.track)
    proof, recorded = Proof(), _Recorded(packets(output, None, audio_format, folder))
    begins = recorded.starts_seconds
    for number, span in enumerate(spans):
        shift, padding, packet = 0.0, 0.0, None
        last_seconds = 0.0
        for count, packet in enumerate(packets(path, span, audio_format, folder, header.track), start=1):
            if count == 1:
                shift = begins - packet.start_seconds
            padding, last_seconds = _padding_seconds(last_seconds, packet), packet.duration_seconds
            _compare_packet(packet, Missing(number, count, packet.start_seconds + shift), recorded, proof)
        padding = padding if header.codec in _EQUAL_PACKETS else 0.0
        begins = packet.end_seconds + padding + shift if packet else begins
    proof.extra += recorded.count_left()
    return proof


class _Recorded:
    """The packets of a recording. The next ones can be read in advance."""

    def __init__(self, given: Iterator[Packet]) -> None:
        self._given = given
        self._next = deque(itertools.islice(given, _LOOK_AHEAD_PACKETS))
        self.starts_seconds = self._next[0].start_seconds if self._next else 0.0

    def take(self, wanted: Packet) -> tuple[Packet | None, int]:
        """Return the next packet with the same bytes, if it is near, and the number of packets before it."""
        identity = (wanted.size_bytes, wanted.md5)
        for skipped, packet in enumerate(self._next):
            if (packet.size_bytes, packet.md5) == identity:
                for _ in range(skipped + 1):
                    self._next.popleft()
                self._next.extend(itertools.islice(self._given, skipped + 1))
                return packet, skipped
        return None, 0

    def count_left(self) -> int:
        """Return how many packets were not taken."""
        return len(self._next) + sum(1 for _ in self._given)


def _compare_packet(packet: Packet, place: Missing, recorded: _Recorded, proof: Proof) -> None:
    found, skipped = recorded.take(packet)
    proof.packets += 1
    proof.extra += skipped
    if found is None:
        proof.missing += 1
        proof.lost_seconds += packet.duration_seconds
        proof.first_missing = proof.first_missing or place
    elif (off := abs(found.start_seconds - place.seconds)) > _TOLERANCE_SECONDS:
        proof.displaced += 1
        proof.most_displaced_seconds = max(off, proof.most_displaced_seconds)
        proof.first_displaced = proof.first_displaced or place


def _compare_bytes(
    path: Path, spans: Sequence[Span], audio_format: str, output: Path, folder: Path, track: int
) -> Proof:
    """Compare PCM byte by byte in blocks, because every container splits it into different packets."""
    proof = Proof()
    parts = [measure(path, span, audio_format, folder, track) for span in spans]
    seconds = sum(part.end_seconds - part.start_seconds for part in parts)
    whole = measure(output, None, audio_format, folder)
    recorded = _Recorded(_blocks(_bytes(output, [None], audio_format, folder, 0)))
    for block in _blocks(_bytes(path, spans, audio_format, folder, track)):
        _compare_packet(block, Missing(0, proof.packets + 1, 0.0), recorded, proof)
    proof.extra += recorded.count_left()
    off = abs(whole.end_seconds - whole.start_seconds - seconds)
    if off > _TOLERANCE_SECONDS * len(parts):
        proof.displaced, proof.most_displaced_seconds = 1, off
    return proof


def _bytes(path: Path, spans: Sequence[Span | None], audio_format: str, folder: Path, track: int) -> Iterator[bytes]:
    for span in spans:
        listing = _listing(path, [span], audio_format, folder)
        yield from ffmpeg.output_of(plan.bytes_of(audio_format, str(listing), track), folder)


def _blocks(data: Iterable[bytes]) -> Iterator[Packet]:
    """Cut bytes into blocks of one size, the last one shorter."""
    held = b""
    for piece in data:
        held += piece
        whole = len(held) // _BLOCK_BYTES * _BLOCK_BYTES
        for at in range(0, whole, _BLOCK_BYTES):
            yield _block(held[at : at + _BLOCK_BYTES])
        held = held[whole:]
    if held:
        yield _block(held)


def _block(data: bytes) -> Packet:
    return Packet(0.0, 0.0, len(data), hashlib.md5(data, usedforsecurity=False).digest())


def _linked(path: Path, folder: Path) -> str:
    """Link the file to a name in FFmpeg's working folder that needs no quoting."""
    target = path.resolve()
    link = folder / f"parts-{zlib.crc32(str(target).encode()):08x}{path.suffix}"
    if not link.is_symlink():
        link.symlink_to(target)
    return link.name
