"""PURE. Cue points of WAV files: the chunks `cue ` and `LIST adtl` after the samples.

"Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft, 1991) defines both. They follow the
data, so the samples do not move. A cue point has 32 bits for its frame. Labels are in UTF-8: the specification names no
encoding, and editors read this one.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

# The bytes that contain the format and the sizes that change. FFmpeg and the server write these first.
HEAD_BYTES = 80
_MOST = 0xFFFFFFFF
_SIZE = struct.Struct("<I")
_LONG_SIZE = struct.Struct("<Q")
# The bytes of the RIFF header that its size does not count.
_UNCOUNTED_BYTES = 8
_DS64_SIZE_AT = 20
_RATE_BEHIND_TAG = 12


class Cue(NamedTuple):
    """A moment in a file, in seconds, with a label."""

    seconds: float
    label: str


def sample_rate(head: bytes) -> int:
    """Return the sample rate in the beginning of a WAV file, in Hz; 0 if there is none."""
    at = head.find(b"fmt ", 12)
    return int(_SIZE.unpack_from(head, at + _RATE_BEHIND_TAG)[0]) if 0 < at <= len(head) - 16 else 0


def chunks(cues: Sequence[Cue], rate_hz: int) -> bytes:
    """Return the chunks of these cues, in their order. Cues beyond frame 2^32 are left out."""
    frames = [(round(cue.seconds * rate_hz), cue.label.encode() + b"\0") for cue in cues]
    kept = [(number, frame, label) for number, (frame, label) in enumerate(frames, 1) if frame <= _MOST]
    points = [struct.pack("<II4sIII", number, frame, b"data", 0, 0, frame) for number, frame, _ in kept]
    labels = [_chunk(b"labl", _SIZE.pack(number) + label) for number, _, label in kept]
    return _chunk(b"cue ", _SIZE.pack(len(points)) + b"".join(points)) + _chunk(b"LIST", b"adtl" + b"".join(labels))


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + _SIZE.pack(len(body)) + body + b"\0" * (len(body) % 2)


def grown_head(head: bytes, file_bytes: int, added_bytes: int) -> bytes | None:
    """Return the beginning of a WAV file with the size that it has after bytes were added.

    Args:
        head: The beginning of the file.
        file_bytes: Its length, which is even.
        added_bytes: The number of added bytes.

    Returns:
        The beginning, with the same length; None if it has no place for the size.
    """
    size = file_bytes - _UNCOUNTED_BYTES + added_bytes
    if head[:4] == b"RIFF" and size <= _MOST:
        return head[:4] + _SIZE.pack(size) + head[8:]
    if head[:4] == b"RF64" and head[12:16] == b"ds64":
        return head[:_DS64_SIZE_AT] + _LONG_SIZE.pack(size) + head[_DS64_SIZE_AT + 8 :]
    return None
