"""PURE. What the frames of MP3, ADTS and FLAC say: rate, channels, how many samples.

`FrameCounter` follows an MP3 or ADTS stream cut anywhere, so that its length is known when it ends without
reading it again. FLAC tells its length in STREAMINFO; where a live encoder left that open, the last frame's
number tells it, and `StreamInfo.pack` writes it back in place.

MPEG audio: ISO/IEC 11172-3 section 2.4.1 and the Xing/Info header with LAME's extension ("Mp3 Info Tag rev 1").
ADTS: ISO/IEC 14496-3 section 1.A.2. FLAC: RFC 9639 sections 8.2 and 9.1.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from audio.sniff import adts_frame_size_bytes, id3_size_bytes, is_info_frame, mpeg_frame_size_bytes, mpeg_rate_hz

_ADTS_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_INFO_BYTES = 200
_TOTAL_MASK = (1 << 36) - 1
_LAME_TAGS = (b"LAME", b"Lavf", b"Lavc")
# Where a frame or a tag begins, or may begin with what the next bytes will be.
_BEGINNING = re.compile(rb"\xff|ID3|ID?\Z")
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
# Checks of a whole frame at most, of what looks like the last one: a true header is rarely imitated by chance.
_MOST_FLAC_CHECKS = 16


@dataclass(frozen=True, slots=True)
class PartDescription:
    """What a complete compressed file says of itself: rate in Hz, channels, bits of a sample, sample frames.

    `sample_frames` is what a decoder will give, 0 where the file does not tell.
    """

    sample_rate: int
    channels: int
    bits: int
    sample_frames: int


@dataclass(slots=True)
class FrameCounter:
    """Counts the frames of an MP3 or ADTS stream; `audio_format` is `mp3` or `aac`.

    `samples` are sample frames, without those of an Info frame. `skip_bytes` lie before the next header, `held`
    is the part of a header that came. `padding` is the encoder's delay and padding as an Info frame told it.
    """

    audio_format: str
    samples: int = 0
    sample_rate: int = 0
    channels: int = 0
    padding: int = 0
    declared_samples: int = 0
    skip_bytes: int = 0
    held: bytes = b""

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON; the inverse of `restore`."""
        return {**asdict(self), "held": self.held.hex()}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "FrameCounter":
        """Takes what `state` returned; returns the counter as it was."""
        return cls(**{**state, "held": bytes.fromhex(state["held"])})

    @property
    def has_begun(self) -> bool:
        """Whether anything came that is not an ID3 tag before the first frame."""
        return bool(self.sample_rate or (self.held and id3_size_bytes(self.held) != len(self.held)))

    @property
    def decoded_frames(self) -> int:
        """The sample frames that a decoder gives: without delay and padding where a true Info frame tells them."""
        return max(0, self.samples - (self.padding if self.samples == self.declared_samples else 0))

    @property
    def duration_seconds(self) -> float:
        """The length of what was counted."""
        return self.decoded_frames / self.sample_rate if self.sample_rate else 0.0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        if self.skip_bytes >= len(data) and not self.held:
            self.skip_bytes -= len(data)
            return
        data, at = self.held + data, self.skip_bytes
        end = len(data) - (_INFO_BYTES if not self.sample_rate else 10)
        self.held, self.skip_bytes = b"", 0
        while at <= end:
            at = self._frame(data, at)
            end = end if not self.sample_rate else len(data) - 10
        self.skip_bytes, self.held = max(0, at - len(data)), data[at:]

    def finish(self) -> None:
        """Counts what was held because more could have followed."""
        data, at = self.held, self.skip_bytes
        self.held = b""
        while at + (4 if self.audio_format == "mp3" else 7) <= len(data):
            at = self._frame(data, at)

    def _frame(self, data: bytes, at: int) -> int:
        """Counts what stands at `at`; returns where to look next."""
        header = data[at : at + 10]
        if header[:3] == b"ID3" and (size := id3_size_bytes(header)):
            return at + size
        is_first = not self.sample_rate
        size = mpeg_frame_size_bytes(header[:4]) if self.audio_format == "mp3" else adts_frame_size_bytes(header)
        if not size or not self._belongs(header):
            # What is no frame is skipped up to where one may begin.
            return _next_of(data, at + 1)
        if not (is_first and self._info(data[at : at + _INFO_BYTES])):
            self.samples += self._samples_of(header)
        return at + size

    def _samples_of(self, header: bytes) -> int:
        if self.audio_format == "mp3":
            return 1152 if header[1] >> 3 & 3 == 3 else 576
        return 1024 * ((header[6] & 3) + 1)

    def _belongs(self, header: bytes) -> bool:
        """Whether the frame is of the stream's rate; the first one sets it."""
        is_mp3 = self.audio_format == "mp3"
        rate_hz = mpeg_rate_hz(header) if is_mp3 else _ADTS_RATES_HZ[header[2] >> 2 & 15]
        if not self.sample_rate:
            self.sample_rate = rate_hz
            self.channels = (1 if header[3] >> 6 == 3 else 2) if is_mp3 else (header[2] & 1) << 2 | header[3] >> 6
        return rate_hz == self.sample_rate

    def _info(self, frame: bytes) -> bool:
        """Reads the Info frame that may come first; returns whether it was one."""
        if self.audio_format != "mp3" or not is_info_frame(frame):
            return False
        at = max(frame.find(b"Xing", 0, 42), frame.find(b"Info", 0, 42))
        if at < 0:
            self.declared_samples = int.from_bytes(frame[50:54], "big") * self._samples_of(frame)
            return True
        flags = int.from_bytes(frame[at + 4 : at + 8], "big")
        self.declared_samples = int.from_bytes(frame[at + 8 : at + 12], "big") * self._samples_of(frame)
        lame = at + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
        if frame[lame : lame + 4] in _LAME_TAGS:
            delays = int.from_bytes(frame[lame + 21 : lame + 24], "big")
            self.padding = (delays >> 12) + (delays & 0xFFF)
        return True


