"""Raw PCM and WAV on their way to a recording: the samples of several sources, converted to those of one WAV master."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from audio.assembly.chunks import Chunk, PendingChunk, read
from audio.assembly.losses import Losses, Place
from audio.errors import ChunkDamaged
from audio.media import convert, wav
from audio.media.convert import Converter
from audio.media.wav import Fault, PcmFormat, Samples, WavReader
from audio.models import AudioSession

logger = structlog.stdlib.get_logger(__name__)

_MOST_CHANNELS = 2
# By so many frames the resampler's output may be longer or shorter than its input, whatever its length.
_RESAMPLER_FRAMES = 2
_SILENCE = {"u8": b"\x80", "mulaw": b"\xff", "alaw": b"\xd5"}
_UNACCOUNTED = "audio_unaccounted"


@dataclass(slots=True)
class _Run:
    """Samples of one format that came of a source in a row: how many frames came, and how many were given for them."""

    format: PcmFormat
    taken: int = 0
    given: int = 0

    def state(self) -> list[Any]:
        return [self.format.encoding, self.format.sample_rate, self.format.channels, self.taken, self.given]

    @classmethod
    def restore(cls, state: list[Any]) -> "_Run":
        return cls(PcmFormat(*state[:3]), *state[3:])

    def is_balanced(self, target: PcmFormat, is_over: bool) -> bool:
        """Whether as many frames were given as came: exactly, or when it is over within a frame of the resampler."""
        if self.format.sample_rate == target.sample_rate:
            return self.taken == self.given
        expected = self.taken * target.sample_rate / self.format.sample_rate
        return not is_over or abs(self.given - expected) <= _RESAMPLER_FRAMES


class PcmOutput:
    """The samples of several sources, converted to those of one WAV master.

    The master has the session's rate and channels; what the session leaves undecided is that of the first samples,
    with two channels at most. Its encoding is that of the first samples.
    """

    def __init__(self, session: AudioSession, known: PcmFormat | None, checkpoint: dict[str, Any]) -> None:
        """Restore the output.

        Args:
            session: The session.
            known: The format of the master that is there, None while there is none.
            checkpoint: What `checkpoint` returned.
        """
        self.format = known
        self._rate_hz = None if "sample_rate" in session.undecided else session.sample_rate
        self._channels = None if "channels" in session.undecided else session.channels
        self._converters: dict[int, Converter] = {}
        if known is not None:
            # One that holds nothing has no state.
            states: dict[str, dict[str, Any]] = {
                **{source: {} for source in checkpoint.get("runs", {})},
                **checkpoint.get("converters", {}),
            }
            self._converters = {int(source): Converter.restore(known, state) for source, state in states.items()}
        self._runs = {int(source): _Run.restore(state) for source, state in checkpoint.get("runs", {}).items()}
        # Sample frames so far, by the rate at which they came.
        self._frames: dict[str, int] = checkpoint.get("frames", {})
        self._faults: list[str] = []

    @property
    def encoding(self) -> str:
        """The master's encoding, empty before the first sample."""
        return self.format.encoding if self.format else ""

    @property
    def seconds(self) -> float:
        """The length of what was put in so far."""
        return sum(frames / int(rate_hz) for rate_hz, frames in self._frames.items())

    def put(self, source_id: int, samples: Samples) -> Iterator[bytes]:
        """Give pieces for the master from samples of a source, the master's header first of all."""
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
        channels = self._channels or min(first.channels, _MOST_CHANNELS)
        return PcmFormat(convert.master_encoding(first.encoding), self._rate_hz or first.sample_rate, channels)

    def _run(self, source_id: int, pcm_format: PcmFormat) -> _Run:
        if source_id not in self._runs:
            converter = self._converters[source_id]
            # What a converter holds of a run that nobody has counted yet.
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
        """Give what the converters still hold."""
        for source_id in list(self._runs):
            yield from self._end(source_id)

    def faults(self) -> list[str]:
        """Return what does not add up since the last call: sample frames that were put in against those given."""
        for run in self._runs.values():
            self._prove(run, is_over=False)
        faults, self._faults = self._faults, []
        return faults

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the converters that hold something, and the counts."""
        states = {str(source): converter.state() for source, converter in self._converters.items()}
        return {
            "converters": {source: state for source, state in states.items() if state},
            "runs": {str(source): run.state() for source, run in self._runs.items()},
            "frames": self._frames,
        }


class SampleAssembler:
    """A route to a WAV master, and the format of its samples."""

    suffix = "wav"

    def __init__(self, output: PcmOutput) -> None:
        self.output = output

    @property
    def format(self) -> PcmFormat | None:
        """The format of the master's samples, None before the first."""
        return self.output.format

    @property
    def sample_rate(self) -> int:
        """Of the master's samples, in Hz; 0 before the first."""
        return self.format.sample_rate if self.format else 0

    @property
    def channels(self) -> int:
        """Of the master's samples; 0 before the first."""
        return self.format.channels if self.format else 0


