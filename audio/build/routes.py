"""The three ways from chunks to a master (`audio.media.plan.Route`), as steps that can stop after any window.

A route takes windows of chunks and gives pieces for the master. What it needs to know for the next window is its
`carry`: JSON, bounded, committed together with the master's length. The same chunks and carry give the same
pieces, so a run that died is simply repeated.
"""

import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from django.conf import settings

from audio.build.chunks import Chunk, Waiting, read, read_range
from audio.build.store import folder
from audio.errors import FfmpegFailed, MediaError, MediaLimitExceeded, UndecodableChunk, UnsupportedMedia
from audio.media import convert, ffmpeg, frames, pcm, plan, remux, wav
from audio.media.convert import Converter
from audio.media.frames import FrameCounter
from audio.media.plan import Part, Span
from audio.media.wav import Fault, PcmFormat, Samples, WavReader
from audio.models import AudioSession
from audio.sniff import id3_size_bytes, starts_part

logger = structlog.stdlib.get_logger(__name__)

_HEAD_BYTES = 1 << 16
_COUNTED = ("mp3", "aac")
_CONTAINERS = ("webm", "ogg", "mp4")
_ONE_SOURCE = 0
# Of one stream; more are decoded, so that what is carried from window to window stays small.
_MOST_PARTS = 1000
_MOST_ENTRIES = 100
_MOST_CHANNELS = 2
# By so many frames the resampler's output may be longer or shorter than its input, whatever its length.
_RESAMPLER_FRAMES = 2
_UNACCOUNTED = "audio_unaccounted"


class SecondPart(Exception):
    """A stream turned out to be files that do not fit together: it has to be decoded, from its first chunk on."""


