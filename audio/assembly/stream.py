"""One continuous compressed stream on its way to a recording: its bytes, as they came.

Under WebM, Ogg and MP4 that may be several streams, each with its own header, whose packets fit together: the parts
lie one behind the other in the master, and `compare` looks at each when it is complete. MP3, ADTS and FLAC have their
frames counted, so that their length is known when they end, and what is no frame is said.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol

from audio.assembly.chunks import Chunk, PendingChunk, read
from audio.assembly.losses import Losses, Place
from audio.errors import ChunkDamaged, FfmpegFailed, MediaError, UndecodableChunk
from audio.media import ffmpeg, remux
from audio.media.frames import FlacCounter, FrameCounter
from audio.media.parts import ChunkOffsets, HeaderScanner
from audio.media.plan import Span
from audio.media.remux import Measured
from audio.models import AudioSession
from audio.storage.paths import folder

COUNTED = ("mp3", "aac")
CONTAINERS = ("webm", "ogg", "mp4")
# Of one stream; more are decoded, so that what is carried from window to window stays small.
_MOST_PARTS = 1000


class PartsDifferError(Exception):
    """A stream turned out to be files that do not fit together: it has to be decoded, from its first chunk on."""


class PartFinder(Protocol):
    """What finds the beginnings of parts in a stream that comes in pieces."""

    def feed(self, data: bytes) -> list[int]:
        """Return where parts begin that are known now, as offsets in the stream, in order."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state as JSON."""
        ...


def part_finder(audio_format: str, chunk_mode: str, state: dict[str, Any] | None) -> FrameCounter | HeaderScanner:
    """Return what finds the parts of a format, where it stood if there is a `state`."""
    if audio_format in COUNTED:
        return FrameCounter.restore(state) if state else FrameCounter(audio_format, chunk_mode == "auto")
    return HeaderScanner.restore(state) if state else HeaderScanner(audio_format)


