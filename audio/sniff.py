"""PURE. Recognise the container of a message or a stream by its first bytes.

`sniff` checks every message before it is stored, so it reads only a few bytes. It recognises a container by at least
four bytes of magic and the structure after them, so that it practically never mistakes raw PCM or the middle of a
compressed stream for a container. It returns `unknown` for everything else. `identify` checks the beginning of a stream
once. It also knows some weaker signatures, and reports when there are too few bytes for a decision.

Containers that the server does not record are recognised as well, so that an error can name them and they are not
recorded as noise.

Signatures: RIFF/RF64/BW64 (EBU Tech 3306, ITU-R BS.2088), FLAC (RFC 9639 section 8), Ogg (RFC 3533 section 6), EBML
(RFC 8794 section 11.2), ISO BMFF (ISO/IEC 14496-12 section 4.2) and QuickTime, ID3v2 (id3.org), MPEG audio (ISO/IEC
11172-3 section 2.4.1), ADTS and LOAS (ISO/IEC 14496-3 sections 1.A.2 and 1.7.2), MPEG-TS (ISO/IEC 13818-1), AC-3 (ETSI
TS 102 366), AMR (RFC 4867); the others are those of FFmpeg's probes.
"""

import json
import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple


class Container(StrEnum):
    """The container with which a message begins. Those after `adts` are recognised, but not recorded."""

    RIFF_WAVE = "riff_wave"
    FLAC = "flac"
    OGG = "ogg"
    EBML = "ebml"
    MP4 = "mp4"
    ID3 = "id3"
    MPEG_AUDIO = "mpeg_audio"
    ADTS = "adts"
    AC3 = "ac3"
    ADIF = "adif"
    AIFF = "aiff"
    AMR = "amr"
    APE = "ape"
    ASF = "asf"
    AU = "au"
    AVI = "avi"
    CAF = "caf"
    DATA_URL = "data_url"
    DSDIFF = "dsdiff"
    DSF = "dsf"
    DTS = "dts"
    FLV = "flv"
    FREE_FORMAT = "mpeg_free_format"
    ILBC = "ilbc"
    IVF = "ivf"
    JSON = "json"
    LAYER_I_II = "mpeg_layer_i_ii"
    LOAS = "loas"
    MIDI = "midi"
    MPEG_PS = "mpeg_ps"
    MPEG_TS = "mpeg_ts"
    MUSEPACK = "musepack"
    OPUS_PACKETS = "opus_packets"
    REALMEDIA = "realmedia"
    RIFX = "rifx"
    SILK = "silk"
    SPHERE = "sphere"
    TTA = "tta"
    VOC = "voc"
    VORBIS_PACKETS = "vorbis_packets"
    W64 = "w64"
    WAVPACK = "wavpack"
    UNKNOWN = "unknown"