def _next_of(data: bytes, at: int) -> int:
    """Where the next frame or tag may begin: the end, if nowhere."""
    found = _BEGINNING.search(data, at)
    return found.start() if found else len(data)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A FLAC stream's STREAMINFO block; `offset` is that of its 34 bytes in the file, `body` the bytes."""

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
        """Sample frames of the stream; 0 where the encoder did not know."""
        return self._packed & _TOTAL_MASK

    def with_total(self, total_samples: int) -> "StreamInfo":
        """Returns the block with that total; an MD5 of another length's samples is taken out (zero: unknown)."""
        packed = self._packed & ~_TOTAL_MASK | total_samples & _TOTAL_MASK
        return replace(self, body=self.body[:10] + packed.to_bytes(8, "big") + bytes(16))


def flac_stream_info(head: bytes) -> StreamInfo | None:
    """Takes the beginning of a FLAC stream; returns its STREAMINFO, None if it begins with none that is sane."""
    at = id3_size_bytes(head)
    if head[at : at + 4] != b"fLaC" or head[at + 4 : at + 5] not in (b"\x00", b"\x80") or len(head) < at + 42:
        return None
    info = StreamInfo(at + 8, head[at + 8 : at + 42])
    return info if info.sample_rate else None


def _crc_table(width: int, polynomial: int) -> tuple[int, ...]:
    top, mask = 1 << (width - 1), (1 << width) - 1
    table = []
    for byte in range(256):
        value = byte << (width - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return tuple(table)


_CRC_8 = _crc_table(8, 0x07)
_CRC_16 = _crc_table(16, 0x8005)


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC_8[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC_16[value >> 8 ^ byte]
    return value


def _coded_number(data: bytes) -> tuple[int, int]:
    """Reads the number of a frame, coded like UTF-8; returns it and its size in bytes, (0, 0) if it is none."""
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones in (1, 8) or len(data) < max(1, ones) or any(byte >> 6 != 2 for byte in data[1:ones]):
        return 0, 0
    value = data[0] & 0x7F >> ones
    for byte in data[1:ones]:
        value = value << 6 | byte & 0x3F
    return value, max(1, ones)


def _flac_frame_end(frame: bytes, info: StreamInfo) -> int:
    """Takes what may begin with a FLAC frame; returns the sample frames up to that frame's end, 0 if it is none."""
    # A frame of silence, constant in each channel, takes eleven bytes.
    if len(frame) < 11 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return 0
    number, size = _coded_number(frame[4:11])
    block_code, rate_code = frame[2] >> 4, frame[2] & 15
    block_bytes = {6: 1, 7: 2}.get(block_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = 4 + size + block_bytes + rate_bytes
    if not size or not block_code or len(frame) <= end or _crc8(frame[:end]) != frame[end]:
        return 0
    if block_bytes:
        block = int.from_bytes(frame[4 + size : 4 + size + block_bytes], "big") + 1
    else:
        block = 192 if block_code == 1 else 144 << block_code if block_code < 6 else 1 << block_code
    return number + block if frame[1] & 1 else number * info.max_block_samples + block


def _candidates(tail: bytes) -> Iterator[int]:
    """Where frames may begin, the last first."""
    return reversed([found.start() for found in _FLAC_SYNC.finditer(tail)])


def flac_samples(tail: bytes, info: StreamInfo) -> tuple[int, bool]:
    """Takes the end of a FLAC stream, large enough for its last frame, and its STREAMINFO.

    Returns the sample frames up to the end of the last frame whose header is whole, and whether that frame is
    complete (its CRC-16 holds up to the end of the file). (0, False) if there is no frame.
    """
    last = checks = 0
    for at in _candidates(tail):
        end = _flac_frame_end(tail[at : at + 32], info)
        if end and checks < _MOST_FLAC_CHECKS:
            checks += 1
            if _crc16(tail[at:]) == 0:
                return end, True
        last = max(last, end)
    return last, False


def describe(audio_format: str, data: bytes) -> PartDescription | None:
    """Takes a session's format and a complete file; returns what it says, None if its format is not read here."""
    if audio_format == "flac":
        info = flac_stream_info(data)
        return PartDescription(info.sample_rate, info.channels, info.bits, info.total_samples) if info else None
    if audio_format not in ("mp3", "aac"):
        return None
    counter = FrameCounter(audio_format)
    counter.feed(data)
    counter.finish()
    if not counter.samples:
        return None
    return PartDescription(counter.sample_rate, counter.channels, 16, counter.decoded_frames)
