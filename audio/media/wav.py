"""PURE. The headers of WAV files: the beginnings of files, the chunks `fmt ` and ds64, and the header of masters.

`audio.media.wav_reader` reads whole files with these functions.

The specifications are "Multimedia Programming Interface and Data Specifications 1.0" for RIFF/WAVE, Microsoft's
"Multiple Channel Audio Data and WAVE Files" for WAVE_FORMAT_EXTENSIBLE, EBU Tech 3306 for RF64 and ds64, and ITU-R
BS.2088 for BW64.
"""

import re
import struct
from collections.abc import Iterator

from audio.errors import UndecodableChunkError, UnsupportedMediaError
from audio.media.samples import SAMPLE_BYTES, PcmFormat, is_recordable

HEADER_BYTES = 80
RIFF_HEAD_BYTES = 12
CHUNK_HEAD_BYTES = 8
# The beginning of a file up to the size of its first sub-chunk, by which `find_file` recognises it.
STRONG_HEAD_BYTES = RIFF_HEAD_BYTES + CHUNK_HEAD_BYTES
# As much of `fmt ` and ds64 as is read.
FORMAT_BYTES = 40
SIZES_BYTES = 28
# How large `fmt ` and ds64 can be, and any other sub-chunk with which a file begins.
MAX_FORMAT_BYTES = 1 << 16
_MAX_FIRST_CHUNK_BYTES = 1 << 28
_SHORT_FORMAT_BYTES = 14
# Sizes that live encoders write if they do not know the size: zero, or close to the largest number of 31 or 32 bits.
_PLACEHOLDERS = (range(1), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 1 << 32))
_LARGEST_SIZE = 1 << 62
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_ENCODINGS = {
    (_PCM, 1): "u8",
    (_PCM, 2): "s16le",
    (_PCM, 3): "s24le",
    (_PCM, 4): "s32le",
    (_FLOAT, 4): "f32le",
    (_FLOAT, 8): "f64le",
    (_ALAW, 1): "alaw",
    (_MULAW, 1): "mulaw",
}
_CODECS = {2: "Microsoft ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG audio", 0x55: "MP3", 0x161: "WMA"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
MAGICS = (b"RIFF", b"RF64", b"BW64", b"RIFX")
# The sub-chunks that real files have after their data. Some of them are outside of the RIFF chunk.
TRAILERS = {
    *(b"LIST", b"id3 ", b"ID3 ", b"JUNK", b"junk", b"PAD ", b"FLLR", b"fact", b"cue ", b"plst", b"smpl", b"inst"),
    *(b"bext", b"iXML", b"axml", b"_PMX", b"acid", b"DISP", b"afsp", b"cart", b"PEAK", b"chna", b"levl", b"MD5 "),
}
KNOWN_NAMES = {*TRAILERS, b"fmt ", b"data", b"ds64"}
# A FOURCC: printable ASCII, filled up with spaces at the end.
_CHUNK_NAME = re.compile(rb"[!-~]{1,4} {0,3}")
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_]{1,4} {0,3}")


def header(pcm: PcmFormat, data_bytes: int) -> bytes:
    """Return the header of a master, which has 80 bytes.

    If a size does not fit into 32 bits, the reserved JUNK sub-chunk becomes ds64, and RIFF becomes RF64 (EBU Tech
    3306).

    Args:
        pcm: The format of the samples.
        data_bytes: The size of the samples.
    """
    sample_bytes = SAMPLE_BYTES[pcm.encoding]
    tag = 3 if pcm.encoding.startswith("f") else 1
    rates = (pcm.sample_rate, pcm.sample_rate * pcm.frame_bytes, pcm.frame_bytes, sample_bytes * 8)
    riff_bytes = HEADER_BYTES - 8 + data_bytes + data_bytes % 2
    if riff_bytes > 0xFFFFFFFF:
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, riff_bytes, data_bytes, data_bytes // pcm.frame_bytes, 0)
        name, riff_bytes, data_bytes = b"RF64", 0xFFFFFFFF, 0xFFFFFFFF
    else:
        sizes, name = struct.pack("<4sI28x", b"JUNK", 28), b"RIFF"
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, pcm.channels, *rates)
    return struct.pack("<4sI4s", name, riff_bytes, b"WAVE") + sizes + form + struct.pack("<4sI", b"data", data_bytes)


