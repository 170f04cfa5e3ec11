"""The waveform of a recording: the lowest and the highest sample of equal spans, at every zoom.

The file of peaks is computed once, in one pass and with limited memory. It has a header and then levels of pairs of
int16: the lowest and the highest sample, of all channels together. A pair of the first level covers BASE_FRAMES sample
frames, and a pair of each further level FACTOR times as many, so that any zoom reads a few thousand pairs. If there is
a WAV file, the nearest zooms read its samples.

If the master holds samples, `extend` writes the first level window by window beside the master, and `complete` makes
the file from it when the recording is ready, so that nothing has to be read again. For other recordings `write` makes
the file in one pass.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

from audio.deferred import DeferredModule
from audio.errors import MasterDamagedError
from audio.media import convert, ffmpeg, plan, wav
from audio.media.pcm import Blocks
from audio.media.samples import PcmFormat, Samples
from audio.media.wav_reader import WavReader

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pairs: TypeAlias = npt.NDArray[np.int16]
else:
    np = DeferredModule("numpy")


class Readable(Protocol):
    """An open file, or an object with the same methods."""

    def read(self, size_bytes: int, /) -> bytes:
        """Return at most `size_bytes` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


# A function that opens a file for the bytes from a start to an end.
OpenSpan = Callable[[int, int], Readable]

BASE_FRAMES = 256
FACTOR = 16
_LEVELS = 4
# If a point has at least this many pairs, its borders are off by less than a quarter of its width.
_PAIRS_PER_POINT = 4
_HEADER = struct.Struct("<8sIQ4x")
_MAGIC = b"SCPEAKS1"
_PAIR_BYTES = 4
_BLOCK_BYTES = 1 << 20
FULL_SCALE = 32767


@dataclass(frozen=True, slots=True)
class Waveform:
    """The peaks of a span. Each point is a row with the lowest and the highest sample, from -32767 to 32767.

    `duration_seconds` and `sample_rate` (in Hz) are those of the recording.
    """

    sample_rate: int
    duration_seconds: float
    start_seconds: float
    end_seconds: float
    pairs: Pairs


def samples_of(audio_format: str, path: Path, encoding: str, work: Path) -> Iterator[Samples]:
    """Yield the samples of a whole recording, block by block, at its own rate and channels, with silence in its gaps.

    Args:
        audio_format: The recording's format.
        path: Its file.
        encoding: The encoding of its samples, if it does not declare one.
        work: FFmpeg's folder.

    Raises:
        MediaError: What FFmpeg's runs raise.
    """
    if audio_format in plan.CONTAINERS:
        yield from Blocks(path, audio_format, encoding, work).samples()
        return
    bits = 16 if encoding == "s16le" else 24
    reader = WavReader(PcmFormat("s16le", 16000, 1), "stream")
    # A damaged recording may be ready, with a warning. The waveform shows the part that can be decoded.
    arguments = plan.decode(audio_format, str(path), bits, is_strict=False)
    for block in _wav_blocks(path) if audio_format == "wav" else ffmpeg.output_of(arguments, work):
        yield from reader.feed(block)


def _wav_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _rows(block: Samples) -> npt.NDArray[Any]:
    """Return whole frames as an array with one row for each frame.

    16-bit samples keep their type, because floats would cost fifty times as much.
    """
    if block.format.encoding == "s16le":
        return np.frombuffer(block.data, dtype="<i2").reshape(-1, block.format.channels)
    return convert.decode(block)


def _peaks(samples: Iterable[Samples], frames: int) -> Iterator[tuple[Pairs, Samples]]:
    """Yield the pairs of spans of `frames` frames as they become complete, and at the end the pair of the rest.

    Each result comes with the block that completed it.
    """
    held: npt.NDArray[Any] | None = None
    block: Samples | None = None
    for block in samples:
        rows = _rows(block)
        rows = rows if held is None or not len(held) else np.concatenate([held, rows])
        whole = len(rows) // frames * frames
        yield _reduced(rows[:whole].reshape(-1, frames * rows.shape[1])), block
        held = rows[whole:]
    if held is not None and block is not None and len(held):
        yield _reduced(held.reshape(1, -1)), block


def _reduced(stretches: npt.NDArray[Any]) -> Pairs:
    """Return the lowest and the highest value of each row."""
    pairs = np.stack([stretches.min(axis=1), stretches.max(axis=1)], axis=1)
    if pairs.dtype == np.int16:
        pairs = pairs / (FULL_SCALE + 1)
    scaled: Pairs = np.rint(np.clip(pairs, -1, 1) * FULL_SCALE).astype("<i2")
    return scaled


