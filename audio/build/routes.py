"""The three ways from chunks to a master (`audio.media.plan.Route`), as steps that can stop after any window.

A route takes windows of chunks and gives pieces for the master. What it needs to know for the next window is its
`carry`: JSON, bounded, committed together with the master's length. The same chunks and carry give the same
pieces, so a run that died is simply repeated.
"""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
from django.conf import settings

from audio.build.chunks import Waiting, blaming, read, read_range
from audio.build.store import folder, master_format
from audio.errors import FfmpegFailed, MediaLimitExceeded, UndecodableChunk
from audio.media import convert, ffmpeg, frames, pcm, plan, remux, wav
from audio.media.convert import Converter
from audio.media.frames import FrameCounter
from audio.media.plan import Part, Span
from audio.media.wav import PcmFormat, Samples, WavReader
from audio.models import AudioSession
from audio.sniff import id3_size_bytes, starts_part

logger = structlog.stdlib.get_logger(__name__)

_HEAD_BYTES = 1 << 16
_COUNTED = ("mp3", "aac")
_CONTAINERS = ("webm", "ogg", "mp4")
_ONE_SOURCE = 0
# Of one stream; more are decoded, so that what is carried from window to window stays small.
_MOST_PARTS = 1000


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
    """What the recording lacks: how many files; of the first the chunk that it began with, and why."""

    files: int = 0
    sequence: int = 0
    detail: str = ""

    def note(self, error: UndecodableChunk) -> None:
        """Takes the error of one file, with its `sequence`."""
        logger.info("file_undecodable", sequence=error.details["sequence"], error=error.detail)
        if not self.files:
            self.sequence, self.detail = error.details["sequence"], error.detail
        self.files += 1

    @property
    def error(self) -> UndecodableChunk | None:
        """The error of the recording, None if it lacks nothing."""
        if not self.files:
            return None
        others = f" ({self.files} files can't be decoded; this is the first.)" if self.files > 1 else ""
        return UndecodableChunk(self.detail + others, sequence=self.sequence)


class PcmOutput:
    """The samples of several sources, converted to those of one WAV master."""

    def __init__(self, session: AudioSession, encoding: str, carry: dict[str, Any]) -> None:
        self._session = session
        self._target: PcmFormat | None = None
        self._converters: dict[int, Converter] = {}
        if encoding:
            self._target = master_format(session, encoding)
            self._converters = {
                int(source): Converter.restore(self._target, state)
                for source, state in carry.get("converters", {}).items()
            }

    @property
    def encoding(self) -> str:
        """The master's encoding, empty before the first sample."""
        return self._target.encoding if self._target else ""

    def put(self, source_id: int, samples: Samples) -> Iterator[bytes]:
        """Takes samples of a source; gives pieces for the master, its header first of all."""
        if self._target is None:
            self._target = master_format(self._session, convert.master_encoding(samples.format.encoding))
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


class PcmRoute:
    """Raw PCM and WAV, parsed by us: every message by the reader of its source."""

    suffix = "wav"

    def __init__(self, session: AudioSession, encoding: str, done_to: int, carry: dict[str, Any]) -> None:
        self.looked_to = self.done_to = done_to
        self._raw = PcmFormat(session.encoding, session.sample_rate, session.channels)
        self._chunk_mode = session.chunk_mode
        self.undecodable = Undecodable()
        self._output = PcmOutput(session, encoding, carry)
        self._is_without_samples = False
        self._readers = {
            int(source): WavReader.restore(self._raw, self._chunk_mode, state)
            for source, state in carry.get("readers", {}).items()
        }

    @property
    def encoding(self) -> str:
        """The encoding of the master's samples."""
        return self._output.encoding

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Gives the window's samples as those of the master."""
        parsed = itertools.groupby(self._parsed(window, is_last), key=lambda entry: (entry[0], entry[1].format))
        for (source_id, pcm_format), run in parsed:
            data = b"".join(samples.data for _, samples in run)
            yield from self._output.put(source_id, Samples(pcm_format, data))
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to
        if is_last:
            if self._is_without_samples and not self.encoding:
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
        return {"readers": readers, **self._output.carry()}


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

    def __init__(self, session: AudioSession, encoding: str, done_to: int, carry: dict[str, Any]) -> None:
        self.done_to = done_to
        self.looked_to: int = carry.get("looked_to", done_to)
        self._session_id: uuid.UUID = session.id
        self._format = session.format
        self._chunk_mode = session.chunk_mode
        self._output = PcmOutput(session, encoding, carry)
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


def restore(session: AudioSession, encoding: str, done_to: int, carry: dict[str, Any]) -> Route:
    """Takes a session and the committed state of its concatenation; returns the route where it stood."""
    match plan.Route(carry.get("route") or plan.route(session.format, session.chunk_mode)):
        case plan.Route.PCM:
            return PcmRoute(session, encoding, done_to, carry)
        case plan.Route.STREAM:
            return StreamRoute(session, done_to, carry)
        case plan.Route.FILES:
            return FilesRoute(session, encoding, done_to, carry)


def name_of(route: Route) -> plan.Route:
    """Returns the name under which `restore` finds the route again."""
    match route:
        case PcmRoute():
            return plan.Route.PCM
        case FilesRoute():
            return plan.Route.FILES
        case _:
            return plan.Route.STREAM