class PcmAssembler(SampleAssembler):
    """Raw PCM and WAV, parsed by us: every message by the reader of its source.

    A file that can't be decoded is left out and noted, and what follows it is recorded.
    """

    def __init__(
        self, session: AudioSession, known: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        self.looked_to = self.done_to = done_to
        self._undecided: list[str] = session.undecided
        self._chunk_mode = session.chunk_mode
        self._raw = PcmFormat(session.encoding, session.sample_rate, session.channels)
        self._readers: dict[int, WavReader] = {}
        self._is_decided = known is not None
        if known is not None:
            self._decide(known)
        self.losses = Losses(**checkpoint.get("losses", {}))
        # Damaged chunks that are not noted yet, and how much silence takes their place.
        self._damaged: list[Fault] = []
        self._silent_seconds: dict[int, float] = {}
        super().__init__(PcmOutput(session, known, checkpoint))
        for source, state in checkpoint.get("readers", {}).items():
            self._readers[int(source)] = WavReader.restore(self._raw, self._chunk_mode, state)

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Give the window's samples as those of the master."""
        entries = itertools.groupby(self._parsed(window, is_last), key=_kind)
        for (source_id, pcm_format), run in entries:
            if pcm_format is None:
                self._note(fault for _, fault in run if isinstance(fault, Fault))
                continue
            data = b"".join(samples.data for _, samples in run if isinstance(samples, Samples))
            yield from self.output.put(source_id, Samples(pcm_format, data))
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to
        if is_last:
            yield from self.output.flush()
        for sentence in self.output.faults():
            self._warn_unaccounted(sentence)

    def _note(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            place = self._place(fault.first_sequence, fault.last_sequence)
            if not fault.is_new:
                self.losses.extend(fault.code, fault.first_sequence, fault.last_sequence)
            elif fault.error is not None:
                silent_seconds = self._silent_seconds.pop(fault.first_sequence, 0.0)
                self.losses.lose(fault.error, replace(place, end_seconds=place.start_seconds + silent_seconds))
            else:
                self.losses.warn(fault.code, fault.detail, place)

    def _place(self, first_sequence: int, last_sequence: int) -> Place:
        return Place(first_sequence, last_sequence, self.output.seconds, self.output.seconds)

    def _note_damage(self, error: ChunkDamaged, size_bytes: int) -> bytes:
        """Note a damaged chunk; return as much silence, so that what follows stays at its moment, and whole."""
        sequence = error.details["sequence"]
        self._damaged.append(Fault(error, error.code, error.detail, sequence, sequence))
        self._silent_seconds[sequence] = size_bytes / self._raw.frame_bytes / self._raw.sample_rate
        return size_bytes * _SILENCE.get(self._raw.encoding, b"\0")

    def _warn_unaccounted(self, sentence: str) -> None:
        logger.error("audio_unaccounted", detail=sentence, sequence=self.done_to)
        self.losses.warn(_UNACCOUNTED, sentence, self._place(self.done_to, self.done_to))

    def _parsed(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[tuple[int, Samples | Fault]]:
        for chunk in read(window, self._note_damage):
            reader = self._readers.get(chunk.source_id)
            if reader is None:
                reader = self._readers[chunk.source_id] = WavReader(self._raw, self._chunk_mode)
            for source_id, other in self._readers.items():
                if other is not reader and other.held:
                    yield from self._given(source_id, other.interrupt())
            damaged, self._damaged = self._damaged, []
            yield from self._given(chunk.source_id, damaged)
            yield from self._given(chunk.source_id, self._read(reader, chunk))
        if is_last:
            for source_id, reader in self._readers.items():
                yield from self._given(source_id, reader.finish())

    def _read(self, reader: WavReader, chunk: Chunk) -> list[Samples | Fault]:
        before = reader.fed_bytes
        entries = reader.read(chunk.payload, chunk.sequence)
        if reader.fed_bytes - before != len(chunk.payload):
            self._warn_unaccounted(f"{reader.fed_bytes - before} of {len(chunk.payload)} bytes are accounted for.")
        return entries

    def _given(self, source_id: int, entries: Iterable[Samples | Fault]) -> Iterator[tuple[int, Samples | Fault]]:
        for entry in entries:
            if not self._is_decided and isinstance(entry, Samples):
                self._is_decided = True
                self._decide(entry.format)
            yield source_id, entry

    def _decide(self, first: PcmFormat) -> None:
        """Headerless PCM has the master's rate and channels, where the first samples decided these."""
        raw = self._raw
        rate_hz = first.sample_rate if "sample_rate" in self._undecided else raw.sample_rate
        channels = min(first.channels, _MOST_CHANNELS) if "channels" in self._undecided else raw.channels
        self._raw = PcmFormat(raw.encoding, rate_hz, channels)
        for reader in self._readers.values():
            reader.raw = self._raw

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of every reader and of the converters, and what is noted."""
        readers = {str(source): reader.state() for source, reader in self._readers.items()}
        return {"readers": readers, "losses": self.losses.state(), **self.output.checkpoint()}


def _kind(entry: tuple[int, Samples | Fault]) -> tuple[int, PcmFormat | None]:
    """Return the source and the format of samples, None of a fault."""
    source_id, item = entry
    return source_id, item.format if isinstance(item, Samples) else None
