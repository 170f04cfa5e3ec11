"""Packets into a container with a duration and an index, none of them decoded: the parts of one stream, end to end.

A browser that reconnects starts a new recorder, and that a new header: the master then holds several complete
WebM, Ogg or MP4 files, one behind the other. Parts that say the same of their codec become one recording. FFmpeg
reads each where it lies (`subfile`), behind an ffconcat list of ours, and continues the timestamps.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from audio.media import ffmpeg, plan
from audio.media.plan import Span

# Of FFmpeg's framemd5 output: what has to be equal for packets to share one track.
_PARAMETERS = ("#extradata ", "#tb ", "#codec_id ", "#sample_rate ", "#channel_layout_name ")
_SAMPLE_RATE = re.compile(r"^#sample_rate \d+: (\d+)", re.MULTILINE)
_LAYOUT = re.compile(r"^#channel_layout_name \d+: ([^(\s]+)", re.MULTILINE)
# By FFmpeg's names of layouts.
_CHANNELS = {"mono": 1, "stereo": 2, "2.1": 3, "3.0": 3, "4.0": 4, "quad": 4, "5.0": 5, "5.1": 6, "6.1": 7, "7.1": 8}
_MOST_OVERHEAD_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What one part says of itself: the parameters of its packets, comparable as text, and whether it has any."""

    parameters: str
    has_packets: bool

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, empty where the header names none."""
        return codec_of(self.parameters)


def codec_of(parameters: str) -> str:
    """Takes the `parameters` of a header; returns FFmpeg's name of the codec, empty where they name none."""
    return next((line.split(": ", 1)[1] for line in parameters.splitlines() if line.startswith("#codec_id ")), "")


def rate_of(parameters: str) -> int:
    """Return the sample rate in the `parameters` of a header in Hz, 0 where they name none."""
    found = _SAMPLE_RATE.search(parameters)
    return int(found[1]) if found else 0


def channels_of(parameters: str) -> int:
    """Return the number of channels in the `parameters` of a header, 0 where it is not known."""
    found = _LAYOUT.search(parameters)
    return _CHANNELS.get(found[1], 0) if found else 0


def header_of(path: Path, span: Span, audio_format: str, folder: Path) -> PartHeader:
    """Takes a file and the span of one part of it; returns what the part says. It reads the part's beginning only.

    Raises FfmpegFailed if it holds no header of that format.
    """
    arguments = plan.header(audio_format, _linked(path, folder), span)
    lines = b"".join(ffmpeg.output_of(arguments, folder, ffmpeg.WINDOW_LIMITS)).decode().splitlines()
    parameters = "\n".join(line for line in lines if line.startswith(_PARAMETERS))
    return PartHeader(parameters, any(line and not line.startswith("#") for line in lines))


def copy(path: Path, spans: Sequence[Span], audio_format: str, codec: str, output: Path, folder: Path) -> float:
    """Takes a file, the spans of its parts, their codec, and an empty folder to work in; writes `output`.

    Returns the seconds written. One part is copied as far as it can be read. Of several, whose parameters must be
    equal, FfmpegFailed is raised where one can't be read to its end: the ones behind it would be missing.
    """
    if len(spans) == 1:
        arguments = plan.remux(audio_format, str(path), str(output), codec)
    else:
        name = _linked(path, folder)
        listing = folder / "list.ffconcat"
        listing.write_text(plan.concat_list(audio_format, [plan.subfile(name, span) for span in spans]))
        arguments = plan.remux_parts(audio_format, str(listing), str(output), codec)
    # An MP4's tables may name the same bytes again and again.
    most_bytes = 4 * sum(span.end - span.start for span in spans) + _MOST_OVERHEAD_BYTES
    return ffmpeg.run(arguments, folder, replace(ffmpeg.LONG_LIMITS, file_bytes=most_bytes))


def _linked(path: Path, folder: Path) -> str:
    """Gives the file a name in FFmpeg's working folder that needs no quoting."""
    link = folder / f"parts{path.suffix}"
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return link.name
