"""PURE. What the first bytes of a message say about its container.

Called for every message before it is stored, so it looks at a few bytes only. A container is recognised by at
least four bytes of magic and the structure behind them: raw PCM and the middle of a compressed stream are
practically never taken for something else. What is not recognised is `unknown`, which contradicts nothing.

Signatures: RIFF/RF64 (EBU Tech 3306), FLAC (RFC 9639 section 8), Ogg (RFC 3533 section 6), EBML (RFC 8794
section 11.2), ISO BMFF (ISO/IEC 14496-12 section 4.2), ID3v2 (id3.org), MPEG audio (ISO/IEC 11172-3 section
2.4.1), ADTS (ISO/IEC 14496-3 section 1.A.2).
"""

from collections.abc import Callable
from enum import StrEnum


class Container(StrEnum):
    """What a message begins with."""

    RIFF_WAVE = "riff_wave"
    FLAC = "flac"
    OGG = "ogg"
    EBML = "ebml"
    MP4 = "mp4"
    ID3 = "id3"
    MPEG_AUDIO = "mpeg_audio"
    ADTS = "adts"
    UNKNOWN = "unknown"


_ACCEPTED = {
    "wav": {Container.RIFF_WAVE},
    "mp3": {Container.MPEG_AUDIO, Container.ID3},
    "flac": {Container.FLAC},
    "aac": {Container.ADTS, Container.ID3},
    "webm": {Container.EBML},
    "ogg": {Container.OGG},
    "mp4": {Container.MP4},
}
_CONSECUTIVE_HEADERS = 3
_OGG_FIRST_PAGE = 0x02
_LAYER_III_KBITS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_1_RATES_HZ = (44100, 48000, 32000)
_FIRST_BYTES = b"RfO\x1aI\xff"
_MP4_BOXES = {b"ftyp", b"styp", b"moof", b"moov", b"sidx"}
_STREAM_MAGIC = {"flac": b"fLaC", "ogg": b"OggS", "webm": b"\x1a\x45\xdf\xa3"}


def mpeg_rate_hz(header: bytes) -> int:
    """Takes four bytes; returns the sample rate of the MPEG audio Layer III frame that they head, 0 if none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version_bits, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version_bits == 1 or rate_index == 3 or header[2] >> 4 in (0, 15):
        return 0
    return _MPEG_1_RATES_HZ[rate_index] >> {3: 0, 2: 1, 0: 2}[version_bits]


def mpeg_frame_size_bytes(header: bytes) -> int:
    """Takes four bytes; returns the size of the MPEG audio Layer III frame that they head, 0 if they head none.

    Free-format frames (bit rate index 0) don't tell their size and count as none.
    """
    rate_hz = mpeg_rate_hz(header)
    if not rate_hz:
        return 0
    version = 1 if header[1] >> 3 & 3 == 3 else 2
    bits_per_second = _LAYER_III_KBITS[version][(header[2] >> 4) - 1] * 1000
    return (144 if version == 1 else 72) * bits_per_second // rate_hz + (header[2] >> 1 & 1)


def adts_frame_size_bytes(header: bytes) -> int:
    """Takes six bytes; returns the size of the ADTS frame that they head, 0 if they head none."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > 7 else 0


def id3_size_bytes(head: bytes) -> int:
    """Takes ten bytes or more; returns the size of the ID3v2 tag that begins there, 0 if there is none."""
    if len(head) < 10 or head[:3] != b"ID3" or not 2 <= head[3] <= 4 or head[4] == 0xFF or head[5] & 0x0F:
        return 0
    if any(byte & 0x80 for byte in head[6:10]):
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return size + (20 if head[5] & 0x10 else 10)


def is_info_frame(head: bytes) -> bool:
    """Whether an MPEG audio frame with a Xing, Info or VBRI header begins at `head`."""
    if not mpeg_frame_size_bytes(head[:4]):
        return False
    mono, mpeg_1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    side_bytes = (17 if mono else 32) if mpeg_1 else (9 if mono else 17)
    crc_bytes = 0 if head[1] & 1 else 2
    # Encoders disagree on whether the tag of a frame with a CRC stands behind it.
    tags = {head[4 + side_bytes + skip :][:4] for skip in (0, crc_bytes)}
    return bool(tags & {b"Xing", b"Info"}) or head[36:40] == b"VBRI"


def _is_riff_wave(head: bytes) -> bool:
    return head[8:12] == b"WAVE"


def _is_flac(head: bytes) -> bool:
    # The first metadata block is STREAMINFO and has 34 bytes.
    return head[4:8] in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")


def _is_ogg(head: bytes) -> bool:
    return len(head) > 5 and head[4] == 0 and head[5] <= 7


