"""PURE. Find the places in the bytes of a session at which complete streams begin, independently of its messages.

A recorder that was restarted sends its header again. The header may follow the previous stream in the same message, or
be split into several messages. A `HeaderScanner` finds such headers by their magic and by the structure after it, which
is long enough that audio does not contain it by chance. It does not parse the bytes between two headers, so that a
truncated stream cannot hide the next one.

Headers: EBML (RFC 8794 section 11.2), Ogg (RFC 3533 sections 4 and 6), ISO BMFF and QuickTime `ftyp` (ISO/IEC 14496-12
section 4.3), FLAC (RFC 9639 section 8.2). MP3 and ADTS have no such header: `audio.media.frames` follows their frames.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from audio.media.frames import FrameCounter
from audio.sniff import id3_size_bytes

# Enough for an incomplete magic with the bytes before it, and for an incomplete header of an ID3 tag.
_KEPT_BYTES = 9
_MOST_EBML_HEADER_BYTES = 512
_MOST_FTYP_BYTES = 1024
_DOC_TYPE, _DOC_TYPES = 0x4282, (b"webm", b"matroska")
_STREAM_INFO_BYTES = 42
_BRAND = re.compile(rb"[\x20-\x7e]{4}|\0{4}")
_OGG_PAGE_HEADER_BYTES = 27
_OGG_CONTINUED, _OGG_FIRST_PAGE = 1, 2
# A page that has all of its 255 segments, each of 255 bytes.
MOST_OGG_PAGE_BYTES = _OGG_PAGE_HEADER_BYTES + 255 + 255 * 255
_MOST_TAG_BYTES = 16 << 20
_NO_SEQUENCE = 1 << 62


# A check returns the size of the header of a candidate, 0 if it is none, and _MORE if more bytes are needed.
_MORE = -1


def _element(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return the number of the EBML element at `at`, and the start and the end of its content.

    The result is None if no element begins there, or if more bytes are needed.
    """
    number_bytes = 9 - data[at].bit_length() if at < len(data) else 9
    if number_bytes > 4 or at + number_bytes >= len(data):
        return None
    begin = at + number_bytes
    size_bytes = 9 - data[begin].bit_length()
    if size_bytes > 8 or begin + size_bytes > len(data):
        return None
    size = int.from_bytes(data[begin : begin + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
    return int.from_bytes(data[at:begin], "big"), begin + size_bytes, begin + size_bytes + size


def _ebml(head: bytes) -> int:
    if len(head) >= 5 and not head[4]:
        return 0
    element = _element(head, 0)
    if element is None:
        return _MORE
    _, at, end = element
    if end - at > _MOST_EBML_HEADER_BYTES:
        return 0
    if len(head) < end:
        # EBMLVersion, EBMLMaxIDLength and similar elements begin with 0x42. Void and CRC-32 may come first.
        return _MORE if at >= len(head) or head[at] in (0x42, 0xEC, 0xBF) else 0
    while at < end and (child := _element(head[:end], at)):
        number, begin, at = child
        if number == _DOC_TYPE and head[begin:at].rstrip(b"\0") in _DOC_TYPES:
            return end
    return 0


def _ogg(head: bytes) -> int:
    """Check for a page that begins a logical stream. Its granule position is zero."""
    if len(head) >= 6 and (head[4] or head[5] & _OGG_CONTINUED or not head[5] & _OGG_FIRST_PAGE or head[5] > 7):
        return 0
    if len(head) < _OGG_PAGE_HEADER_BYTES:
        return _MORE
    segments = head[26]
    if head[6:14] != bytes(8) or not segments:
        return 0
    lacing = head[_OGG_PAGE_HEADER_BYTES : _OGG_PAGE_HEADER_BYTES + segments]
    return _OGG_PAGE_HEADER_BYTES + segments + sum(lacing) if len(lacing) == segments else _MORE


def ogg_is_cut_off(tail: bytes) -> bool:
    """Return whether an Ogg stream ends within a page or a packet.

    Args:
        tail: Its last `MOST_OGG_PAGE_BYTES`, or all of it.
    """
    at = tail.find(b"OggS\0")
    while at >= 0 and len(tail) >= at + _OGG_PAGE_HEADER_BYTES:
        lacing = tail[at + _OGG_PAGE_HEADER_BYTES :][: tail[at + 26]]
        end = at + _OGG_PAGE_HEADER_BYTES + tail[at + 26] + sum(lacing)
        if end == len(tail):
            return lacing[-1:] == b"\xff"
        # Bytes in the middle of a page may look like a page. The next page shows whether they are one.
        at = tail.find(b"OggS\0", end if tail.startswith(b"OggS\0", end) else at + 1)
    return True


def _ftyp(head: bytes) -> int:
    if len(head) < 8:
        return _MORE
    size = int.from_bytes(head[:4], "big")
    if not 16 <= size <= _MOST_FTYP_BYTES or size % 4:
        return 0
    major, compatible = head[8:12], head[16:size]
    if len(head) >= 12 and (not _BRAND.fullmatch(major) or major == bytes(4)):
        return 0
    if len(head) < size:
        return _MORE
    brands = [compatible[at : at + 4] for at in range(0, len(compatible), 4)]
    return size if all(map(_BRAND.fullmatch, brands)) else 0


def _flac(head: bytes) -> int:
    if len(head) >= 8 and (head[4] & 0x7F or head[5:8] != b"\0\0\x22"):
        return 0
    if len(head) < _STREAM_INFO_BYTES:
        return _MORE
    least, most = int.from_bytes(head[8:10], "big"), int.from_bytes(head[10:12], "big")
    rate_hz = int.from_bytes(head[18:21], "big") >> 4
    return _STREAM_INFO_BYTES if 16 <= least <= most and rate_hz else 0


# By format: the magic, the number of bytes of the header before it, and the check.
_HEADERS: dict[str, tuple[bytes, int, Callable[[bytes], int]]] = {
    "webm": (b"\x1a\x45\xdf\xa3", 0, _ebml),
    "ogg": (b"OggS", 0, _ogg),
    "mp4": (b"ftyp", 4, _ftyp),
    "flac": (b"fLaC", 0, _flac),
}
FORMATS = tuple(_HEADERS)


@dataclass(slots=True)
class HeaderScanner:
    """A scanner that finds the headers in a stream of `webm`, `ogg`, `mp4` or `flac`, in pieces of any size.

    Attributes:
        audio_format: The session's format.
        at: The number of bytes that were fed.
        held: The last bytes, in which a header may have begun.
        next_at: The offset from which candidates have not been checked yet.
        group_end: For Ogg, the end of the last first page. A first page that begins there is of the same group (RFC
            3533 section 4).
        tag: For FLAC, the beginning and the end of the last ID3 tag. A header at its end begins with the tag.
    """

    audio_format: str
    at: int = 0
    held: bytes = field(default=b"", repr=False)
    next_at: int = 0
    group_end: int = -1
    tag: tuple[int, int] = (-1, -1)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, bounded whatever came; the inverse of `restore`."""
        return {
            "audio_format": self.audio_format,
            "at": self.at,
            "held": self.held.hex(),
            "next_at": self.next_at,
            "group_end": self.group_end,
            "tag": list(self.tag),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "HeaderScanner":
        """Return the scanner whose `state` this is."""
        return cls(**{**state, "held": bytes.fromhex(state["held"]), "tag": tuple(state["tag"])})

    def feed(self, data: bytes) -> list[int]:
        """Return the offsets of new headers from the first byte of the stream, in order.

        A header is recognised when its last byte was fed, so its offset may be before `data`.
        """
        magic, before, check = _HEADERS[self.audio_format]
        block, base = self.held + data, self.at - len(self.held)
        self.at += len(data)
        self._note_tag(block, base)
        found: list[int] = []
        kept = max(0, len(block) - _KEPT_BYTES)
        index = block.find(magic, max(0, self.next_at - base))
        while index >= 0:
            start = index - before
            size = check(block[start : start + _MOST_FTYP_BYTES]) if start >= 0 else 0
            if size == _MORE:
                kept = min(kept, start)
                break
            self.next_at = base + index + 1
            if size and self._begins_part(base + start, size):
                found.append(self.tag[0] if self.tag[1] == base + start else base + start)
            index = block.find(magic, index + 1)
        self.held = block[kept:]
        return found

    def _begins_part(self, start: int, size_bytes: int) -> bool:
        if self.audio_format != "ogg":
            return True
        is_same_group, self.group_end = start == self.group_end, start + size_bytes
        return not is_same_group

    def _note_tag(self, block: bytes, base: int) -> None:
        """Remember an ID3 tag, which some writers put before FLAC."""
        if self.audio_format != "flac":
            return
        index = block.find(b"ID3")
        while index >= 0:
            size = id3_size_bytes(block[index : index + 10])
            if 0 < size < _MOST_TAG_BYTES and base + index >= self.tag[1]:
                self.tag = (base + index, base + index + size)
            index = block.find(b"ID3", index + 1)


@dataclass(slots=True)
class ChunkOffsets:
    """The offsets of the last chunks in a stream, to find the chunk that contains a byte.

    Attributes:
        marks: The offset of the first byte of each chunk and its sequence, in order.
    """

    marks: list[list[int]] = field(default_factory=list)

    def add(self, offset: int, sequence: int) -> None:
        """Note the offset of the next chunk."""
        self.marks.append([offset, sequence])

    def at(self, offset: int) -> tuple[int, int]:
        """Return the sequence of the chunk that contains the byte at `offset`, and the offset of its first byte."""
        begin, sequence = self.marks[max(0, bisect_right(self.marks, [offset, _NO_SEQUENCE]) - 1)]
        return sequence, begin

    def forget_before(self, offset: int) -> None:
        """Forget the chunks that end before `offset`, because they are no longer needed."""
        del self.marks[: max(0, bisect_right(self.marks, [offset, _NO_SEQUENCE]) - 1)]


def part_finder(audio_format: str, chunk_mode: str, state: dict[str, Any] | None) -> FrameCounter | HeaderScanner:
    """Return the object that finds the parts of a format, restored from its `state` if there is one."""
    if audio_format in ("mp3", "aac"):
        return FrameCounter.restore(state) if state else FrameCounter(audio_format, chunk_mode == "auto")
    return HeaderScanner.restore(state) if state else HeaderScanner(audio_format)
