"""The three ways from chunks to a master (`audio.media.plan.Route`), as steps that can stop after any window.

A route takes windows of chunks and gives pieces for the master. What it needs to know for the next window is its
`carry`: JSON, bounded, committed together with the master's length. The same chunks and carry give the same
pieces, so a run that died is simply repeated.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from audio.build.chunks import Waiting, blaming, read
from audio.build.losses import Losses
from audio.errors import UndecodableChunk
from audio.media import convert, wav
from audio.media.convert import Converter
from audio.media.wav import PcmFormat, Samples, WavReader
from audio.models import AudioSession

logger = structlog.stdlib.get_logger(__name__)

_HEAD_BYTES = 1 << 16
_COUNTED = ("mp3", "aac")
_CONTAINERS = ("webm", "ogg", "mp4")
_ONE_SOURCE = 0
# Of one stream; more are decoded, so that what is carried from window to window stays small.
_MOST_PARTS = 1000


class PcmOutput:
    """The samples of several sources, converted to those of one WAV master."""

    def __init__(self, session: AudioSession, target: PcmFormat | None, carry: dict[str, Any]) -> None:
        self._session = session
        self._target = target
        self._converters: dict[int, Converter] = {}
        if target:
            self._converters = {
                int(source): Converter.restore(target, state) for source, state in carry.get("converters", {}).items()
            }

    @property
    def format(self) -> PcmFormat | None:
        """The format of the master's samples, None before the first."""
        return self._target

    @property
    def encoding(self) -> str:
        """The master's encoding, empty before the first sample."""
        return self._target.encoding if self._target else ""

    def put(self, source_id: int, samples: Samples) -> Iterator[bytes]:
        """Takes samples of a source; gives pieces for the master, its header first of all."""
        if self._target is None:
            self._target = _target(self._session, samples.format)
            yield wav.header(self._target, 0)
        if source_id not in self._converters:
            self._converters[source_id] = Converter(self._target)
        yield from self._converters[source_id].feed(samples)

    def flush(self) -> Iterator[bytes]:
        """Gives what the converters still hold."""
        for converter in self._converters.values():
            yield from converter.flush()

    def carry(self) -> dict[str, Any]:
        """Returns the state of the converters that hold something."""
        states = {str(source): converter.state() for source, converter in self._converters.items()}
        return {"converters": {source: state for source, state in states.items() if state}}


def _target(session: AudioSession, first: PcmFormat) -> PcmFormat:
    """Return the master's format: what the client named, else what the first samples have."""
    rate = first.sample_rate if "sample_rate" in session.undecided else session.sample_rate
    channels = min(first.channels, 2) if "channels" in session.undecided else session.channels
    return PcmFormat(convert.master_encoding(first.encoding), rate, channels)


class PcmRoute:
    """Raw PCM and WAV, parsed by us: every message by the reader of its source."""

    suffix = "wav"

    def __init__(self, session: AudioSession, target: PcmFormat | None, done_to: int, carry: dict[str, Any]) -> None:
        self.looked_to = self.done_to = done_to
        self._raw = PcmFormat(session.encoding, session.sample_rate, session.channels)
        self._chunk_mode = session.chunk_mode
        self.losses = Losses(**carry.get("losses", {}))
        self._output = PcmOutput(session, target, carry)
        self._is_without_samples = False
        self._readers = {
            int(source): WavReader.restore(self._raw, self._chunk_mode, state)
            for source, state in carry.get("readers", {}).items()
        }

    @property
    def format(self) -> PcmFormat | None:
        """The format of the master's samples, None before the first."""
        return self._output.format

    @property
    def sample_rate(self) -> int:
        """Of the master's samples, in Hz; 0 before the first."""
        return self.format.sample_rate if self.format else 0

    @property
    def channels(self) -> int:
        """Of the master's samples; 0 before the first."""
        return self.format.channels if self.format else 0

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Gives the window's samples as those of the master."""
        parsed = itertools.groupby(self._parsed(window, is_last), key=lambda entry: (entry[0], entry[1].format))
        for (source_id, pcm_format), run in parsed:
            data = b"".join(samples.data for _, samples in run)
            yield from self._output.put(source_id, Samples(pcm_format, data))
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to
        if is_last:
            if self._is_without_samples and not self.format:
                raise UndecodableChunk("The WAV stream ends before its samples.", sequence=self.done_to)
            yield from self._output.flush()

    def _parsed(self, window: Sequence[Waiting], is_last: bool) -> Iterator[tuple[int, Samples]]:
        for chunk in read(window):
            reader = self._readers.get(chunk.source_id)
            if reader is None:
                reader = self._readers[chunk.source_id] = WavReader(self._raw, self._chunk_mode)
            with blaming(chunk.sequence):
                parsed = reader.feed(chunk.payload)
            for samples in parsed:
                yield chunk.source_id, samples
        if is_last:
            self._is_without_samples = any(reader.is_in_header for reader in self._readers.values())
            for source_id, reader in self._readers.items():
                for samples in reader.flush():
                    yield source_id, samples

    def carry(self) -> dict[str, Any]:
        """Returns the state of every reader, and of the converters."""
        readers = {str(source): reader.state() for source, reader in self._readers.items()}
        return {"readers": readers, "losses": self.losses.state(), **self._output.carry()}
