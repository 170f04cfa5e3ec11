"""PURE. The times of decoded sound: the blocks of PCM that FFmpeg writes in Matroska, and the silence between them.

WAV has no times, so with WAV as its output a decoder would move everything after a gap forward. Matroska has the time
of every block (RFC 9559, and RFC 8794 for its elements). `BlockReader` reads only Matroska that FFmpeg's muxer has
written. `Timeline` computes the silence before each block.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from audio.media.plan import GAP_SECONDS, LONGEST_GAP_SECONDS

_SEGMENT, _CLUSTER, _TRACKS, _TRACK, _AUDIO, _GROUP = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xE1, 0xA0
_CONTAINERS = (_SEGMENT, _CLUSTER, _TRACKS, _TRACK, _AUDIO, _GROUP)
_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK, _RATE, _CHANNELS = 0xE7, 0xA3, 0xA1, 0xB5, 0x9F
_CODEC, _BITS = 0x86, 0x6264
# An element's number and size take up to this many bytes.
_HEAD_BYTES = 12
# The bytes of a block before its samples: the number of the track, the time after that of the cluster, flags.
_BLOCK_HEAD_BYTES = 4
_SILENT_FRAMES = 1 << 16


class Block(NamedTuple):
    """Samples that were decoded together, and their time in ms."""

    start_ms: int
    data: bytes


@dataclass(slots=True)
class BlockReader:
    """A reader of the blocks of one PCM track in Matroska, in pieces of any size. The rate is in Hz.

    `codec` and `bits` are also valid for tracks that are not PCM.
    """

    sample_rate: int = 0
    channels: int = 1
    codec: str = ""
    bits: int = 0
    _cluster_ms: int = 0
    _held: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Block]:
        """Yield the blocks that are complete with these bytes."""
        self._held += data
        at = 0
        while (element := self._element(at)) is not None:
            number, start, size_bytes = element
            if number in _CONTAINERS:
                at = start
                continue
            at = start + size_bytes
            if number in (_SIMPLE_BLOCK, _BLOCK):
                (behind_ms,) = struct.unpack_from(">h", self._held, start + 1)
                yield Block(self._cluster_ms + behind_ms, bytes(self._held[start + _BLOCK_HEAD_BYTES : at]))
            else:
                self._note(number, bytes(self._held[start:at]))
        del self._held[:at]

    def _element(self, at: int) -> tuple[int, int, int] | None:
        """Return the element's number, the start of its content and its size; None if more bytes are needed."""
        head = self._held[at : at + _HEAD_BYTES]
        if len(head) < 2:
            return None
        number_bytes = 9 - head[0].bit_length()
        if len(head) <= number_bytes:
            return None
        size_bytes = 9 - head[number_bytes].bit_length()
        if len(head) < number_bytes + size_bytes:
            return None
        number = int.from_bytes(head[:number_bytes], "big")
        size = int.from_bytes(head[number_bytes : number_bytes + size_bytes], "big") & (1 << 7 * size_bytes) - 1
        start = at + number_bytes + size_bytes
        is_whole = number in _CONTAINERS or start + size <= len(self._held)
        return (number, start, size) if is_whole else None

    def _note(self, number: int, content: bytes) -> None:
        if number == _TIMESTAMP:
            self._cluster_ms = int.from_bytes(content, "big")
        elif number == _CHANNELS:
            self.channels = int.from_bytes(content, "big")
        elif number == _BITS:
            self.bits = int.from_bytes(content, "big")
        elif number == _CODEC:
            self.codec = content.rstrip(b"\0").decode("ascii", "replace")
        elif number == _RATE:
            (rate,) = struct.unpack(">d" if len(content) == 8 else ">f", content)
            self.sample_rate = round(rate)


@dataclass(slots=True)
class Timeline:
    """The positions of blocks in the written samples, in sample frames. The first block begins at 0.

    A block that begins too early is written after the previous one nevertheless. After the next gap, the positions are
    right again.
    """

    written: int = 0
    silent: int = 0
    _origin: int | None = None

    def silence_before(self, start_ms: int, frames: int, sample_rate: int) -> int:
        """Count the next block, at a rate in Hz, and return the length of the silence before it."""
        start = start_ms * sample_rate // 1000
        if self._origin is None:
            self._origin = start
        gap = start - self._origin - self.written
        if gap > LONGEST_GAP_SECONDS * sample_rate:
            self._origin, gap = self._origin + gap, 0
        if gap <= GAP_SECONDS * sample_rate:
            gap = 0
        self.silent += gap
        self.written += gap + frames
        return gap


def silence(frames: int, frame_bytes: int) -> Iterator[bytes]:
    """Yield this number of sample frames of silence, of a signed format, in blocks."""
    while frames:
        count = min(frames, _SILENT_FRAMES)
        yield bytes(count * frame_bytes)
        frames -= count