# The format of a session that records each container.
FORMATS = {
    Container.RIFF_WAVE: "wav",
    Container.MPEG_AUDIO: "mp3",
    Container.ID3: "mp3",
    Container.FLAC: "flac",
    Container.ADTS: "aac",
    Container.EBML: "webm",
    Container.OGG: "ogg",
    Container.MP4: "mp4",
}
# The names of the containers for people.
NAMES = {
    Container.RIFF_WAVE: "WAV",
    Container.FLAC: "FLAC",
    Container.OGG: "Ogg",
    Container.EBML: "WebM",
    Container.MP4: "MP4",
    Container.ID3: "an ID3 tag",
    Container.MPEG_AUDIO: "MP3",
    Container.ADTS: "AAC (ADTS)",
    Container.AC3: "AC-3",
    Container.ADIF: "AAC with an ADIF header",
    Container.AIFF: "AIFF",
    Container.AMR: "AMR",
    Container.APE: "Monkey's Audio",
    Container.ASF: "ASF (WMA)",
    Container.AU: "AU",
    Container.AVI: "AVI",
    Container.CAF: "CAF",
    Container.DATA_URL: "a data URL",
    Container.DSDIFF: "DSDIFF",
    Container.DSF: "DSF",
    Container.DTS: "DTS",
    Container.FLV: "FLV",
    Container.FREE_FORMAT: "MP3 of free format",
    Container.ILBC: "iLBC",
    Container.IVF: "IVF",
    Container.JSON: "JSON text",
    Container.LAYER_I_II: "MPEG audio of layer I or II",
    Container.LOAS: "AAC in LATM (LOAS)",
    Container.MIDI: "MIDI",
    Container.MPEG_PS: "an MPEG program stream",
    Container.MPEG_TS: "an MPEG transport stream",
    Container.MUSEPACK: "Musepack",
    Container.OPUS_PACKETS: "Opus packets without a container",
    Container.REALMEDIA: "RealMedia",
    Container.RIFX: "RIFX (WAV with big-endian samples)",
    Container.SILK: "SILK",
    Container.SPHERE: "NIST SPHERE",
    Container.TTA: "TTA",
    Container.VOC: "Creative Voice",
    Container.VORBIS_PACKETS: "Vorbis packets without a container",
    Container.W64: "Wave64",
    Container.WAVPACK: "WavPack",
}
_ACCEPTED = {
    "wav": {Container.RIFF_WAVE},
    "mp3": {Container.MPEG_AUDIO, Container.ID3},
    "flac": {Container.FLAC, Container.ID3},
    "aac": {Container.ADTS, Container.ID3},
    "webm": {Container.EBML},
    "ogg": {Container.OGG},
    "mp4": {Container.MP4},
}
_BARE = {
    *(Container.MPEG_AUDIO, Container.ADTS, Container.ID3, Container.LAYER_I_II),
    *(Container.AC3, Container.DTS, Container.LOAS),
}
# Containers whose signatures also occur within a stream of the format, where a message may begin with them.
_INSIDE = {"wav": {Container.ID3}, "webm": {*_BARE, Container.FLAC}, "ogg": {*_BARE, Container.FLAC}, "mp4": _BARE}
_CONSECUTIVE_HEADERS = 3
_LAYER_III_KBITS = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_LAYER_II_KBITS = {1: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384), 2: _LAYER_III_KBITS[2]}
_LAYER_I_KBITS = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}
_MPEG_1_RATES_HZ = (44100, 48000, 32000)
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES_HZ = (48000, 44100, 32000)
_TS_PACKET_BYTES = 188
_STREAM_MAGIC = {"flac": b"fLaC", "ogg": b"OggS", "webm": b"\x1a\x45\xdf\xa3"}
_MP4_BEGINNINGS = (b"ftyp", b"wide", b"moov", b"mdat", b"free", b"skip", b"pnot")
# A stream that is read from its middle begins with the rest of a frame. Frames of MP3, and of ADTS with two channels,
# are much shorter than this.
_JOINED_WITHIN_BYTES = 4096
_SYNC = re.compile(rb"\xff[\xe0-\xff]")
_APE_HEAD_BYTES = 32
FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
# Frames with two channels of 16 bits are rarely longer.
FLAC_WITHIN_BYTES = 1 << 14
# The largest size of a frame's header.
FLAC_HEADER_BYTES = 16


class FlacHeader(NamedTuple):
    """The header of a FLAC frame (RFC 9639 section 9.1).

    `number` is that of its first sample frame if `is_variable`, otherwise that of the frame. `constants` are the values
    that all frames of a stream have in common.
    """

    number: int
    block_samples: int
    channels: int
    is_variable: bool
    constants: bytes


def mpeg_rate_hz(header: bytes) -> int:
    """Return the sample rate in Hz of the MPEG audio Layer III frame that begins with four bytes; 0 if none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version_bits, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version_bits == 1 or rate_index == 3 or header[2] >> 4 in (0, 15):
        return 0
    return _MPEG_1_RATES_HZ[rate_index] >> {3: 0, 2: 1, 0: 2}[version_bits]


def mpeg_frame_size_bytes(header: bytes) -> int:
    """Return the size of the MPEG audio Layer III frame that begins with four bytes; 0 if none does.

    Free-format frames (bit rate index 0) do not declare their size, and are ignored.
    """
    rate_hz = mpeg_rate_hz(header)
    if not rate_hz:
        return 0
    version = 1 if header[1] >> 3 & 3 == 3 else 2
    bits_per_second = _LAYER_III_KBITS[version][(header[2] >> 4) - 1] * 1000
    return (144 if version == 1 else 72) * bits_per_second // rate_hz + (header[2] >> 1 & 1)


def adts_frame_size_bytes(header: bytes) -> int:
    """Return the size of the ADTS frame that begins with six bytes; 0 if none does."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > 7 else 0


