"""PURE. The frames of MP3, ADTS and FLAC: their sample rate, their channels and their number of samples.

`FrameCounter` follows an MP3 or ADTS stream in pieces of any size, so that the length of the stream is known at its end
without reading it again. FLAC declares its length in STREAMINFO. If a live encoder has left it out, the number of the
last frame shows the length, and `StreamInfo.pack` writes it into STREAMINFO.

MPEG audio: ISO/IEC 11172-3 section 2.4.1 and the Xing/Info header with LAME's extension ("Mp3 Info Tag rev 1").
ADTS: ISO/IEC 14496-3 section 1.A.2. FLAC: RFC 9639 sections 8.2 and 9.1.
"""

import re
from bisect import bisect_left
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from audio.sniff import (
    FLAC_HEADER_BYTES,
    FLAC_SYNC,
    adts_frame_size_bytes,
    ape_tag_size_bytes,
    flac_frame_header,
    id3_size_bytes,
    is_info_frame,
    mpeg_frame_size_bytes,
    mpeg_rate_hz,
)

_ADTS_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_INFO_BYTES = 200
_TOTAL_MASK = (1 << 36) - 1
_LAME_TAGS = (b"LAME", b"Lavf", b"Lavc")
# The places at which a frame or a tag begins, or may begin if the right bytes follow.
_BEGINNING = re.compile(rb"\xff|ID3|ID?\Z")
_INFO_TAG = re.compile(rb"Xing|Info|VBRI")
# The tag of an Info frame begins at most 40 bytes into it, and has four bytes.
_INFO_TAG_WITHIN_BYTES = 44
# Other data rarely look like a header by chance, and never like this many frames in a row.
_CONFIRMING_FRAMES = 3
# The header of an APE tag; those of frames and of other tags are shorter.
_TAG_HEAD_BYTES = 32
_ID3V1_BYTES = 128
_LINEAR_TOC = bytes(n * 256 // 100 for n in range(100))
# The delay of every MP3 decoder in sample frames. Decoders leave out at least as many at the end.
_DECODER_DELAY = 529
_MOST_SPANS = 100


@dataclass(frozen=True, slots=True)
class PartDescription:
    """The declarations of a complete compressed file: rate in Hz, channels, bits of a sample, sample frames.

    `sample_frames` is the number that a decoder will return, or 0 if the file does not declare it.
    """

    sample_rate: int
    channels: int
    bits: int
    sample_frames: int


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """Bytes of a stream that are neither frames nor tags, up to and not including `end`, at `seconds` of its audio."""

    start: int
    end: int
    seconds: float


@dataclass(frozen=True, slots=True)
class InfoFrame:
    """The Info, Xing or VBRI frame that encoders write first. It contains no audio.

    Attributes:
        frame: The beginning of the frame, with all of its tag.
        tag_at: The offset of the tag in the frame.
        frame_count: The declared number of frames that follow, or 0.
        byte_count: The declared number of bytes of the stream, including this frame, or 0.
        delay: The sample frames that the encoder added at the beginning, by LAME's extension; `end_padding` at the end.
        lame_at: The offset of LAME's extension, or 0 if there is none.
    """

    frame: bytes
    tag_at: int
    frame_count: int
    byte_count: int
    delay: int = 0
    end_padding: int = 0
    lame_at: int = 0

    @classmethod
    def parse(cls, frame: bytes) -> "InfoFrame | None":
        """Parse the first bytes of a frame (_INFO_BYTES are enough). Return None if it is no such frame."""
        if not is_info_frame(frame):
            return None
        at = max(frame.find(b"Xing", 0, 42), frame.find(b"Info", 0, 42))
        if at < 0:
            return cls(frame, 36, int.from_bytes(frame[50:54], "big"), int.from_bytes(frame[46:50], "big"))
        flags = int.from_bytes(frame[at + 4 : at + 8], "big")
        fields = [int.from_bytes(frame[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(2)]
        frame_count = fields.pop(0) if flags & 1 else 0
        byte_count = fields.pop(0) if flags & 2 else 0
        lame = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
        if frame[lame : lame + 4] not in _LAME_TAGS:
            return cls(frame, at, frame_count, byte_count)
        delays = int.from_bytes(frame[lame + 21 : lame + 24], "big")
        return cls(frame, at, frame_count, byte_count, delays >> 12, delays & 0xFFF, lame)

    def corrected(self, frame_count: int, byte_count: int) -> bytes:
        """Return the bytes of the frame with these counts.

        The padding at the end becomes zero, because the stream did not end where the encoder expected. The table of
        seek points becomes that of a constant bit rate. Absent fields stay absent.
        """
        made = bytearray(self.frame)
        if self.frame[self.tag_at : self.tag_at + 4] == b"VBRI":
            made[46:54] = byte_count.to_bytes(4, "big") + frame_count.to_bytes(4, "big")
            return bytes(made)
        flags, at = made[self.tag_at + 7], self.tag_at + 8
        for flag, value in ((1, frame_count.to_bytes(4, "big")), (2, byte_count.to_bytes(4, "big")), (4, _LINEAR_TOC)):
            if flags & flag:
                made[at : at + len(value)] = value
                at += len(value)
        if self.lame_at:
            made[self.lame_at + 21 : self.lame_at + 24] = (self.delay << 12).to_bytes(3, "big")
            made[self.lame_at + 28 : self.lame_at + 32] = byte_count.to_bytes(4, "big")
            end = self.lame_at + 34
            made[end : end + 2] = _crc16_arc(bytes(made[:end])).to_bytes(2, "big")
        return bytes(made)


def _crc16_arc(data: bytes) -> int:
    """The checksum of LAME's extension: CRC-16 with the reflected polynomial 0xA001."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


@dataclass(slots=True)
class FrameCounter:
    """A counter of the frames of an MP3 or ADTS stream, which it reads in pieces of any size.

    A frame counts if it follows another frame, or if so many frames follow it that this is no coincidence. So the
    counter finds the frames of a stream that begins in the middle, and finds none in other data.

    Attributes:
        audio_format: `mp3` or `aac`.
        has_parts: Whether an ID3 tag or an Info frame after the first frame begins another file. Otherwise an Info
            frame is a frame like any other. Frames with other parameters always begin a part.
        samples: The number of sample frames, without those of the Info frame.
        sample_rate: The sample rate of the first frame in Hz, or 0 before there is one. `channels` likewise.
        info: The Info frame, if the stream begins with one, at `info_at`.
        fed: The number of bytes that were fed.
        at: The offset at which the next frame is expected. `held` contains the received bytes from there on.
        constants: The values that the headers of one stream have in common.
        is_synced: Whether a frame or a tag ends at `at`.
        tag_at: The offset of the ID3 tag after which the next frame is expected, or -1.
        last_at: The offset of the last frame if `at` is its end, otherwise -1. The frame has `last_samples`.
        audio_bytes: The number of bytes of frames. `unrecognised_bytes` counts those that are neither frames nor tags.
        unrecognised: The first spans of unrecognised bytes.
    """

    audio_format: str
    has_parts: bool = True
    samples: int = 0
    sample_rate: int = 0
    channels: int = 0
    info: InfoFrame | None = None
    info_at: int = 0
    fed: int = 0
    at: int = 0
    held: bytes = field(default=b"", repr=False)
    constants: bytes = b""
    is_synced: bool = True
    tag_at: int = -1
    last_at: int = -1
    last_samples: int = 0
    audio_bytes: int = 0
    unrecognised_bytes: int = 0
    unrecognised: list[Unrecognised] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list, repr=False)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, bounded whatever came; the inverse of `restore`."""
        state = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        state.update(held=self.held.hex(), constants=self.constants.hex())
        state["info"] = self.info.frame.hex() if self.info else ""
        return state

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "FrameCounter":
        """Return the counter whose `state` this is."""
        hexed = {name: bytes.fromhex(state[name]) for name in ("held", "constants")}
        spans = [Unrecognised(**span) for span in state["unrecognised"]]
        info = InfoFrame.parse(bytes.fromhex(state["info"]))
        return cls(**{**state, **hexed, "unrecognised": spans, "info": info})

    @property
    def is_info_true(self) -> bool:
        """Whether there is no Info frame, or it declares the right number of frames."""
        return self.info is None or self.info.frame_count * self._frame_samples == self.samples

    @property
    def decoded_frames(self) -> int:
        """The number of sample frames that a decoder returns once the Info frame is corrected."""
        if self.info is None or not self.info.lame_at:
            return self.samples
        end = max(_DECODER_DELAY, self.info.end_padding if self.is_info_true else 0)
        return max(0, self.samples - self.info.delay - end)

    @property
    def duration_seconds(self) -> float:
        """The length of the audio that was counted."""
        return self.decoded_frames / self.sample_rate if self.sample_rate else 0.0

    @property
    def frame_count(self) -> int:
        """The number of frames with audio."""
        return self.samples // self._frame_samples if self.samples else 0

    @property
    def _frame_samples(self) -> int:
        return self._samples_of(self.info.frame) if self.info else 1024

    def feed(self, data: bytes) -> list[int]:
        """Count complete frames, and return the offsets in the stream at which new parts begin, in order."""
        return self._advance(data, is_last=False)

    def finish(self) -> list[int]:
        """Count the held frames at the end of the stream, and return the same as `feed`."""
        starts = self._advance(b"", is_last=True)
        if self.last_at >= 0 and self.at > self.fed:
            # A decoder leaves out an incomplete frame.
            self.samples -= self.last_samples
            self.audio_bytes -= self.at - self.last_at
            self._leave_out(self.last_at, self.fed)
        self._leave_out(self.at, self.fed)
        self.at, self.held = self.fed, b""
        return starts

    def _advance(self, data: bytes, is_last: bool) -> list[int]:
        block, base, self._starts = self.held + data, self.fed - len(self.held), []
        self.fed += len(data)
        if self.at < self.fed:
            infos = [found.start() for found in _INFO_TAG.finditer(block)] if self.audio_format == "mp3" else []
            while self.at < self.fed and (step := self._step(block, self.at - base, infos, is_last)):
                self.at += step
        self.held = block[self.at - base :]
        return self._starts

    def _step(self, block: bytes, index: int, infos: list[int], is_last: bool) -> int:
        """Examine the bytes at `index`. Return the size of the frame or tag there; 0 if more bytes are needed."""
        head = block[index : index + _TAG_HEAD_BYTES]
        if len(head) < _TAG_HEAD_BYTES and not is_last:
            return 0
        if size := _tag_bytes(head):
            self.is_synced, self.last_at = True, -1
            self.tag_at = self.at if head.startswith(b"ID3") and self.tag_at < 0 else self.tag_at
            return size
        size, constants = self._header(head)
        if size and not (self.is_synced and constants == self.constants):
            is_frame = self._is_confirmed(block, index, constants, is_last)
            if is_frame is None:
                return 0
            size = size if is_frame else 0
        if size:
            return self._frame(block, index, size, constants, infos, is_last)
        found = _BEGINNING.search(block, index + 1)
        step = (found.start() if found else len(block)) - index
        self._leave_out(self.at, self.at + step)
        return step

    def _header(self, head: bytes) -> tuple[int, bytes]:
        """Return the size of the frame that begins here, or 0, and the values that all headers of its stream share."""
        if self.audio_format == "mp3":
            size = mpeg_frame_size_bytes(head[:4])
            return size, bytes((head[1] & 0xFE, head[2] & 0x0C, head[3] >> 6 == 3)) if size else b""
        size = adts_frame_size_bytes(head) if len(head) > 6 else 0
        return size, bytes((head[1] & 0xFE, head[2] & 0xFD, head[3] & 0xC0)) if size else b""

    def _is_confirmed(self, block: bytes, index: int, constants: bytes, is_last: bool) -> bool | None:
        """Whether frames with these constants follow each other from here on; None if more bytes are needed."""
        for count in range(_CONFIRMING_FRAMES):
            head = block[index : index + _TAG_HEAD_BYTES]
            if len(head) < _TAG_HEAD_BYTES and not is_last:
                return None
            if count and (not head or _tag_bytes(head)):
                return index == len(block) or bool(head)
            size, found = self._header(head)
            if not size or found != constants:
                return False
            index += size
        return True

    def _frame(self, block: bytes, index: int, size: int, constants: bytes, infos: list[int], is_last: bool) -> int:
        has_begun = bool(self.constants)
        place, info = bisect_left(infos, index + 4), None
        if self.audio_format == "mp3" and len(block) - index < _INFO_TAG_WITHIN_BYTES and not is_last:
            return 0
        if not has_begun or (place < len(infos) and infos[place] <= index + 40):
            if len(block) - index < _INFO_BYTES and not is_last:
                return 0
            info = InfoFrame.parse(block[index : index + _INFO_BYTES]) if self.audio_format == "mp3" else None
        is_other = has_begun and constants != self.constants
        if is_other or (self.has_parts and has_begun and (info is not None or self.tag_at >= 0)):
            self._starts.append(self.tag_at if self.tag_at >= 0 else self.at)
        elif info is not None and not has_begun:
            self.info, self.info_at = info, self.at
        header = block[index : index + _TAG_HEAD_BYTES]
        if not has_begun:
            self._take_parameters(header)
        is_audio = info is None or (has_begun and not self.has_parts)
        self.last_at, self.last_samples = self.at, self._samples_of(header) if is_audio else 0
        self.samples += self.last_samples
        self.audio_bytes += size
        self.constants, self.is_synced, self.tag_at = constants, True, -1
        return size

    def _take_parameters(self, header: bytes) -> None:
        if self.audio_format == "mp3":
            self.sample_rate, self.channels = mpeg_rate_hz(header), 1 if header[3] >> 6 == 3 else 2
        else:
            self.sample_rate = _ADTS_RATES_HZ[header[2] >> 2 & 15]
            self.channels = (header[2] & 1) << 2 | header[3] >> 6

    def _samples_of(self, header: bytes) -> int:
        if self.audio_format == "mp3":
            return 1152 if header[1] >> 3 & 3 == 3 else 576
        return 1024 * ((header[6] & 3) + 1)

    def _leave_out(self, start: int, end: int) -> None:
        if end <= start:
            return
        self.is_synced, self.last_at = False, -1
        self.unrecognised_bytes += end - start
        last = self.unrecognised[-1] if self.unrecognised else None
        if last is not None and last.end == start:
            self.unrecognised[-1] = replace(last, end=end)
        elif len(self.unrecognised) < _MOST_SPANS:
            self.unrecognised.append(Unrecognised(start, end, self.duration_seconds))


def _tag_bytes(head: bytes) -> int:
    """Return the size of the ID3v2, ID3v1 or APE tag that begins here; 0 if there is none."""
    if head[:3] == b"ID3":
        return id3_size_bytes(head)
    if head[:3] == b"TAG":
        return _ID3V1_BYTES
    return ape_tag_size_bytes(head)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The STREAMINFO block of a FLAC stream: the `offset` of its 34 bytes in the file, and the bytes (`body`)."""

    offset: int
    body: bytes

    @property
    def max_block_samples(self) -> int:
        """The largest block, in sample frames."""
        return int.from_bytes(self.body[2:4], "big")

    @property
    def _packed(self) -> int:
        return int.from_bytes(self.body[10:18], "big")

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self._packed >> 44

    @property
    def channels(self) -> int:
        """1 to 8."""
        return (self._packed >> 41 & 7) + 1

    @property
    def bits(self) -> int:
        """Bits of a sample, 4 to 32."""
        return (self._packed >> 36 & 31) + 1

    @property
    def total_samples(self) -> int:
        """The number of sample frames of the stream; 0 if the encoder did not know it."""
        return self._packed & _TOTAL_MASK

    def with_total(self, total_samples: int) -> "StreamInfo":
        """Return the block with another total. An MD5 of another length is set to zero, which means unknown."""
        packed = self._packed & ~_TOTAL_MASK | total_samples & _TOTAL_MASK
        return replace(self, body=self.body[:10] + packed.to_bytes(8, "big") + bytes(16))


def flac_stream_info(head: bytes) -> StreamInfo | None:
    """Return the STREAMINFO at the beginning of a FLAC stream, None if there is no valid one."""
    at = id3_size_bytes(head)
    if head[at : at + 4] != b"fLaC" or head[at + 4 : at + 5] not in (b"\x00", b"\x80") or len(head) < at + 42:
        return None
    info = StreamInfo(at + 8, head[at + 8 : at + 42])
    return info if info.sample_rate else None


_ID3_HEADER_BYTES = 10
# The end of STREAMINFO, counted from the magic.
_STREAM_INFO_END = 42
_NOWHERE = 1 << 62


def _crc16_flac(data: bytes) -> int:
    """The checksum at the end of a FLAC frame: CRC-16 with the polynomial 0x8005. That of a whole frame is zero."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = value << 1 ^ (0x18005 if value & 0x8000 else 0)
    return value


def is_whole_flac_frame(data: bytes) -> bool:
    """Whether `data` is a complete FLAC frame, after which a tag may follow."""
    tag = next(
        (at for at in (data.find(b"TAG", -_ID3V1_BYTES), data.find(b"APETAGEX"), data.find(b"ID3")) if at > 0), 0
    )
    return not _crc16_flac(data) or (tag > 0 and not _crc16_flac(data[:tag]))


def _flac_frame(frame: bytes, info: StreamInfo) -> tuple[int, int]:
    """Return the first sample frame of the FLAC frame that begins here, and the one after its last; (0, 0) if none."""
    header = flac_frame_header(frame)
    if header is None or header.channels != info.channels:
        return 0, 0
    start = header.number if header.is_variable else header.number * info.max_block_samples
    return start, start + header.block_samples


@dataclass(frozen=True, slots=True)
class NumberGap:
    """A place in a FLAC stream, at `offset`, where `missing` sample frames lie between the numbers of two frames."""

    offset: int
    missing: int
    seconds: float


@dataclass(slots=True)
class FlacCounter:
    """A counter of the frames of a FLAC stream, which it reads in pieces of any size.

    A frame counts if the CRC-8 of its header is right and its number follows that of the previous frame. After a gap,
    the number of the next frame has to follow too.

    Attributes:
        flac_at: The offset at which the magic is expected, perhaps after an ID3 tag; -1 before it is known.
        stream_info: The body of STREAMINFO; None before it was received.
        samples: The number of sample frames in all frames.
        expected: The first sample frame of the next frame, by its number.
        last_at: The offset of the last frame, or -1 before the first. The frame has `last_samples`.
        pending: The offset and the first and last number of a frame after a gap, until the next frame confirms it.
        gaps: The first places where numbers are missing or decrease.
        fed: The number of bytes that were fed. `held` contains the last of them, in which a header may have begun.
    """

    stream_info: bytes | None = None
    flac_at: int = -1
    samples: int = 0
    expected: int = 0
    last_at: int = -1
    last_samples: int = 0
    pending: tuple[int, int, int] | None = None
    gaps: list[NumberGap] = field(default_factory=list)
    fed: int = 0
    held: bytes = field(default=b"", repr=False)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, bounded whatever came; the inverse of `restore`."""
        body = self.stream_info.hex() if self.stream_info else None
        return {**asdict(self), "held": self.held.hex(), "stream_info": body}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "FlacCounter":
        """Return the counter whose `state` this is."""
        body = bytes.fromhex(state["stream_info"]) if state["stream_info"] else None
        pending = tuple(state["pending"]) if state["pending"] else None
        gaps = [NumberGap(**gap) for gap in state["gaps"]]
        held = bytes.fromhex(state["held"])
        return cls(**{**state, "stream_info": body, "pending": pending, "gaps": gaps, "held": held})

    @property
    def info(self) -> StreamInfo | None:
        """The STREAMINFO of the stream; None before it was received."""
        return StreamInfo(self.flac_at + 8, self.stream_info) if self.stream_info else None

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz; 0 before STREAMINFO was received."""
        return self.info.sample_rate if self.info else 0

    @property
    def channels(self) -> int:
        """The number of channels; 0 before STREAMINFO was received."""
        return self.info.channels if self.info else 0

    @property
    def duration_seconds(self) -> float:
        """The length of the audio that was counted."""
        return self.samples / self.sample_rate if self.sample_rate else 0.0

    def feed(self, data: bytes) -> None:
        """Count the frames whose headers are complete."""
        self._advance(data, FLAC_HEADER_BYTES)

    def finish(self) -> None:
        """Count the held frames at the end of the stream."""
        self._advance(b"", 0)
        if self.pending is not None:
            self._accept(*self.pending)

    def _advance(self, data: bytes, kept_bytes: int) -> None:
        block, base = self.held + data, self.fed - len(self.held)
        self.fed += len(data)
        at = 0 if self.stream_info is not None else self._read_header(block, base)
        info = self.info
        if info is None:
            return
        end = len(block) - kept_bytes
        for candidate in FLAC_SYNC.finditer(block, at):
            if candidate.start() >= end:
                break
            start, behind = _flac_frame(block[candidate.start() : candidate.start() + FLAC_HEADER_BYTES], info)
            if behind:
                self._note(base + candidate.start(), start, behind)
        self.held = block[max(0, end) :]

    def _read_header(self, block: bytes, base: int) -> int:
        """Look for STREAMINFO, and return the place in the block at which the frames may begin."""
        if self.flac_at < 0:
            if len(block) < _ID3_HEADER_BYTES:
                self.held = block
                return 0
            self.flac_at = id3_size_bytes(block)
        begin = min(len(block), self.flac_at - base)
        self.held = block[begin:]
        if len(self.held) >= _STREAM_INFO_END:
            found = flac_stream_info(self.held)
            self.stream_info = found.body if found else None
            self.flac_at = self.flac_at if found else _NOWHERE
        return begin + _STREAM_INFO_END

    def _note(self, offset: int, start: int, behind: int) -> None:
        if start == self.expected:
            self._accept(offset, start, behind)
        elif self.pending is not None and start == self.pending[2]:
            self._accept(*self.pending)
            self._accept(offset, start, behind)
        else:
            self.pending = (offset, start, behind)

    def _accept(self, offset: int, start: int, behind: int) -> None:
        if start != self.expected and len(self.gaps) < _MOST_SPANS:
            self.gaps.append(NumberGap(offset, start - self.expected, self.duration_seconds))
        self.last_at, self.last_samples = offset, behind - start
        self.samples += behind - start
        self.expected, self.pending = behind, None

    def leave_out_last(self) -> None:
        """Leave the last frame out of the counts, because it is incomplete and decoders leave it out."""
        self.samples, self.last_samples = self.samples - self.last_samples, 0


def describe(audio_format: str, data: bytes) -> PartDescription | None:
    """Return the declarations of a complete file; None if this module does not read its format."""
    if audio_format == "flac":
        info = flac_stream_info(data)
        return PartDescription(info.sample_rate, info.channels, info.bits, info.total_samples) if info else None
    if audio_format not in ("mp3", "aac"):
        return None
    counter = FrameCounter(audio_format, has_parts=False)
    counter.feed(data)
    counter.finish()
    if not counter.samples:
        return None
    return PartDescription(counter.sample_rate, counter.channels, 16, counter.decoded_frames)