class StreamAssembler:
    """The assembler of one compressed stream. See `audio.assembly.assembler.Assembler`."""

    format = None

    def __init__(self, session: AudioSession, done_to: int, checkpoint: dict[str, Any]) -> None:
        self.looked_to = self.done_to = done_to
        self.suffix = session.format
        self._session_id: uuid.UUID = session.id
        self._finder = part_finder(session.format, session.chunk_mode, checkpoint.get("finder"))
        flac = checkpoint.get("flac")
        self.flac = FlacCounter.restore(flac) if flac else FlacCounter() if session.format == "flac" else None
        self._size_bytes: int = checkpoint.get("size_bytes", 0)
        self._offsets = ChunkOffsets(checkpoint.get("offsets", []))
        # Where each part begins in the master, and with which chunk.
        self._starts: list[list[int]] = checkpoint.get("starts", [[0, 1]])
        self._parameters: str = checkpoint.get("parameters", "")
        self._compared: int = checkpoint.get("compared", 0)
        self._left_out: list[int] = checkpoint.get("left_out", [])
        self._measured: list[list[Any] | None] = checkpoint.get("measured", [])
        self.track: int = checkpoint.get("track", 0)
        # The first and the last chunk of each span that the counter did not recognise.
        self._spans: list[list[int]] = checkpoint.get("spans", [])
        self._gaps = checkpoint.get("gaps", 0)
        self.losses = Losses(**checkpoint.get("losses", {}))

    @property
    def counter(self) -> FrameCounter | None:
        """The frames counted so far; of MP3 and ADTS only."""
        return self._finder if isinstance(self._finder, FrameCounter) else None

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec; of WebM, Ogg and MP4 only."""
        return remux.codec_of(self._parameters)

    @property
    def size_bytes(self) -> int:
        """How many bytes of the stream are in the master."""
        return self._size_bytes

    @property
    def sample_rate(self) -> int:
        """In Hz, as the first header or frame says; 0 while that is not known."""
        counted = self.counter or self.flac
        return counted.sample_rate if counted else remux.rate_of(self._parameters)

    @property
    def channels(self) -> int:
        """As the first header or frame says; 0 while that is not known."""
        counted = self.counter or self.flac
        return counted.channels if counted else remux.channels_of(self._parameters)

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Give the window's bytes.

        Raises:
            PartsDifferError: A part begins that can't follow those before it as it is.
        """
        begin = self._size_bytes
        data = b"".join([self._placed(chunk) for chunk in read(window, self._note_damage)])
        starts = self._finder.feed(data)
        if self.flac is not None:
            self.flac.feed(data)
        if is_last:
            starts += self._finish()
        for start in starts:
            self._begin_part(start)
        self._note_frames(begin, is_last)
        self._offsets.forget_before(self._size_bytes - len(self._finder.held))
        self.looked_to = self.done_to = window[-1].sequence if window else self.done_to
        yield data

    def _placed(self, chunk: Chunk) -> bytes:
        self._offsets.add(self._size_bytes, chunk.sequence)
        self._size_bytes += len(chunk.payload)
        return chunk.payload

    def _finish(self) -> list[int]:
        if self.flac is not None:
            self.flac.finish()
        return self._finder.finish() if isinstance(self._finder, FrameCounter) else []

    def _begin_part(self, start: int) -> None:
        if not start:
            return
        if self.suffix not in CONTAINERS or len(self._starts) == _MOST_PARTS:
            raise PartsDifferError
        self._starts.append([start, self._offsets.at(start)[0]])

    def _note_damage(self, error: ChunkDamaged, size_bytes: int) -> bytes:
        sequence = error.details["sequence"]
        self.losses.lose(error, Place(sequence, sequence, self._seconds, self._seconds))
        return b""

    @property
    def _seconds(self) -> float:
        counted = self.counter or self.flac
        return counted.duration_seconds if counted else 0.0

    def _note_frames(self, begin: int, is_last: bool) -> None:
        """Note what the counters did not recognise, and with which chunks it came; bytes from `begin` on are new."""
        if self.flac is not None:
            self._note_gaps(self.flac)
        counter = self.counter
        if counter is None:
            return
        for span in counter.unrecognised[len(self._spans) :]:
            self._spans.append([self._offsets.at(offset)[0] for offset in (span.start, span.end - 1)])
        if self._spans and counter.unrecognised[-1].end > begin:
            self._spans[-1][1] = self._offsets.at(counter.unrecognised[-1].end - 1)[0]
        if is_last:
            for span, (first, last) in zip(counter.unrecognised, self._spans, strict=True):
                sentence = f"{span.end - span.start} bytes are not {self.suffix} frames. They are kept as they came."
                self.losses.warn("unrecognised_bytes", sentence, Place(first, last, span.seconds, span.seconds))

    def _note_gaps(self, flac: FlacCounter) -> None:
        for gap in flac.gaps[self._gaps :]:
            sequence = self._offsets.at(gap.offset)[0]
            sentence = f"The frame numbers jump by {gap.missing} samples: audio is missing, or a stream was restarted."
            self.losses.warn("gap", sentence, Place(sequence, sequence, gap.seconds, gap.seconds))
        self._gaps = len(flac.gaps)

    def compare(self, master: Path, is_last: bool) -> None:
        """Look at the parts in the master that are complete, all of them if `is_last`.

        Raises:
            PartsDifferError: One does not go with those before it.
        """
        complete = len(self._starts) if is_last else len(self._starts) - 1
        if self.suffix not in CONTAINERS or self._compared >= complete:
            return
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            while self._compared < complete:
                self._compare(self._compared, master, work)
                self._compared += 1

    def _compare(self, number: int, master: Path, work: Path) -> None:
        span = self._span(number)
        try:
            header = remux.header_of(master, span, self.suffix, work)
        except MediaError as error:
            if error.retryable:
                raise
            # The others are copied all the same.
            self._lose(number, UndecodableChunk(error.detail) if isinstance(error, FfmpegFailed) else error)
            return
        if not header.has_packets:
            # A recorder that was stopped before its first sound.
            self._left_out.append(number)
        elif self._parameters and header.parameters != self._parameters:
            raise PartsDifferError
        else:
            self._parameters, self.track = header.parameters, header.track
            self._measure(number, master, work)

    def _measure(self, number: int, master: Path, work: Path) -> None:
        """Measure a part's timeline when it is complete, so that nothing but the copy is left for the close."""
        try:
            measured = remux.measure(master, self._span(number), self.suffix, work, self.track)
        except FfmpegFailed:
            # It can't be read to its end.
            self._measured.append(None)
        else:
            self._measured.append(list(astuple(measured)))
            if measured.damage:
                sentence = f"A part of the stream can't be read and was left out. {measured.damage}"
                self.losses.warn("stream_damaged", sentence, self._place_of(number, self.measured or [measured]))

    @property
    def measured(self) -> list[Measured] | None:
        """The timelines of the parts that `spans` returns; None if one of them can't be read to its end."""
        parts = [Measured(*part) for part in self._measured if part is not None]
        return parts if len(parts) == len(self._measured) else None

    def _lose(self, number: int, error: MediaError) -> None:
        """Leave a part out of the recording, and say so."""
        self.losses.lose(error, self._place_of(number, []))
        self._left_out.append(number)

    def _place_of(self, number: int, measured: Sequence[Measured]) -> Place:
        """Return the place of a part: its chunks, and its seconds if it is the last of those that were measured."""
        first = self._starts[number][1]
        last = self._starts[number + 1][1] - 1 if number + 1 < len(self._starts) else self.looked_to
        if not measured:
            return Place(first, max(first, last), self._seconds, self._seconds)
        start, end = remux.duration_seconds(measured[:-1], self.codec), remux.duration_seconds(measured, self.codec)
        return Place(first, max(first, last), start, end)

    def _span(self, number: int) -> Span:
        end = self._starts[number + 1][0] if number + 1 < len(self._starts) else self._size_bytes
        return Span(self._starts[number][0], end)

    def spans(self) -> list[Span]:
        """Return where the parts that hold packets lie in the master."""
        return [self._span(number) for number in range(len(self._starts)) if number not in self._left_out]

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the counters, and what is known of the parts."""
        return {
            "finder": self._finder.state(),
            "flac": self.flac.state() if self.flac else None,
            "size_bytes": self._size_bytes,
            "offsets": self._offsets.marks,
            "starts": self._starts,
            "parameters": self._parameters,
            "compared": self._compared,
            "left_out": self._left_out,
            "measured": self._measured,
            "track": self.track,
            "spans": self._spans,
            "gaps": self._gaps,
            "losses": self.losses.state(),
        }