def id3_size_bytes(head: bytes) -> int:
    """Return the size of the ID3v2 tag at the beginning of ten bytes or more; 0 if there is none."""
    if len(head) < 10 or head[:3] != b"ID3" or not 2 <= head[3] <= 4 or head[4] == 0xFF or head[5] & 0x0F:
        return 0
    if any(byte & 0x80 for byte in head[6:10]):
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return size + (20 if head[5] & 0x10 else 10)


def ape_tag_size_bytes(head: bytes) -> int:
    """Return the size of the APE tag at the beginning of `head` (32 bytes are enough); 0 if there is none.

    A footer, which declares the size of the tag before it, has 32 bytes.
    """
    if head[:8] != b"APETAGEX" or len(head) < _APE_HEAD_BYTES:
        return 0
    is_header = head[23] & 0x20
    return _APE_HEAD_BYTES + (int.from_bytes(head[12:16], "little") if is_header else 0)


def is_info_frame(head: bytes) -> bool:
    """Whether an MPEG audio frame with a Xing, Info or VBRI header begins at `head`."""
    if not mpeg_frame_size_bytes(head[:4]):
        return False
    mono, mpeg_1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    side_bytes = (17 if mono else 32) if mpeg_1 else (9 if mono else 17)
    crc_bytes = 0 if head[1] & 1 else 2
    # If a frame has a CRC, some encoders put the tag after it, and some do not.
    tags = {head[4 + side_bytes + skip :][:4] for skip in (0, crc_bytes)}
    return bool(tags & {b"Xing", b"Info"}) or head[36:40] == b"VBRI"


def _is_wave(head: bytes) -> bool:
    return head[8:12] == b"WAVE"


def _is_avi(head: bytes) -> bool:
    return head[8:12] == b"AVI "


def _is_flac(head: bytes) -> bool:
    # The first metadata block is STREAMINFO and has 34 bytes.
    return head[4:8] in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")


def _is_ogg(head: bytes) -> bool:
    return head[4] == 0 and head[5] <= 7


def _is_ebml(head: bytes) -> bool:
    if head[4] == 0:
        return False
    first_child = 4 + 9 - head[4].bit_length()
    # EBMLVersion, EBMLMaxIDLength and similar elements begin with 0x42. Void and CRC-32 may come first.
    return head[first_child] in (0x42, 0xEC, 0xBF)


def _is_ftyp(head: bytes) -> bool:
    size = int.from_bytes(head[:4], "big")
    return 16 <= size <= 4096 and size % 4 == 0 and all(0x20 <= byte < 0x7F for byte in head[8:12])


def _is_sidx(head: bytes) -> bool:
    return 32 <= int.from_bytes(head[:4], "big") <= 1 << 20


def _is_small_box(head: bytes) -> bool:
    return 8 <= int.from_bytes(head[:4], "big") <= 1 << 20


def _is_mdat(head: bytes) -> bool:
    size = int.from_bytes(head[:4], "big")
    return size in (0, 8, 16) or 16 < size < 1 << 30 or (size == 1 and head[8:10] == b"\0\0")


def _is_iff(head: bytes) -> bool:
    return head[8:12] in (b"AIFF", b"AIFC", b"8SVX")


def _is_au(head: bytes) -> bool:
    return 24 <= int.from_bytes(head[4:8], "big") < 1 << 16 and 1 <= int.from_bytes(head[12:16], "big") <= 27


def _is_ape(head: bytes) -> bool:
    return 3800 <= int.from_bytes(head[4:6], "little") <= 4200


def _is_json(head: bytes) -> bool:
    try:
        return isinstance(json.loads(head), dict)
    except (ValueError, RecursionError):
        return False


class _Signature(NamedTuple):
    """A magic at the beginning, and a check of the structure after it, which needs `size_bytes`."""

    container: Container
    magic: bytes
    size_bytes: int = 0
    is_structured: Callable[[bytes], bool] = lambda head: True
    # Only for the beginning of a stream: the signature is too weak to reject a message in the middle of raw PCM.
    is_weak: bool = False


