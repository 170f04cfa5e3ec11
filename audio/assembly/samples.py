"""The samples of a WAV master: the code that the two families with such a master share."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audio.assembly.assembler import Windows
from audio.assembly.chunks import PendingChunk
from audio.assembly.comparison import Comparison, blocks
from audio.media import convert, wav
from audio.media.convert import Converter
from audio.media.samples import PcmFormat, Samples
from audio.models import AudioSession, Recording
from audio.storage import downloads

MOST_CHANNELS = 2
# The output of the resampler may be this many frames longer or shorter than its input, whatever the length.
_RESAMPLER_FRAMES = 2


@dataclass(slots=True)
class _Run:
    """Consecutive samples of one format from one source: how many frames were received, and how many were yielded."""

    format: PcmFormat
    taken: int = 0
    given: int = 0

    def state(self) -> list[Any]:
        return [self.format.encoding, self.format.sample_rate, self.format.channels, self.taken, self.given]

    @classmethod
    def restore(cls, state: list[Any]) -> "_Run":
        return cls(PcmFormat(*state[:3]), *state[3:])

    def is_balanced(self, target: PcmFormat, is_over: bool) -> bool:
        """Whether as many frames were yielded as received: exactly, or after the end approximately."""
        if self.format.sample_rate == target.sample_rate:
            return self.taken == self.given
        expected = self.taken * target.sample_rate / self.format.sample_rate
        return not is_over or abs(self.given - expected) <= _RESAMPLER_FRAMES


class PcmOutput:
    """The samples of several sources, converted to those of one WAV master.

    The master has the sample rate and the channels of the session. If these are undecided, it has those of the first
    samples, with two channels at most. Its encoding is that of the first samples.
    """

    def __init__(self, session: AudioSession, known: PcmFormat | None, checkpoint: dict[str, Any]) -> None:
        """Restore the output.

        Args:
            session: The session.
            known: The format of the existing master; None if there is none.
            checkpoint: The value of `checkpoint`.
        """
        self.format = known
        self._rate_hz = None if "sample_rate" in session.undecided else session.sample_rate
        self._channels = None if "channels" in session.undecided else session.channels
        self._converters: dict[int, Converter] = {}
        if known is not None:
            # A converter without held frames has no state.
            states: dict[str, dict[str, Any]] = {
                **{source: {} for source in checkpoint.get("runs", {})},
                **checkpoint.get("converters", {}),
            }
            self._converters = {int(source): Converter.restore(known, state) for source, state in states.items()}
        self._runs = {int(source): _Run.restore(state) for source, state in checkpoint.get("runs", {}).items()}
        # The number of sample frames so far, by their original rate.
        self._frames: dict[str, int] = checkpoint.get("frames", {})
        self._faults: list[str] = []

    @property
    def encoding(self) -> str:
        """The encoding of the master; empty before the first sample."""
        return self.format.encoding if self.format else ""

    @property
    def seconds(self) -> float:
        """The length of the input so far."""
        return sum(frames / int(rate_hz) for rate_hz, frames in self._frames.items())

    def put(self, source_id: int, samples: Samples) -> Iterator[bytes]:
        """Yield pieces for the master from samples of a source. The first piece is the header of the master."""
        if self.format is None:
            self.format = self._decided(samples.format)
            yield wav.header(self.format, 0)
        if source_id not in self._converters:
            self._converters[source_id] = Converter(self.format)
        if source_id in self._runs and self._runs[source_id].format != samples.format:
            yield from self._end(source_id)
        run = self._run(source_id, samples.format)
        frames, rate = len(samples.data) // samples.format.frame_bytes, str(samples.format.sample_rate)
        run.taken += frames
        self._frames[rate] = self._frames.get(rate, 0) + frames
        yield from self._counted(run, self._converters[source_id].feed(samples))

    def _decided(self, first: PcmFormat) -> PcmFormat:
        channels = self._channels or min(first.channels, MOST_CHANNELS)
        return PcmFormat(convert.master_encoding(first.encoding), self._rate_hz or first.sample_rate, channels)

    def _run(self, source_id: int, pcm_format: PcmFormat) -> _Run:
        if source_id not in self._runs:
            converter = self._converters[source_id]
            # The frames that a converter holds, and that are not counted yet.
            held = len(converter.tail) // pcm_format.frame_bytes
            self._runs[source_id] = _Run(pcm_format, held, converter.given_frames)
        return self._runs[source_id]

    def _counted(self, run: _Run, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            run.given += len(piece) // self._frame_bytes
            yield piece

    @property
    def _frame_bytes(self) -> int:
        return self.format.frame_bytes if self.format else 1

    def _end(self, source_id: int) -> Iterator[bytes]:
        run = self._runs[source_id]
        yield from self._counted(run, self._converters[source_id].flush())
        self._prove(run, is_over=True)
        del self._runs[source_id]

    def _prove(self, run: _Run, is_over: bool) -> None:
        if self.format is not None and not run.is_balanced(self.format, is_over):
            self._faults.append(
                f"{run.taken} sample frames at {run.format.sample_rate} Hz became {run.given} at"
                f" {self.format.sample_rate} Hz, which is not the same length."
            )

    def flush(self) -> Iterator[bytes]:
        """Yield the samples that the converters still hold."""
        for source_id in list(self._runs):
            yield from self._end(source_id)

    @property
    def is_resampling(self) -> bool:
        """Whether a converter holds samples. Its output then depends on the ends of the windows."""
        return any(converter.state() for converter in self._converters.values())

    def faults(self) -> list[str]:
        """Return the differences since the last call between the sample frames that were received and yielded."""
        for run in self._runs.values():
            self._prove(run, is_over=False)
        faults, self._faults = self._faults, []
        return faults

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the converters that hold samples, and the counts."""
        states = {str(source): converter.state() for source, converter in self._converters.items()}
        return {
            "converters": {source: state for source, state in states.items() if state},
            "runs": {str(source): run.state() for source, run in self._runs.items()},
            "frames": self._frames,
        }