def write(samples: Iterable[Samples], output: Path, tell: Callable[[float], None]) -> float:
    """Write the peaks of a recording's samples to `output`, and return its length in seconds.

    `tell` is called with the seconds done so far.
    """
    total, rate = 0, 0
    with output.open("wb") as file:
        file.write(bytes(_HEADER.size))
        counted = _counted(samples)
        for pairs, block in _peaks(counted.blocks(), BASE_FRAMES):
            file.write(pairs.tobytes())
            total, rate = counted.frames, block.format.sample_rate
            tell(total / rate)
        file.flush()
        _add_levels(file, output, total)
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, rate or 1, total))
    return total / rate if rate else 0.0


def extend(path: Path, master: Path, pcm: PcmFormat, before_bytes: int, data_bytes: int, is_last: bool) -> None:
    """Extend the first level of the file of peaks at `path` to `data_bytes` of samples of a WAV master.

    It starts after the `before_bytes` that the last commit covers, and overwrites the pairs that a dead run has written
    after them. With `is_last`, the pair of the incomplete span is included.

    A file that is shorter than it should be, for example after a power cut, is removed. The peaks are then computed
    when the recording is ready, because a window must not cost more than its own audio.
    """
    first, total = before_bytes // pcm.frame_bytes // BASE_FRAMES, data_bytes // pcm.frame_bytes
    with path.open("ab") as file:
        if file.tell() < first * _PAIR_BYTES:
            path.unlink()
            return
        file.truncate(first * _PAIR_BYTES)
        end = total if is_last else total // BASE_FRAMES * BASE_FRAMES
        for pairs, _ in _peaks(_range(from_file(master), pcm, first * BASE_FRAMES, end), BASE_FRAMES):
            file.write(pairs.tobytes())


def complete(path: Path, output: Path, rate: int, total_frames: int) -> bool:
    """Make the file of peaks at `output` from the first level at `path`; return False if that is incomplete.

    `rate` is in Hz, `total_frames` counts the recording's sample frames.
    """
    if not path.exists() or path.stat().st_size != _level(0, total_frames)[0] * _PAIR_BYTES:
        return False
    with output.open("wb") as file, path.open("rb") as first_level:
        file.write(_HEADER.pack(_MAGIC, rate, total_frames))
        shutil.copyfileobj(first_level, file, _BLOCK_BYTES)
        file.flush()
        _add_levels(file, output, total_frames)
    return True