class _Box(NamedTuple):
    """A box of ISO BMFF or QuickTime with which files begin. Its type is at the fifth byte."""

    size_bytes: int
    is_structured: Callable[[bytes], bool]
    is_weak: bool = False


_C = Container
_SIGNATURES = (
    _Signature(_C.RIFF_WAVE, b"RIFF", 12, _is_wave),
    _Signature(_C.RIFF_WAVE, b"RF64", 12, _is_wave),
    _Signature(_C.RIFF_WAVE, b"BW64", 12, _is_wave),
    _Signature(_C.FLAC, b"fLaC", 8, _is_flac),
    _Signature(_C.OGG, b"OggS", 6, _is_ogg),
    _Signature(_C.EBML, b"\x1a\x45\xdf\xa3", 14, _is_ebml),
    _Signature(_C.ID3, b"ID3", 10, lambda head: bool(id3_size_bytes(head))),
    _Signature(_C.ADIF, b"ADIF", is_weak=True),
    _Signature(_C.AIFF, b"FORM", 12, _is_iff),
    _Signature(_C.AMR, b"#!AMR", 6, lambda head: head[5] in b"\n-_"),
    _Signature(_C.APE, b"MAC ", 6, _is_ape),
    # An APE tag may be in the place of an ID3 tag.
    _Signature(_C.ID3, b"APETAGEX", 32, lambda head: bool(ape_tag_size_bytes(head))),
    _Signature(_C.ASF, bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    _Signature(_C.AU, b".snd", 16, _is_au),
    _Signature(_C.AVI, b"RIFF", 12, _is_avi),
    _Signature(_C.CAF, b"caff\x00\x01\x00\x00"),
    _Signature(_C.DATA_URL, b"data:audio/"),
    _Signature(_C.DSDIFF, b"FRM8", 16, lambda head: head[12:16] == b"DSD "),
    _Signature(_C.DSF, b"DSD \x1c\x00\x00\x00"),
    _Signature(_C.FLV, b"FLV\x01", 9, lambda head: head[5:9] == b"\0\0\0\x09"),
    _Signature(_C.ILBC, b"#!iLBC"),
    _Signature(_C.IVF, b"DKIF\x00\x00\x20\x00"),
    _Signature(_C.JSON, b"{", 2, _is_json, is_weak=True),
    _Signature(_C.MIDI, b"MThd\x00\x00\x00\x06"),
    _Signature(_C.MPEG_PS, b"\0\0\1\xba", 5, lambda head: head[4] & 0xC4 == 0x44 or head[4] & 0xF1 == 0x21, True),
    _Signature(_C.MUSEPACK, b"MPCK", 6, lambda head: head[4:6] == b"SH"),
    _Signature(_C.OPUS_PACKETS, b"OpusHead", is_weak=True),
    _Signature(_C.REALMEDIA, b".RMF\x00\x00\x00"),
    _Signature(_C.REALMEDIA, b".ra\xfd\x00"),
    _Signature(_C.RIFX, b"RIFX", 12, _is_wave),
    _Signature(_C.SILK, b"#!SILK_V"),
    _Signature(_C.SILK, b"\x02#!SILK_V"),
    _Signature(_C.SPHERE, b"NIST_1A\n"),
    _Signature(_C.TTA, b"TTA1", 6, lambda head: head[4:6] in (b"\1\0", b"\2\0", b"\3\0")),
    _Signature(_C.VOC, b"Creative Voice File\x1a"),
    _Signature(_C.VORBIS_PACKETS, b"\x01vorbis", is_weak=True),
    _Signature(_C.W64, bytes.fromhex("726966662e91cf11a5d628db04c10000")),
    _Signature(_C.WAVPACK, b"wvpk", 10, lambda head: head[9] == 4 and 2 <= head[8] <= 0x10),
)
_BY_FIRST_BYTE = {
    first: tuple(each for each in _SIGNATURES if each.magic[0] == first)
    for first in {each.magic[0] for each in _SIGNATURES}
}
_BOXES = {
    b"ftyp": _Box(12, _is_ftyp),
    b"styp": _Box(12, _is_ftyp),
    b"moof": _Box(16, lambda head: head[12:16] == b"mfhd"),
    b"moov": _Box(16, lambda head: head[12:16] in (b"mvhd", b"cmov", b"rmra")),
    b"sidx": _Box(8, _is_sidx),
    b"wide": _Box(8, lambda head: head[:4] == b"\0\0\0\x08"),
    b"pnot": _Box(8, lambda head: head[:4] == b"\0\0\0\x14"),
    b"mdat": _Box(10, _is_mdat, is_weak=True),
    b"free": _Box(8, _is_small_box, is_weak=True),
    b"skip": _Box(8, _is_small_box, is_weak=True),
}


def _adts_constants(header: bytes) -> bytes:
    return bytes((header[1], header[2] & 0xFD))


def _mpeg_constants(header: bytes) -> bytes:
    return bytes((header[1] & 0xFE, header[2] & 0x0C))


def _layer_i_ii_frame_size_bytes(header: bytes) -> int:
    """Return the size of the MPEG audio frame of layer I or II that the four bytes head, 0 if they head none."""
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or header[1] & 6 not in (4, 6) or header[1] >> 3 & 3 == 1:
        return 0
    if header[2] >> 4 in (0, 15) or header[2] >> 2 & 3 == 3:
        return 0
    version_bits, padding = header[1] >> 3 & 3, header[2] >> 1 & 1
    version = 1 if version_bits == 3 else 2
    rate_hz = _MPEG_1_RATES_HZ[header[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version_bits]
    is_layer_i = header[1] & 6 == 6
    kbits = (_LAYER_I_KBITS if is_layer_i else _LAYER_II_KBITS)[version][(header[2] >> 4) - 1]
    return 4 * (12000 * kbits // rate_hz + padding) if is_layer_i else 144000 * kbits // rate_hz + padding


def _loas_frame_size_bytes(header: bytes) -> int:
    """Return the size of the LOAS frame that the three bytes head, 0 if they head none."""
    is_frame = header[0] == 0x56 and header[1] & 0xE0 == 0xE0
    size = (header[1] & 0x1F) << 8 | header[2]
    return size + 3 if is_frame and size > 6 else 0


def _ac3_frame_size_bytes(header: bytes) -> int:
    """Return the size of the AC-3 or E-AC-3 frame that the six bytes head, 0 if they head none."""
    if header[:2] != b"\x0b\x77":
        return 0
    bitstream = header[5] >> 3
    if 10 < bitstream <= 16:
        return 2 * ((header[2] & 7) << 8 | header[3]) + 2
    rate, kbits = header[4] >> 6, (header[4] & 0x3F) >> 1
    if bitstream > 10 or rate == 3 or kbits >= len(_AC3_KBITS):
        return 0
    return 2 * (96000 * _AC3_KBITS[kbits] // _AC3_RATES_HZ[rate] + (header[4] & 1 if rate == 1 else 0))


def _dts_frame_size_bytes(header: bytes) -> int:
    """Return the size of the DTS frame that the eight bytes head, 0 if they head none."""
    if header[:4] != b"\x7f\xfe\x80\x01":
        return 0
    size = ((header[5] & 3) << 12 | header[6] << 4 | header[7] >> 4) + 1
    return size if size >= 96 else 0


def _block_size_bytes(header: bytes) -> int:
    """Return the size of the SimpleBlock of WebM's first track that the bytes head, 0 if they head none."""
    width = 9 - header[1].bit_length()
    if header[0] != 0xA3 or width > 8 or header[1 + width] != 0x81 or header[4 + width] & 0x70:
        return 0
    size = int.from_bytes(header[1 : 1 + width], "big") & ((1 << 7 * width) - 1)
    return 1 + width + size if size > 4 else 0


class _Frames(NamedTuple):
    """Frames without a container: the size of their header, and the values that all of them have in common."""

    container: Container
    header_bytes: int
    size_bytes: Callable[[bytes], int]
    constants: Callable[[bytes], bytes]


_MPEG_AUDIO = _Frames(_C.MPEG_AUDIO, 4, mpeg_frame_size_bytes, _mpeg_constants)
_ADTS = _Frames(_C.ADTS, 6, adts_frame_size_bytes, _adts_constants)
_BLOCKS = _Frames(_C.EBML, 13, _block_size_bytes, lambda header: b"")
# Structures within a stream of each container, which other data hardly ever contain.
_INSIDE_OF = (
    (_C.OGG, re.compile(rb"OggS\0[\0-\7]")),
    (_C.EBML, re.compile(rb"\x1f\x43\xb6\x75[\x01-\xff].{0,7}?\xe7[\x81-\x88]", re.DOTALL)),
    (_C.MP4, re.compile(rb"moof\0\0\0\x10mfhd\0\0\0\0")),
)
_BLOCK = re.compile(rb"\xa3")
_JOINED_FRAMES = {"mp3": _C.MPEG_AUDIO, "aac": _C.ADTS}
_FRAMES = {
    0xFF: (_MPEG_AUDIO, _ADTS, _Frames(_C.LAYER_I_II, 4, _layer_i_ii_frame_size_bytes, _mpeg_constants)),
    0x56: (_Frames(_C.LOAS, 3, _loas_frame_size_bytes, lambda header: b""),),
    0x0B: (_Frames(_C.AC3, 6, _ac3_frame_size_bytes, lambda header: header[4:5]),),
    0x7F: (_Frames(_C.DTS, 8, _dts_frame_size_bytes, lambda header: b""),),
}
_TS_SYNC = 0x47
# The first bytes of messages that `sniff` may recognise.
_FIRST_BYTES = frozenset({*(each.magic[0] for each in _SIGNATURES if not each.is_weak), *_FRAMES, _TS_SYNC})


def _follow(kind: _Frames, head: bytes, at: int = 0, is_all: bool = False) -> bool | None:
    """Return whether frames of this kind follow each other from `at`; None if more bytes are needed.

    With `is_all` there are no more bytes: two frames, or one that ends at the end of the bytes, are enough.
    """
    first, count = b"", 0
    while at + kind.header_bytes <= len(head):
        header = head[at : at + kind.header_bytes]
        size = kind.size_bytes(header)
        if not size or (count and kind.constants(header) != first):
            return False
        first, count, at = kind.constants(header), count + 1, at + size
        if count == _CONSECUTIVE_HEADERS:
            return True
    return (count > 1 or (count == 1 and at == len(head))) if is_all else None


def _is_transport_stream(head: bytes) -> bool | None:
    """Return whether packets of an MPEG transport stream follow each other; None if more bytes are needed."""
    packets = [head[at : at + _TS_PACKET_BYTES] for at in range(0, min(len(head), 1 << 14), _TS_PACKET_BYTES)]
    if any(packet[0] != _TS_SYNC or (len(packet) > 3 and not packet[3] & 0x30) for packet in packets):
        return False
    whole = [packet for packet in packets if len(packet) == _TS_PACKET_BYTES]
    if len(whole) < _CONSECUTIVE_HEADERS:
        return None
    return any(_begins_unit(packet) for packet in whole)


def _begins_unit(packet: bytes) -> bool:
    """Whether the payload of a transport packet begins with a table's section or with a PES packet."""
    if packet[1] & 0xC0 != 0x40:
        return False
    payload = packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
    is_section = payload[:2] in (b"\0\0", b"\0\2", b"\0\x42") and payload[2:3] != b"" and payload[2] & 0xB0 == 0xB0
    return payload[:3] == b"\0\0\1" or is_section


def _heads_free_format(header: bytes) -> bool:
    """Whether the four bytes head a frame of MPEG audio Layer III that has no bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or header[1] & 0x18 == 8:
        return False
    return header[2] >> 4 == 0 and header[2] >> 2 & 3 != 3


def is_free_format(head: bytes) -> bool:
    """Return whether three free-format frames of MPEG audio Layer III, at equal distances, begin at `head`."""
    if not _heads_free_format(head[:4]):
        return False
    syncs = (sync.start() for sync in _SYNC.finditer(head, 48))
    second = next((at for at in syncs if _heads_free_format(head[at : at + 4])), 0)
    thirds = [2 * second + padding for padding in (-1, 0, 1)]
    return second > 0 and any(_heads_free_format(head[at : at + 4]) for at in thirds)


def _match(head: bytes, takes_weak: bool, is_all: bool) -> Container | None:
    """Return the container that begins at `head`; UNKNOWN if none does, None while one may."""
    may_be = False
    for signature in _BY_FIRST_BYTE.get(head[0], ()):
        if signature.is_weak and not takes_weak:
            continue
        if not head.startswith(signature.magic):
            may_be = may_be or signature.magic.startswith(head)
        elif len(head) < signature.size_bytes:
            may_be = True
        elif signature.is_structured(head):
            return signature.container
    for kind in _FRAMES.get(head[0], ()):
        follow = _follow(kind, head, is_all=is_all)
        if follow:
            return kind.container
        may_be = may_be or follow is None
    if head[0] == _TS_SYNC:
        follow = _is_transport_stream(head)
        if follow:
            return Container.MPEG_TS
        may_be = may_be or follow is None
    box = _match_box(head, takes_weak)
    return None if box is Container.UNKNOWN and may_be else box


def _match_box(head: bytes, takes_weak: bool) -> Container | None:
    kind = head[4:8]
    if len(kind) < 4:
        return None if any(name.startswith(kind) for name in _BOXES) else Container.UNKNOWN
    box = _BOXES.get(kind)
    if box is None or (box.is_weak and not takes_weak):
        return Container.UNKNOWN
    if len(head) < box.size_bytes:
        return None
    return Container.MP4 if box.is_structured(head) else Container.UNKNOWN


def sniff(head: bytes) -> Container:
    """Return the container of a message that begins with `head`, which is the whole message or at least 8 KiB of it."""
    return (_match(head, takes_weak=False, is_all=False) if head else None) or Container.UNKNOWN


def identify(head: bytes, is_all: bool = False) -> Container | None:
    """Return the container of a stream that begins with `head`.

    Args:
        head: The first bytes of the stream, however few.
        is_all: Whether nothing follows them.

    Returns:
        The container; UNKNOWN for other data such as raw PCM, None if more bytes are needed.
    """
    found = _match(head, takes_weak=True, is_all=is_all) if head else None
    return found if found is not None or not is_all else Container.UNKNOWN


def behind_tags(head: bytes) -> tuple[bytes, int]:
    """Return the bytes after the ID3v2 and APE tags at the beginning of `head`.

    The second value is the number of bytes of a tag that are still to come.
    """
    while size := id3_size_bytes(head) or ape_tag_size_bytes(head):
        if size > len(head):
            return b"", size - len(head)
        head = head[size:]
    return head, 0


def accepts(audio_format: str, container: Container) -> bool:
    """Return whether a session of this format may contain the container. An unknown container always may."""
    return container is Container.UNKNOWN or container in _ACCEPTED[audio_format]


def contradicts(audio_format: str, head: bytes) -> Container | None:
    """Return the container at the beginning of a message, if it cannot continue a stream of this format.

    Args:
        audio_format: The session's format.
        head: The beginning of the message, or all of it.

    Returns:
        The container; None if the message may continue the stream.
    """
    # This is checked for every message. The first byte rules out most of them.
    if head[:1] and head[0] not in _FIRST_BYTES and head[4:8] not in _BOXES:
        return None
    container = sniff(head)
    is_inside = container in _INSIDE.get(audio_format, ())
    if container is Container.ID3 and (behind := sniff(behind_tags(head)[0])) is not Container.UNKNOWN:
        container, is_inside = behind, False
    return None if is_inside or accepts(audio_format, container) else container


def finds_frames(audio_format: str, head: bytes, is_all: bool = False) -> bool | None:
    """Return whether a stream of MP3 or ADTS begins with frames that follow each other.

    A stream may be read from its middle and begin with the rest of a frame. Zeros before the first frame are ignored.

    Args:
        audio_format: `mp3` or `aac`.
        head: The first bytes of the stream, after its ID3 tags.
        is_all: Whether nothing follows them.

    Returns:
        None if the bytes are too few to tell.
    """
    kind = _MPEG_AUDIO if audio_format == "mp3" else _ADTS
    start = len(head) - len(head.lstrip(b"\0"))
    may_be = len(head) < start + _JOINED_WITHIN_BYTES and not is_all
    for sync in _SYNC.finditer(head, start, start + _JOINED_WITHIN_BYTES):
        follow = _follow(kind, head, sync.start(), is_all)
        if follow:
            return True
        may_be = may_be or follow is None
    return None if may_be else False


def _crc8_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
        table.append(value)
    return tuple(table)


_CRC_8 = _crc8_table()


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value = _CRC_8[value ^ byte]
    return value


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return the number of a FLAC frame, coded like UTF-8, and its size in bytes; (0, 0) if it is invalid."""
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones in (1, 8) or len(data) < max(1, ones) or any(byte >> 6 != 2 for byte in data[1:ones]):
        return 0, 0
    value = data[0] & 0x7F >> ones
    for byte in data[1:ones]:
        value = value << 6 | byte & 0x3F
    return value, max(1, ones)


def flac_frame_header(frame: bytes) -> FlacHeader | None:
    """Return the header of the FLAC frame that begins here, if its CRC-8 is right; None if there is none.

    Args:
        frame: The beginning of the frame; FLAC_HEADER_BYTES are enough.
    """
    # A frame of silence, constant in each channel, takes eleven bytes.
    if len(frame) < 11 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return None
    number, size = _coded_number(frame[4:11])
    block_code, rate_code, channel_code = frame[2] >> 4, frame[2] & 15, frame[3] >> 4
    block_bytes = {6: 1, 7: 2}.get(block_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    end = 4 + size + block_bytes + rate_bytes
    if not size or not block_code or len(frame) <= end or _crc8(frame[:end]) != frame[end]:
        return None
    if block_bytes:
        block = int.from_bytes(frame[4 + size : 4 + size + block_bytes], "big") + 1
    else:
        block = 192 if block_code == 1 else 144 << block_code if block_code < 6 else 1 << block_code
    channels = channel_code + 1 if channel_code < 8 else 2
    constants = bytes((frame[1], frame[2], frame[3] & 0x0F, channels))
    return FlacHeader(number, block, channels, bool(frame[1] & 1), constants)


def finds_flac_frames(head: bytes) -> bool | None:
    """Return whether a stream begins in the middle of FLAC, so that two frames with consecutive numbers follow.

    Args:
        head: The first bytes of the stream.

    Returns:
        None if more bytes are needed, because there is one frame, or one may follow.
    """
    following: set[tuple[bytes, int]] = set()
    if b"fLaC" in head:
        return False
    for sync in FLAC_SYNC.finditer(head):
        header = flac_frame_header(head[sync.start() : sync.start() + FLAC_HEADER_BYTES])
        # Values that no encoder writes.
        if header is None or header.channels > 8 or header.constants[1] & 15 == 15 or header.constants[2] & 1:
            continue
        if (header.constants, header.number) in following:
            return True
        following.add((header.constants, header.number + (header.block_samples if header.is_variable else 1)))
    return None if following or len(head) < FLAC_WITHIN_BYTES else False


def joined(head: bytes) -> Container | None:
    """Return the container in whose middle a stream begins, if `identify` finds no container at its beginning.

    Args:
        head: The first bytes of the stream.

    Returns:
        UNKNOWN for other data such as raw PCM, None if more bytes are needed.
    """
    inside = next((container for container, mark in _INSIDE_OF if mark.search(head)), None)
    if inside is not None:
        return inside
    if any(_follow(_BLOCKS, head, block.start()) for block in _BLOCK.finditer(head, 0, _JOINED_WITHIN_BYTES)):
        return Container.EBML
    found = {container: finds_frames(name, head) for name, container in _JOINED_FRAMES.items()}
    found[Container.FLAC] = finds_flac_frames(head)
    positive = next((container for container, is_found in found.items() if is_found), None)
    return positive or (None if None in found.values() else Container.UNKNOWN)


def lacks_header(audio_format: str, head: bytes) -> bool:
    """Return whether a stream that begins with `head` lacks a header without which it cannot be read.

    FLAC, WebM, Ogg and MP4 need such a header. `head` may be short, so a prefix of the magic counts as a header.

    Args:
        audio_format: The session's format.
        head: The first bytes of the stream, however few.
    """
    if audio_format == "mp4":
        return head[:1] > b"\x0f" or not any(box.startswith(head[4:8]) for box in _MP4_BEGINNINGS)
    magic = _STREAM_MAGIC.get(audio_format, b"")
    return not magic.startswith(head[: len(magic)])