def parse_format(body: bytes) -> PcmFormat:
    """Return the format that a `fmt ` sub-chunk describes.

    Args:
        body: The body of the sub-chunk, or its first 40 bytes.

    Raises:
        UndecodableChunkError: The description contradicts itself.
        UnsupportedMediaError: The samples are not PCM, float, mu-law or A-law of 1 to 8 channels at 4 to 384 kHz.
    """
    if len(body) < _SHORT_FORMAT_BYTES:
        raise UndecodableChunkError("The format chunk of the WAV header is too short.")
    tag, channels, rate_hz, bytes_per_second, frame_bytes = struct.unpack_from("<HHIIH", body)
    # The oldest version of the sub-chunk ends before the number of bits.
    bits = struct.unpack_from("<H", body, 14)[0] if len(body) > _SHORT_FORMAT_BYTES + 1 else 8
    if tag == _EXTENSIBLE:
        if len(body) < FORMAT_BYTES or body[26:40] != _GUID_TAIL:
            raise UnsupportedMediaError("The extensible format of the WAV header does not describe audio samples.")
        # The number of valid bits is ignored: they are the upper bits of their container.
        tag = struct.unpack_from("<H", body, 24)[0]
    if not is_recordable(channels, rate_hz):
        raise UnsupportedMediaError(f"A WAV file with {channels} channels at {rate_hz} Hz can't be recorded.")
    if tag in (_ALAW, _MULAW):
        return PcmFormat(_ENCODINGS[tag, 1], rate_hz, channels)
    if tag not in (_PCM, _FLOAT):
        raise UnsupportedMediaError(
            f"A WAV file with {_CODECS.get(tag, f'format tag {tag}')} can't be recorded. Send PCM instead."
        )
    sample_bytes = _sample_bytes(bits, channels, frame_bytes, bytes_per_second == rate_hz * frame_bytes)
    encoding = _ENCODINGS.get((tag, sample_bytes))
    if encoding is None:
        raise UnsupportedMediaError(f"A WAV file with format tag {tag} and {bits} bits per sample can't be recorded.")
    return PcmFormat(encoding, rate_hz, channels)


def _sample_bytes(bits: int, channels: int, frame_bytes: int, is_rate_consistent: bool) -> int:
    """Return the size of a sample.

    If the number of bits is a multiple of 8 and contradicts the size of a frame, the bits are right, as in players:
    recorders often leave the frame size of another format in the header. Any other number of bits are the upper bits of
    a larger container.
    """
    needed, container = (bits + 7) // 8, frame_bytes // channels if frame_bytes % channels == 0 else 0
    if container in (0, needed):
        return needed
    if not bits or (bits % 8 and container == needed + 1 and is_rate_consistent):
        return container
    # What 24 bits in four bytes are depends on the program: integers, floats, or in fact three bytes.
    if bits % 8 or (needed, container) == (3, 4):
        raise UndecodableChunkError(
            f"The WAV header contradicts itself: it has {bits} bits per sample in {container} bytes."
        )
    return needed


def parse_sizes(body: bytes) -> tuple[int, int] | None:
    """Return the sizes of the RIFF chunk and of the data in a ds64 sub-chunk; None if it is too short.

    Args:
        body: The first 28 bytes of the sub-chunk's body.
    """
    if len(body) < SIZES_BYTES:
        return None
    riff_bytes, data_bytes = struct.unpack_from("<QQ", body)
    return riff_bytes, data_bytes


def is_placeholder(size: int) -> bool:
    """Whether a recorder writes this size if it does not know the size."""
    return size >= _LARGEST_SIZE or any(size in sizes for sizes in _PLACEHOLDERS)


def is_chunk_name(name: bytes) -> bool:
    """Whether a sub-chunk can have this name. A shorter one is the beginning of a name."""
    return _CHUNK_NAME.fullmatch(name) is not None


def is_plain_name(name: bytes) -> bool:
    """Whether the name of a sub-chunk consists of letters, digits and underscores."""
    return _PLAIN_NAME.fullmatch(name) is not None


def may_be_file(head: bytes) -> bool:
    """Whether a WAV file can begin with `head`, which has up to 12 bytes."""
    return any(magic.startswith(head[:4]) for magic in MAGICS) and b"WAVE".startswith(head[8:12])


def begins_file(message: bytes) -> bool:
    """Whether a message begins with a WAV file."""
    return message[:4] in MAGICS and message[8:12] == b"WAVE"


def find_file(data: bytes, start: int, end: int, is_final: bool) -> tuple[bool, int]:
    """Find the header of a WAV file in samples.

    Args:
        data: The samples, and the bytes that are known after them.
        start: Where the search begins.
        end: Where the samples end. A header begins before.
        is_final: Whether no bytes follow `data`.

    Returns:
        Whether there is a complete header, and where it begins. If there is none, the place where an incomplete header
        may begin at the end of `data`, and otherwise `end`.
    """
    at = data.find(b"WAVE", start + 8)
    while 0 <= at - 8 < end:
        if _is_file_with_chunk(data[at - 8 : at - 8 + STRONG_HEAD_BYTES], is_final):
            return True, at - 8
        at = data.find(b"WAVE", at + 1)
    tail = max(start, len(data) - STRONG_HEAD_BYTES + 1)
    for begun in () if is_final else _incomplete_heads(data, tail):
        if begun < end:
            return False, begun
    return False, end


def _is_file_with_chunk(head: bytes, is_final: bool) -> bool:
    """Whether `head`, which has up to 20 bytes, is that of a WAV file whose first sub-chunk makes sense."""
    name = head[12:16]
    if not begins_file(head) or (len(head) < STRONG_HEAD_BYTES and not is_final):
        return False
    if name and not is_chunk_name(name):
        return False
    size = int.from_bytes(head[16:20], "little")
    return size <= (MAX_FORMAT_BYTES if name in (b"fmt ", b"ds64") else _MAX_FIRST_CHUNK_BYTES)


def _incomplete_heads(data: bytes, start: int) -> Iterator[int]:
    """Yield the places from `start` on where an incomplete header may begin."""
    for at in range(start, len(data)):
        if data[at] in b"RB" and may_be_file(data[at : at + RIFF_HEAD_BYTES]):
            yield at