class SampleAssembler(ABC):
    """The base of assemblers with a WAV master: the format of its samples, and their comparison."""

    suffix = "wav"
    untimed_bytes = None

    def __init__(self, session: AudioSession, target: PcmFormat | None, checkpoint: dict[str, Any]) -> None:
        self._session = session
        self.output = PcmOutput(session, target, checkpoint)

    @property
    def format(self) -> PcmFormat | None:
        """The format of the master's samples; None before the first one."""
        return self.output.format

    @property
    def seconds(self) -> float:
        """The length of the samples so far."""
        return self.output.seconds

    def moments(self, offsets: Sequence[int], master: Path) -> list[float]:
        """Return an empty list, because the times of samples are known at once."""
        return []

    @property
    def sample_rate(self) -> int:
        """The sample rate of the master in Hz; 0 before the first sample."""
        return self.format.sample_rate if self.format else 0

    @property
    def channels(self) -> int:
        """The channels of the master; 0 before the first sample."""
        return self.format.channels if self.format else 0

    @abstractmethod
    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield the window's samples as those of the master."""

    def _master_format(self, recording: Recording) -> PcmFormat:
        pcm = downloads.master_format(self._session, recording)
        return pcm if pcm.encoding else replace(pcm, encoding=convert.master_encoding(self._session.encoding))

    def _compare_master(self, windows: Windows, recording: Recording, path: Path, is_exact: bool) -> None:
        """Compare the samples in a WAV file with those of the chunks. The arguments are those of `_compare_samples`."""
        data_bytes = max(0, recording.master_bytes - wav.HEADER_BYTES)
        self._compare_samples(windows, blocks(path, wav.HEADER_BYTES, data_bytes), is_exact)

    def _compare_samples(self, windows: Windows, actual: Iterator[bytes], is_exact: bool) -> None:
        """Compare samples with those of the chunks.

        Args:
            windows: All windows of the session.
            actual: The samples of the recording, in blocks.
            is_exact: Whether to compare the samples, and not only their number. Resampled ones are only counted.

        Raises:
            RecordingDiffersError: The samples differ.
        """
        comparison = Comparison(actual)
        pieces = itertools.chain.from_iterable(self.take(*window) for window in windows)
        # The first piece is the header of the master.
        next(pieces, b"")
        for piece in pieces:
            comparison.expect(piece, is_exact and not self.output.is_resampling)
        comparison.end()
