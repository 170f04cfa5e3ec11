"""PURE. Markers as chapters, in the metadata format from which FFmpeg writes them into a file.

MP4, Matroska and ID3 define chapters, each with an end. In Ogg and FLAC a chapter consists of two comments, for its
time and its title ("Chapter Extension" of the Xiph wiki).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from audio.media.cues import Cue

# The formats that can have chapters. ADTS (`aac`) has no place for them, and WAV has cue points instead.
FORMATS = ("mp3", "m4a", "mp4", "webm", "opus", "ogg", "flac")
IN_COMMENTS = ("opus", "ogg", "flac")
_IN_MP4 = ("m4a", "mp4")
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "=;#\\\n"})
_ID3_HEADER_BYTES = 10


class Chapter(NamedTuple):
    """A chapter. Its times are in milliseconds, as in ID3 and comments."""

    start_ms: int
    title: str


def chapters(cues: Sequence[Cue], duration_seconds: float) -> list[Chapter]:
    """Return the chapters of cues, which are in the order of the recording.

    Players do not find a chapter that begins at the end or together with another one. So the last one begins before
    the end, and cues at the same millisecond share a chapter.
    """
    last_ms = max(0, int(duration_seconds * 1000) - 1)
    made: list[Chapter] = []
    for cue in cues:
        start_ms = min(round(cue.seconds * 1000), last_ms)
        if made and made[-1].start_ms == start_ms:
            made[-1] = Chapter(start_ms, f"{made[-1].title} / {cue.label}")
        else:
            made.append(Chapter(start_ms, cue.label))
    return made


def metadata(audio_format: str, cues: Sequence[Cue], duration_seconds: float) -> str:
    """Return the chapters of a file in FFmpeg's metadata format (`-f ffmetadata`).

    Args:
        audio_format: One of FORMATS.
        cues: The markers, in the order of the recording.
        duration_seconds: The length of the recording, where its last chapter ends.
    """
    made = chapters(cues, duration_seconds)
    if audio_format in IN_COMMENTS:
        lines = list(_comments(made))
    else:
        # The chapters of MP4 are a track, which begins with the file.
        first = [Chapter(0, "")] if audio_format in _IN_MP4 and made and made[0].start_ms else []
        lines = list(_sections([*first, *made], int(duration_seconds * 1000)))
    return "\n".join([";FFMETADATA1", *lines, ""])


def _comments(made: Sequence[Chapter]) -> Iterator[str]:
    for number, chapter in enumerate(made):
        seconds, milliseconds = divmod(chapter.start_ms, 1000)
        time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
        yield f"CHAPTER{number:03}={time}"
        yield f"CHAPTER{number:03}NAME={chapter.title.translate(_ESCAPED)}"


def _sections(made: Sequence[Chapter], end_ms: int) -> Iterator[str]:
    ends = [chapter.start_ms for chapter in made[1:]] + [end_ms]
    for chapter, end in zip(made, ends, strict=True):
        yield from (
            "[CHAPTER]",
            "TIMEBASE=1/1000",
            f"START={chapter.start_ms}",
            f"END={max(end, chapter.start_ms + 1)}",
        )
        yield f"title={chapter.title.translate(_ESCAPED)}"


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag with which a file begins; 0 if it has none.

    Args:
        head: At least the first ten bytes of the file.
    """
    if len(head) < _ID3_HEADER_BYTES or head[:3] != b"ID3":
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    has_footer = bool(head[5] & 0x10)
    return _ID3_HEADER_BYTES + size + (_ID3_HEADER_BYTES if has_footer else 0)