def so_far(
    path: Path, rate: int, total_frames: int, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform | None:
    """Return at most `points` peaks of a span, from a first level that still grows.

    Args:
        path: The file of peaks.
        rate: The sample rate in Hz.
        total_frames: The number of frames that are recorded.
        points: The maximum number of peaks.
        start_seconds: The start of the span.
        end_seconds: The end of the span.

    Returns:
        The peaks. None if the samples are needed, because the span is short or the level is incomplete.
    """
    start, end = _span(total_frames, rate, start_seconds, end_seconds)
    first, last = start // BASE_FRAMES, end // BASE_FRAMES
    if last - first < points * _PAIRS_PER_POINT or not path.exists() or path.stat().st_size < last * _PAIR_BYTES:
        return None
    pairs = _read(path, 0, first, last)
    pairs = _joined(pairs, np.arange(points) * len(pairs) // points)
    return Waveform(rate, total_frames / rate, start / rate, end / rate, pairs)


@dataclass(slots=True)
class _counted:  # noqa: N801 - a wrapper, used like a function
    samples: Iterable[Samples]
    frames: int = 0

    def blocks(self) -> Iterator[Samples]:
        for block in self.samples:
            self.frames += len(block.data) // block.format.frame_bytes
            if block.data:
                yield block


def _add_levels(file: IO[bytes], path: Path, total_frames: int) -> None:
    for level in range(1, _LEVELS):
        count, offset = _level(level - 1, total_frames)
        step = _BLOCK_BYTES // FACTOR * FACTOR
        for first in range(0, count, step):
            below = _read(path, offset, first, min(count, first + step))
            file.write(_joined(below, np.arange(0, len(below), FACTOR)).tobytes())
        file.flush()


def _level(level: int, total_frames: int) -> tuple[int, int]:
    """Return the number of pairs of a level, and their offset in the file."""
    offset, frames = _HEADER.size, BASE_FRAMES
    for _ in range(level):
        offset += -(-total_frames // frames) * _PAIR_BYTES
        frames *= FACTOR
    return -(-total_frames // frames), offset


def _read(path: Path, offset: int, first: int, last: int) -> Pairs:
    with path.open("rb") as file:
        file.seek(offset + first * _PAIR_BYTES)
        data = file.read(max(0, last - first) * _PAIR_BYTES)
    return np.frombuffer(data, dtype="<i2").reshape(-1, 2)


def _joined(pairs: Pairs, edges: npt.NDArray[np.intp]) -> Pairs:
    """Join pairs into wider ones that begin at the given indexes."""
    lowest, highest = np.minimum.reduceat(pairs[:, 0], edges), np.maximum.reduceat(pairs[:, 1], edges)
    return np.stack([lowest, highest], axis=1)


def read(path: Path, points: int, start_seconds: float, end_seconds: float | None) -> Waveform:
    """Return at most `points` peaks of a span of the recording from a file of peaks.

    There are fewer if the span has fewer pairs of the first level.

    Raises:
        MasterDamagedError: The file is no file of peaks.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise MasterDamagedError("The file of peaks is damaged.")
    _, rate, total = _HEADER.unpack(head)
    start, end = _span(total, rate, start_seconds, end_seconds)
    frames, level = BASE_FRAMES, 0
    while level + 1 < _LEVELS and frames * FACTOR * points * _PAIRS_PER_POINT <= end - start:
        frames, level = frames * FACTOR, level + 1
    _, offset = _level(level, total)
    pairs = _read(path, offset, start // frames, -(-end // frames))
    if len(pairs) > points:
        pairs = _joined(pairs, np.arange(points) * len(pairs) // points)
    return Waveform(rate, total / rate, start / rate, end / rate, pairs)


def _span(total: int, rate: int, start_seconds: float, end_seconds: float | None) -> tuple[int, int]:
    end = total if end_seconds is None else min(total, round(end_seconds * rate))
    return min(end, round(start_seconds * rate)), end


def is_near(shown: Waveform, points: int) -> bool:
    """Whether a span needs more detail than the first level has, so that the samples have to be read."""
    return (shown.end_seconds - shown.start_seconds) * shown.sample_rate < points * BASE_FRAMES


def scan(
    open_span: OpenSpan, pcm: PcmFormat, data_bytes: int, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform:
    """Return at most `points` peaks of a span of a WAV master, read block by block from the samples.

    Args:
        open_span: Opens a span of the master's bytes.
        pcm: The format of the samples.
        data_bytes: The length of the samples.
        points: The maximum number of peaks.
        start_seconds: The start of the span.
        end_seconds: The end of the span.
    """
    total, rate = data_bytes // pcm.frame_bytes, pcm.sample_rate
    start, end = _span(total, rate, start_seconds, end_seconds)
    frames = max(1, -(-(end - start) // points))
    found = [pairs for pairs, _ in _peaks(_range(open_span, pcm, start, end), frames)]
    pairs = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int16)
    return Waveform(rate, total / rate, start / rate, end / rate, pairs)


def from_file(path: Path) -> OpenSpan:
    """Return a function that opens a span of the bytes of a local file."""

    def open_span(start: int, end: int) -> Readable:
        file = path.open("rb")
        file.seek(start)
        return file

    return open_span


def _range(open_span: OpenSpan, pcm: PcmFormat, start: int, end: int) -> Iterator[Samples]:
    if start == end:
        return
    left = (end - start) * pcm.frame_bytes
    first = wav.HEADER_BYTES + start * pcm.frame_bytes
    held = b""
    with contextlib.closing(open_span(first, first + left)) as file:
        while left and (data := file.read(min(_BLOCK_BYTES, left))):
            left -= len(data)
            held += data
            whole = len(held) // pcm.frame_bytes * pcm.frame_bytes
            yield Samples(pcm, held[:whole])
            held = held[whole:]


def svg(shown: Waveform) -> str:
    """Return the waveform as an SVG picture (SVG 1.1) that fits any width."""
    points, count = shown.pairs.astype(int), max(1, len(shown.pairs))
    upper = [f"{number},{-high}" for number, (_, high) in enumerate(points)]
    lower = [f"{number},{-low}" for number, (low, _) in reversed(list(enumerate(points)))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-FULL_SCALE} {max(1, count - 1)} {2 * FULL_SCALE}"'
        ' preserveAspectRatio="none" width="100%" height="120" role="img" aria-label="Waveform">'
        f'<polygon points="{" ".join(upper + lower)}" fill="#2a6f97" stroke="#2a6f97" stroke-width="1"'
        ' vector-effect="non-scaling-stroke"/></svg>\n'
    )