class Route(Protocol):
    """What concatenation asks of a route.

    `looked_to` is the last sequence that it has seen, `done_to` the last whose audio is in the master, `encoding`
    that of the master's samples, empty for a stream; `undecodable` tells what the master lacks.
    """

    looked_to: int
    done_to: int
    undecodable: "Undecodable"

    @property
    def encoding(self) -> str:
        """The encoding of a WAV master's samples, empty while unknown and for a stream."""
        ...

    @property
    def suffix(self) -> str:
        """The suffix of the master's name."""
        ...

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Takes the next window, empty perhaps; gives pieces for the master. `is_last`: nothing follows it."""
        ...

    def carry(self) -> dict[str, Any]:
        """Returns what the next window needs."""
        ...


@dataclass(slots=True)
class Undecodable:
    """What came and is not in the recording as it came.

    Attributes:
        files: How many files or parts can't be decoded.
        sequence: The chunk that the first of them began with.
        detail: Why the first can't be decoded.
        code: The code of that error.
        entries: These files and lesser warnings, with code, detail, chunks, and where in the recording's timeline
            they are missing. Only the first 100.
        omitted: How many more there are.
    """

    files: int = 0
    sequence: int = 0
    detail: str = ""
    code: str = UndecodableChunk.code
    entries: list[dict[str, Any]] = field(default_factory=list)
    omitted: int = 0

    def note(self, error: MediaError, last_sequence: int | None = None, at_seconds: float = 0.0) -> None:
        """Count a file or part that can't be decoded.

        Args:
            error: Why, with the `sequence` of its first chunk.
            last_sequence: The last chunk of it so far, the first where none is named.
            at_seconds: Where in the recording it is missing.
        """
        first = error.details["sequence"]
        logger.info("file_undecodable", sequence=first, code=error.code, error=error.detail)
        if not self.files:
            self.sequence, self.detail, self.code = first, error.detail, error.code
        self.files += 1
        self.warn(error.code, error.detail, first, first if last_sequence is None else last_sequence, at_seconds)

    def warn(self, code: str, detail: str, first_sequence: int, last_sequence: int, at_seconds: float) -> None:
        """Add an entry that makes no file of itself undecodable."""
        if len(self.entries) == _MOST_ENTRIES:
            self.omitted += 1
            return
        self.entries.append(
            {
                "code": code,
                "detail": detail,
                "first_sequence": first_sequence,
                "last_sequence": last_sequence,
                "start_seconds": at_seconds,
                "end_seconds": at_seconds,
            }
        )

    def extend(self, code: str, first_sequence: int, last_sequence: int) -> None:
        """Tell that what began with `first_sequence` goes on up to `last_sequence`."""
        for entry in reversed(self.entries):
            if (entry["code"], entry["first_sequence"]) == (code, first_sequence):
                entry["last_sequence"] = max(entry["last_sequence"], last_sequence)
                return

    @property
    def error(self) -> MediaError | None:
        """The error of the recording, None if all of it could be decoded."""
        if not self.files:
            return None
        others = f" ({self.files} files can't be decoded; this is the first.)" if self.files > 1 else ""
        kind = UnsupportedMedia if self.code == UnsupportedMedia.code else UndecodableChunk
        return kind(self.detail + others, sequence=self.sequence)


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

    def __init__(self, session: AudioSession, known: PcmFormat | None, carry: dict[str, Any]) -> None:
        """Restore the output.

        Args:
            session: The session.
            known: The format of the master that is there, None while there is none.
            carry: What `carry` returned.
        """
        self.format = known
        self._rate_hz = None if "sample_rate" in session.undecided else session.sample_rate
        self._channels = None if "channels" in session.undecided else session.channels
        self._converters: dict[int, Converter] = {}
        if known is not None:
            # One that holds nothing has no state.
            states: dict[str, dict[str, Any]] = {
                **{source: {} for source in carry.get("runs", {})},
                **carry.get("converters", {}),
            }
            self._converters = {int(source): Converter.restore(known, state) for source, state in states.items()}
        self._runs = {int(source): _Run.restore(state) for source, state in carry.get("runs", {}).items()}
        # Sample frames so far, by the rate at which they came.
        self._frames: dict[str, int] = carry.get("frames", {})
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
                f"Of {run.taken} sample frames at {run.format.sample_rate} Hz {run.given} were recorded"
                f" at {self.format.sample_rate} Hz: these are not the same."
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

    def carry(self) -> dict[str, Any]:
        """Return the state of the converters that hold something, and the counts."""
        states = {str(source): converter.state() for source, converter in self._converters.items()}
        return {
            "converters": {source: state for source, state in states.items() if state},
            "runs": {str(source): run.state() for source, run in self._runs.items()},
            "frames": self._frames,
        }


class PcmRoute:
    """Raw PCM and WAV, parsed by us: every message by the reader of its source.

    A file that can't be decoded is left out and noted, and what follows it is recorded.
    """

    suffix = "wav"

    def __init__(self, session: AudioSession, known: PcmFormat | None, done_to: int, carry: dict[str, Any]) -> None:
        self.looked_to = self.done_to = done_to
        self._undecided: list[str] = session.undecided
        self._chunk_mode = session.chunk_mode
        self._raw = PcmFormat(session.encoding, session.sample_rate, session.channels)
        self._readers: dict[int, WavReader] = {}
        self._is_decided = known is not None
        if known is not None:
            self._decide(known)
        self.undecodable = Undecodable(**carry.get("undecodable", {}))
        self.output = PcmOutput(session, known, carry)
        for source, state in carry.get("readers", {}).items():
            self._readers[int(source)] = WavReader.restore(self._raw, self._chunk_mode, state)

    @property
    def encoding(self) -> str:
        """The encoding of the master's samples."""
        return self.output.encoding

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
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
            if self.output.format is None and self.undecodable.error is not None:
                raise self.undecodable.error
            yield from self.output.flush()
        for sentence in self.output.faults():
            self._warn_unaccounted(sentence)

    def _note(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if not fault.is_new:
                self.undecodable.extend(fault.code, fault.first_sequence, fault.last_sequence)
            elif fault.error is not None:
                self.undecodable.note(fault.error, fault.last_sequence, self.output.seconds)
            else:
                place = (fault.first_sequence, fault.last_sequence, self.output.seconds)
                self.undecodable.warn(fault.code, fault.detail, *place)

    def _warn_unaccounted(self, sentence: str) -> None:
        logger.error("audio_unaccounted", detail=sentence, sequence=self.done_to)
        self.undecodable.warn(_UNACCOUNTED, sentence, self.done_to, self.done_to, self.output.seconds)

    def _parsed(self, window: Sequence[Waiting], is_last: bool) -> Iterator[tuple[int, Samples | Fault]]:
        for chunk in read(window):
            reader = self._readers.get(chunk.source_id)
            if reader is None:
                reader = self._readers[chunk.source_id] = WavReader(self._raw, self._chunk_mode)
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

    def carry(self) -> dict[str, Any]:
        """Return the state of every reader and of the converters, and what is noted."""
        readers = {str(source): reader.state() for source, reader in self._readers.items()}
        return {"readers": readers, "undecodable": asdict(self.undecodable), **self.output.carry()}


def _kind(entry: tuple[int, Samples | Fault]) -> tuple[int, PcmFormat | None]:
    """Return the source and the format of samples, None of a fault."""
    source_id, item = entry
    return source_id, item.format if isinstance(item, Samples) else None


class StreamRoute:
    """One continuous compressed stream: its bytes, as they came.

    Under WebM, Ogg and MP4 that may be several streams, each with its own header, whose packets fit together: the
    parts lie one behind the other in the master, and `compare` looks at each when it is complete.
    """

    encoding = ""

    def __init__(self, session: AudioSession, done_to: int, carry: dict[str, Any]) -> None:
        self.looked_to = self.done_to = done_to
        self.suffix = session.format
        self._session_id: uuid.UUID = session.id
        self._chunk_mode = session.chunk_mode
        state = carry.get("counter")
        self._counter = FrameCounter.restore(state) if state else FrameCounter(session.format)
        self._has_begun = bool(done_to) and session.format not in _COUNTED
        self._size_bytes: int = carry.get("size_bytes", 0)
        # Where each part begins in the master, and with which chunk.
        self._starts: list[list[int]] = carry.get("starts", [[0, 1]])
        self._parameters: str = carry.get("parameters", "")
        self._compared: int = carry.get("compared", 0)
        self._left_out: list[int] = carry.get("left_out", [])
        self.undecodable = Undecodable(**carry.get("undecodable", {}))

    @property
    def counter(self) -> FrameCounter:
        """The frames counted so far; of MP3 and ADTS only."""
        return self._counter

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec; of WebM, Ogg and MP4 only."""
        return remux.codec_of(self._parameters)

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Gives the window's bytes; raises SecondPart if a file begins where one has begun before and can't follow."""
        uncounted: list[bytes] = []
        for chunk in read(window):
            if starts_part(self.suffix, self._chunk_mode, chunk.payload):
                yield self._count(uncounted)
                uncounted = []
                if self._has_begun or self._counter.has_begun:
                    self._begin_part(chunk.sequence)
            self._has_begun = self.suffix not in _COUNTED
            uncounted.append(chunk.payload)
        yield self._count(uncounted)
        if is_last:
            self._counter.finish()
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to

    def _begin_part(self, sequence: int) -> None:
        if self.suffix not in _CONTAINERS or len(self._starts) == _MOST_PARTS:
            raise SecondPart
        self._starts.append([self._size_bytes, sequence])

    def _count(self, payloads: Sequence[bytes]) -> bytes:
        data = b"".join(payloads)
        self._size_bytes += len(data)
        if self.suffix in _COUNTED:
            self._counter.feed(data)
        return data

    def compare(self, master: Path, is_last: bool) -> None:
        """Looks at the parts in the master that are complete, all of them if `is_last`.

        Raises SecondPart if one does not go with those before it.
        """
        complete = len(self._starts) if is_last else len(self._starts) - 1
        if self.suffix not in _CONTAINERS or self._compared >= complete:
            return
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            while self._compared < complete:
                self._compare(self._compared, master, work)
                self._compared += 1

    def _compare(self, number: int, master: Path, work: Path) -> None:
        try:
            header = remux.header_of(master, self._span(number), self.suffix, work)
        except FfmpegFailed as error:
            # The others are copied all the same.
            self.undecodable.note(UndecodableChunk(error.detail, sequence=self._starts[number][1]))
            self._left_out.append(number)
            return
        if not header.has_packets:
            # A recorder that was stopped before its first sound.
            self._left_out.append(number)
        elif self._parameters and header.parameters != self._parameters:
            raise SecondPart
        else:
            self._parameters = header.parameters

    def _span(self, number: int) -> Span:
        end = self._starts[number + 1][0] if number + 1 < len(self._starts) else self._size_bytes
        return Span(self._starts[number][0], end)

    def spans(self) -> list[Span]:
        """Returns where the parts that hold packets lie in the master."""
        return [self._span(number) for number in range(len(self._starts)) if number not in self._left_out]

    def carry(self) -> dict[str, Any]:
        """Returns the state of the counter, and what is known of the parts."""
        return {
            "counter": self._counter.state(),
            "size_bytes": self._size_bytes,
            "starts": self._starts,
            "parameters": self._parameters,
            "compared": self._compared,
            "left_out": self._left_out,
            "undecodable": asdict(self.undecodable),
        }


class FilesRoute:
    """Complete files, of one chunk each or of several: decoded, window by window, once their end is known.

    Of a file that can't be decoded what came before the damage is kept, and the files behind it follow.
    """

    suffix = "wav"

    def __init__(self, session: AudioSession, known: PcmFormat | None, done_to: int, carry: dict[str, Any]) -> None:
        self.done_to = done_to
        self.looked_to: int = carry.get("looked_to", done_to)
        self._session_id: uuid.UUID = session.id
        self._format = session.format
        self._chunk_mode = session.chunk_mode
        self._output = PcmOutput(session, known, carry)
        # Of audio, in all files so far.
        self._seconds: float = carry.get("seconds", 0.0)
        # The part whose end is not known yet: its size, that of the ID3 tag that it began with, and its payloads
        # if all of them are of this window.
        self._open_bytes: int = carry.get("open_bytes", 0)
        self._tag_bytes: int = carry.get("tag_bytes", 0)
        self._payloads: list[bytes] | None = None if self._open_bytes else []
        self.undecodable = Undecodable(**carry.get("undecodable", {}))

    @property
    def encoding(self) -> str:
        """The encoding of the master's samples."""
        return self._output.encoding

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Gives the samples of the files that are complete."""
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            for parts in self._batches(window, is_last, work):
                yield from self._kept(parts, work)
        if is_last:
            yield from self._output.flush()
        # A part that goes on is read again when it is complete.
        self._payloads = None if self._open_bytes else []

    def _kept(self, parts: Sequence[Part], work: Path) -> Iterator[bytes]:
        """Gives what can be decoded of the files; notes the others."""
        while parts:
            try:
                for samples in self._decoded(parts, work):
                    self._count(samples, parts[0])
                    yield from self._output.put(_ONE_SOURCE, samples)
                return
            except UndecodableChunk as error:
                self.undecodable.note(error)
                parts = [part for part in parts if part.first_sequence > error.details["sequence"]]

    def _count(self, samples: Samples, part: Part) -> None:
        """A small file can hold weeks of silence, so what files become is bounded as what is recorded live is; twice
        that, for the padding that files carry."""
        self._seconds += len(samples.data) / samples.format.frame_bytes / samples.format.sample_rate
        if self._seconds > 2 * 3600 * settings.MAX_SESSION_DURATION_HOURS:
            sentence = f"The files up to this one hold {self._seconds:.0f} s of audio, more than a session may."
            raise MediaLimitExceeded(sentence, sequence=part.first_sequence)

    def _decoded(self, parts: Sequence[Part], work: Path) -> Iterator[Samples]:
        if len(parts) == 1 and not parts[0].data:
            name = f"{parts[0].first_sequence}.{self._format}"
            yield from pcm.stream(work / name, parts[0], self._format, work)
            (work / name).unlink()
        else:
            yield from pcm.decode(parts, self._format, work)

    def _batches(self, window: Sequence[Waiting], is_last: bool, work: Path) -> Iterator[list[Part]]:
        """Gives the complete parts by the run of FFmpeg; a large one is alone, in a file, and without `data`."""
        small: list[Part] = []
        for part in self._parts(window, is_last, work):
            if part.data:
                small.append(part)
                continue
            yield from plan.windows(small)
            small = []
            yield [part]
        yield from plan.windows(small)

    def _parts(self, window: Sequence[Waiting], is_last: bool, work: Path) -> Iterator[Part]:
        for chunk in read(window):
            is_start = starts_part(self._format, self._chunk_mode, chunk.payload)
            if is_start and self._open_bytes and self._open_bytes != self._tag_bytes:
                yield self._close(work)
            if not self._open_bytes:
                self._tag_bytes = id3_size_bytes(chunk.payload)
            self._open_bytes += len(chunk.payload)
            if self._payloads is not None:
                self._payloads.append(chunk.payload)
            self.looked_to = chunk.sequence
        if self._open_bytes and (is_last or self._chunk_mode == "files"):
            yield self._close(work)

    def _close(self, work: Path) -> Part:
        """Ends the open part and returns it."""
        first, last, size, payloads = self.done_to + 1, self.looked_to, self._open_bytes, self._payloads
        self.done_to, self._open_bytes, self._tag_bytes, self._payloads = last, 0, 0, []
        if size > plan.WINDOW_BYTES and payloads is None:
            return self._spooled(first, last, work)
        if payloads is None:
            payloads = [chunk.payload for chunk in read_range(self._session_id, first, last)]
        data = b"".join(payloads)
        return Part(first, last, data, frames.describe(self._format, data))

    def _spooled(self, first: int, last: int, work: Path) -> Part:
        path, head = work / f"{first}.{self._format}", b""
        with path.open("wb") as file:
            for chunk in read_range(self._session_id, first, last):
                head += chunk.payload[: max(0, _HEAD_BYTES - len(head))]
                file.write(chunk.payload)
        return Part(first, last, b"", frames.describe(self._format, head))

    def carry(self) -> dict[str, Any]:
        """Returns how far it looked, what it knows of the open part, and the state of the converter."""
        return {
            "looked_to": self.looked_to,
            "open_bytes": self._open_bytes,
            "tag_bytes": self._tag_bytes,
            "seconds": self._seconds,
            "undecodable": asdict(self.undecodable),
            **self._output.carry(),
        }


def restore(session: AudioSession, known: PcmFormat | None, done_to: int, carry: dict[str, Any]) -> Route:
    """Return the route of a session where it stood.

    Args:
        session: The session.
        known: The format of its WAV master, None while there is none.
        done_to: The last chunk whose audio is in the master.
        carry: The committed state of its concatenation.
    """
    match plan.Route(carry.get("route") or plan.route(session.format, session.chunk_mode)):
        case plan.Route.PCM:
            return PcmRoute(session, known, done_to, carry)
        case plan.Route.STREAM:
            return StreamRoute(session, done_to, carry)
        case plan.Route.FILES:
            return FilesRoute(session, known, done_to, carry)


def name_of(route: Route) -> plan.Route:
    """Returns the name under which `restore` finds the route again."""
    match route:
        case PcmRoute():
            return plan.Route.PCM
        case FilesRoute():
            return plan.Route.FILES
        case _:
            return plan.Route.STREAM