def _is_ebml(head: bytes) -> bool:
    if len(head) < 14 or head[4] == 0:
        return False
    first_child = 4 + 9 - head[4].bit_length()
    # EBMLVersion, MaxIDLength and their kin begin with 0x42; Void and CRC-32 may come first.
    return head[first_child] in (0x42, 0xEC, 0xBF)


def _is_mp4(head: bytes) -> bool:
    size = int.from_bytes(head[:4], "big")
    if head[4:8] in (b"ftyp", b"styp"):
        return 16 <= size <= 4096 and size % 4 == 0 and head[8:12].isascii() and head[8:11].isalnum()
    if head[4:8] == b"moof":
        return head[12:16] == b"mfhd"
    return (head[4:8] == b"moov" and head[12:16] == b"mvhd") or (head[4:8] == b"sidx" and 32 <= size <= 1 << 20)


def _has_consecutive(head: bytes, frame_size_bytes: Callable[[bytes], int], same: Callable[[bytes], bytes]) -> bool:
    at, first = 0, same(head)
    for _ in range(_CONSECUTIVE_HEADERS):
        header = head[at : at + 6]
        size = frame_size_bytes(header)
        if not size or same(header) != first:
            return False
        at += size
    return True


def _mpeg_constants(header: bytes) -> bytes:
    return bytes((header[1] & 0xFE, header[2] & 0x0C)) if len(header) > 2 else b""


def _adts_constants(header: bytes) -> bytes:
    return bytes((header[1], header[2] & 0xFD)) if len(header) > 2 else b""


_STRUCTURES: dict[bytes, tuple[Container, Callable[[bytes], bool]]] = {
    b"RIFF": (Container.RIFF_WAVE, _is_riff_wave),
    b"RF64": (Container.RIFF_WAVE, _is_riff_wave),
    b"fLaC": (Container.FLAC, _is_flac),
    b"OggS": (Container.OGG, _is_ogg),
    b"\x1a\x45\xdf\xa3": (Container.EBML, _is_ebml),
}


def sniff(head: bytes) -> Container:
    """Takes the beginning of a message (or all of it; 8 KiB suffice) and returns the container that begins there."""
    if known := _STRUCTURES.get(head[:4]):
        container, is_structured = known
        return container if is_structured(head) else Container.UNKNOWN
    if head[:1] == b"\xff":
        if _has_consecutive(head, mpeg_frame_size_bytes, _mpeg_constants):
            return Container.MPEG_AUDIO
        return Container.ADTS if _has_consecutive(head, adts_frame_size_bytes, _adts_constants) else Container.UNKNOWN
    if head[4:8] in _MP4_BOXES:
        return Container.MP4 if _is_mp4(head) else Container.UNKNOWN
    return Container.ID3 if id3_size_bytes(head) else Container.UNKNOWN


def contradicts(audio_format: str, head: bytes) -> Container | None:
    """Takes a session's format and the beginning of any message of it.

    Returns the container that the message positively is when a session of that format can't hold it, else None.
    """
    # Asked of every message: most are ruled out by their first byte.
    if head[:1] not in _FIRST_BYTES and head[4:8] not in _MP4_BOXES:
        return None
    container = sniff(head)
    return None if container is Container.UNKNOWN or container in _ACCEPTED[audio_format] else container


def lacks_header(audio_format: str, head: bytes) -> bool:
    """Takes a session's format and the beginning of the first message of a stream in it.

    Returns whether that message can't be the beginning of such a stream, so that all others would be unreadable
    (FLAC, WebM, Ogg, MP4). A stream may be cut anywhere: a proper prefix of the magic is a beginning.
    """
    if audio_format == "mp4":
        return head[:1] != b"\x00" or not b"ftyp".startswith(head[4:8])
    magic = _STREAM_MAGIC.get(audio_format, b"")
    return not magic.startswith(head[: len(magic)])


def starts_part(audio_format: str, chunk_mode: str, head: bytes) -> bool:
    """Takes a session's format and chunk mode (`auto`, `stream`, `files`) and the beginning of a message.

    Returns whether the message starts a new part of the session rather than continuing the one before. The first
    message of a session starts one in any case. Under `auto` that is a message which begins with a file header;
    ADTS and bare MPEG frames have none.
    """
    if chunk_mode != "auto":
        return chunk_mode == "files"
    if audio_format == "mp3" and is_info_frame(head):
        return True
    container = sniff(head)
    if container not in _ACCEPTED[audio_format] or container in (Container.MPEG_AUDIO, Container.ADTS):
        return False
    if container is Container.OGG:
        return bool(head[5] & _OGG_FIRST_PAGE)
    return container is not Container.MP4 or head[4:8] == b"ftyp"
