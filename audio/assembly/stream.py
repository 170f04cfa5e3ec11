"""The family of continuous compressed streams, whose bytes are copied.

The frames of MP3, ADTS and FLAC are counted, so that the length is known at the end. Bytes that are no frames get a
warning. The master becomes the recording: only the counts in its header are corrected.

A session of WebM, Ogg or MP4 may consist of several parts, each with its own header, whose packets fit together. The
master contains the parts one after the other, and `examine` checks each when it is complete. At the end their packets
are copied into one file, which needs an index.
"""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, ClassVar

import structlog

from audio.assembly.assembler import OnProgress, PartsDifferError, Windows
from audio.assembly.chunks import Chunk, PendingChunk, read
from audio.assembly.comparison import Comparison, ReadyRecording, RecordingDiffersError, blocks
from audio.assembly.losses import Losses, Place
from audio.assembly.made import Made, beside, name_of, no_audio
from audio.assembly.master import Master
from audio.errors import ChunkDamagedError, FfmpegFailedError, MasterDamagedError, MediaError, UndecodableChunkError
from audio.media import ffmpeg, frames, plan, remux
from audio.media.frames import FlacCounter, FrameCounter
from audio.media.parts import ChunkOffsets, part_finder
from audio.media.plan import CONTAINERS, Family, Span
from audio.media.remux import Measured
from audio.media.samples import PcmFormat
from audio.models import AudioSession, Recording
from audio.storage.paths import folder

logger = structlog.stdlib.get_logger(__name__)

# Of one stream; more are decoded, so that what is carried from window to window stays small.
_MOST_PARTS = 1000
_MOST_FRAME_BYTES = 1 << 18
# What an encoder puts behind its last sound stays at a joint: the packets of its last page move by less than one.
_MOST_DISPLACED_SECONDS = 0.1


class StreamAssembler:
    """The assembler of one compressed stream."""

    family: ClassVar[Family] = Family.STREAM
    format = None

    def __init__(
        self, session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        self._session = session
        self.looked_to = self.done_to = done_to
        self.suffix = session.format
        self._session_id: uuid.UUID = session.id
        self._finder = part_finder(session.format, session.chunk_mode, checkpoint.get("finder"))
        flac = checkpoint.get("flac")
        self._flac = FlacCounter.restore(flac) if flac else FlacCounter() if session.format == "flac" else None
        self._size_bytes: int = checkpoint.get("size_bytes", 0)
        self._offsets = ChunkOffsets(checkpoint.get("offsets", []))
        # Where each part begins in the master, and with which chunk.
        self._starts: list[list[int]] = checkpoint.get("starts", [[0, 1]])
        self._parameters: str = checkpoint.get("parameters", "")
        self._compared: int = checkpoint.get("compared", 0)
        self._left_out: list[int] = checkpoint.get("left_out", [])
        self._measured: list[list[Any] | None] = checkpoint.get("measured", [])
        self._track: int = checkpoint.get("track", 0)
        # The first and the last chunk of each span that the counter did not recognise.
        self._spans: list[list[int]] = checkpoint.get("spans", [])
        self._gaps = checkpoint.get("gaps", 0)
        self.losses = Losses(**checkpoint.get("losses", {}))

    @property
    def _counter(self) -> FrameCounter | None:
        """The frames counted so far; of MP3 and ADTS only."""
        return self._finder if isinstance(self._finder, FrameCounter) else None

    @property
    def _codec(self) -> str:
        """FFmpeg's name of the codec; of WebM, Ogg and MP4 only."""
        return remux.codec_of(self._parameters)

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz, as the first header or frame says; 0 while that is not known."""
        counted = self._counter or self._flac
        return counted.sample_rate if counted else remux.rate_of(self._parameters)

    @property
    def channels(self) -> int:
        """The channels, as the first header or frame says; 0 while that is not known."""
        counted = self._counter or self._flac
        return counted.channels if counted else remux.channels_of(self._parameters)

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield the window's bytes.

        Raises:
            PartsDifferError: A part begins that can't follow those before it as it is.
        """
        begin = self._size_bytes
        data = b"".join([self._placed(chunk) for chunk in read(window, self._note_damage)])
        starts = self._finder.feed(data)
        if self._flac is not None:
            self._flac.feed(data)
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
        if self._flac is not None:
            self._flac.finish()
        return self._finder.finish() if isinstance(self._finder, FrameCounter) else []

    def _begin_part(self, start: int) -> None:
        if not start:
            return
        if self.suffix not in CONTAINERS or len(self._starts) == _MOST_PARTS:
            raise PartsDifferError
        self._starts.append([start, self._offsets.at(start)[0]])

    def _note_damage(self, error: ChunkDamagedError, size_bytes: int) -> bytes:
        sequence = error.details["sequence"]
        self.losses.lose(error, Place(sequence, sequence, self.seconds, self.seconds))
        return b""

    @property
    def seconds(self) -> float:
        """The length of the frames counted so far; 0 in a container."""
        counted = self._counter or self._flac
        return counted.duration_seconds if counted else 0.0

    @property
    def untimed_bytes(self) -> int | None:
        """The length of the stream so far, in a container; otherwise None."""
        return self._size_bytes if self.suffix in CONTAINERS else None

    def moments(self, offsets: Sequence[int], master: Path) -> list[float]:
        """Return when in the recording the first packets begin that came behind these lengths of a container."""
        copied = (self._track, self._codec, self._timelines or [])
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            return remux.moments(master, self._kept_spans(), self.suffix, work, offsets, copied)

    def _note_frames(self, begin: int, is_last: bool) -> None:
        """Note what the counters did not recognise, and with which chunks it came; bytes from `begin` on are new."""
        if self._flac is not None:
            self._note_gaps(self._flac)
        counter = self._counter
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

    def examine(self, master: Path, is_last: bool) -> None:
        """Examine the parts in the master that are complete.

        Raises:
            PartsDifferError: One does not go with those before it.
        """
        complete = len(self._starts) if is_last else len(self._starts) - 1
        if self.suffix not in CONTAINERS or self._compared >= complete:
            return
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            while self._compared < complete:
                self._examine(self._compared, master, work)
                self._compared += 1

    def _examine(self, number: int, master: Path, work: Path) -> None:
        span = self._span(number)
        try:
            header = remux.header_of(master, span, self.suffix, work)
        except MediaError as error:
            if error.retryable:
                raise
            # The others are copied all the same.
            self._lose(number, UndecodableChunkError(error.detail) if isinstance(error, FfmpegFailedError) else error)
            return
        if not header.has_packets:
            # A recorder that was stopped before its first sound.
            self._left_out.append(number)
        elif self._parameters and header.parameters != self._parameters:
            raise PartsDifferError
        else:
            self._parameters, self._track = header.parameters, header.track
            self._measure(number, master, work)

    def _measure(self, number: int, master: Path, work: Path) -> None:
        """Measure a part's timeline when it is complete, so that nothing but the copy is left for the close."""
        try:
            measured = remux.measure(master, self._span(number), self.suffix, work, self._track)
        except FfmpegFailedError:
            # It can't be read to its end.
            self._measured.append(None)
        else:
            self._measured.append(list(astuple(measured)))
            if measured.damage:
                sentence = f"A part of the stream can't be read and was left out. {measured.damage}"
                self.losses.warn("stream_damaged", sentence, self._place_of(number, self._timelines or [measured]))

    @property
    def _timelines(self) -> list[Measured] | None:
        """The timelines of the parts that `_kept_spans` returns; None if one of them can't be read to its end."""
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
            return Place(first, max(first, last), self.seconds, self.seconds)
        start, end = remux.duration_seconds(measured[:-1], self._codec), remux.duration_seconds(measured, self._codec)
        return Place(first, max(first, last), start, end)

    def _span(self, number: int) -> Span:
        end = self._starts[number + 1][0] if number + 1 < len(self._starts) else self._size_bytes
        return Span(self._starts[number][0], end)

    def _kept_spans(self) -> list[Span]:
        """Return where the parts that hold packets lie in the master."""
        return [self._span(number) for number in range(len(self._starts)) if number not in self._left_out]

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the counters, and what is known of the parts."""
        return {
            "finder": self._finder.state(),
            "flac": self._flac.state() if self._flac else None,
            "size_bytes": self._size_bytes,
            "offsets": self._offsets.marks,
            "starts": self._starts,
            "parameters": self._parameters,
            "compared": self._compared,
            "left_out": self._left_out,
            "measured": self._measured,
            "track": self._track,
            "spans": self._spans,
            "gaps": self._gaps,
            "losses": self.losses.state(),
        }

    def finish(self, master: Master, on_progress: OnProgress) -> Made:
        """Correct the header of a counted stream, or copy the packets of a container into one file."""
        if master.size_bytes != self._size_bytes:
            raise MasterDamagedError(f"The master has {master.size_bytes} bytes instead of {self._size_bytes}.")
        if self._counter is not None:
            return self._finish_counted(self._counter, master)
        if self._flac is not None:
            return self._finish_flac(self._flac, master)
        return self._finish_container(master)

    def _finish_counted(self, counter: FrameCounter, master: Master) -> Made:
        """Bring the Info frame of MP3 in line with the stream that came."""
        if not counter.samples:
            raise UndecodableChunkError(f"The stream has no {self.suffix} frames.", sequence=1)
        if counter.unrecognised_bytes > counter.audio_bytes:
            sentence = f"Only {counter.audio_bytes} of {master.size_bytes} bytes are {self.suffix} frames."
            place = Place(1, self.done_to, 0.0, counter.duration_seconds)
            self.losses.lose(UndecodableChunkError(sentence, sequence=1), place)
        return self._with_true_header(master, counter.duration_seconds)

    def _finish_flac(self, counter: FlacCounter, master: Master) -> Made:
        """Write the total into STREAMINFO where a live encoder left it open, or the stream ended before it."""
        if counter.info is None:
            raise UndecodableChunkError("The stream does not begin with a FLAC header.", sequence=1)
        if not counter.samples:
            raise UndecodableChunkError("The stream has no flac frames.", sequence=1)
        self._leave_out_torn_frame(master.path)
        return self._with_true_header(master, counter.duration_seconds)

    def _with_true_header(self, master: Master, duration_seconds: float) -> Made:
        if (header := self._true_header()) is not None:
            master.patch(header[1], header[0])
        master.sync()
        return Made(name_of(self._session_id, master.path), self.suffix, master.size_bytes, duration_seconds)

    def _leave_out_torn_frame(self, path: Path) -> None:
        """Leave out of a FLAC stream's counts a last frame that is cut off, and say so; `path` holds the stream."""
        counter = self._flac
        if counter is None or not counter.last_samples or self._size_bytes - counter.last_at > _MOST_FRAME_BYTES:
            return
        with path.open("rb") as file:
            file.seek(counter.last_at)
            if frames.is_whole_flac_frame(file.read(_MOST_FRAME_BYTES)):
                return
        declared_seconds = counter.duration_seconds
        counter.leave_out_last()
        sentence = "The stream ends within a frame. The incomplete frame is kept as it came, and can't be decoded."
        place = Place(self.done_to, self.done_to, counter.duration_seconds, declared_seconds)
        self.losses.warn("stream_damaged", sentence, place)

    def _true_header(self) -> tuple[int, bytes] | None:
        """Return the offset of the counts in the header, and what they should be; None if they are right.

        The counts are in the Info frame of MP3 and the STREAMINFO of FLAC. A live encoder leaves them open, and a
        stream that ended early has less than they say.
        """
        if self._flac is not None and self._flac.info is not None:
            info, samples = self._flac.info, self._flac.samples
            return (info.offset, info.with_total(samples).body) if samples != info.total_samples else None
        counter = self._counter
        if counter is None or counter.info is None or counter.is_info_true:
            return None
        return counter.info_at, counter.info.corrected(counter.frame_count, self._size_bytes - counter.info_at)

    def _header_places(self) -> range:
        """Return the positions of the counts that are written into the header when the stream is complete."""
        if self._flac is not None and self._flac.info is not None:
            return range(self._flac.info.offset, self._flac.info.offset + len(self._flac.info.body))
        if self._counter is not None and self._counter.info is not None:
            return range(self._counter.info_at, self._counter.info_at + len(self._counter.info.frame))
        return range(0)

    def _finish_container(self, master: Master) -> Made:
        spans, timelines = self._kept_spans(), self._timelines
        if not spans:
            raise no_audio(self.losses)
        if timelines is None and len(spans) > 1:
            raise PartsDifferError

        def make(output: Path, work: Path) -> float:
            place = (output, work, self._track)
            try:
                seconds = remux.copy(master.path, spans, self.suffix, self._codec, *place, timelines or ())
            except FfmpegFailedError as error:
                if len(spans) == 1:
                    raise
                raise PartsDifferError from error
            self._require_packets(master, output, work, seconds)
            return seconds

        return beside(self._session, master, make)

    def _require_packets(self, master: Master, output: Path, work: Path, seconds: float) -> None:
        """Compare what was copied with what came; where packets lack or are at other times, all has to be decoded.

        One part that can't be read to its end is kept as far as it can be read, and that is said.
        """
        spans = self._kept_spans()
        try:
            proof = remux.compare(master.path, spans, self.suffix, output, work)
        except FfmpegFailedError as error:
            if len(spans) > 1:
                raise PartsDifferError from error
            sentence = f"The stream is damaged. It is kept as far as it can be read. {error.detail}"
            self.losses.warn("stream_damaged", sentence, Place(1, self.done_to, 0.0, seconds))
            return
        if not proof.is_complete or proof.most_displaced_seconds > _MOST_DISPLACED_SECONDS:
            logger.warning("packets_differ", missing=proof.missing, extra=proof.extra, displaced=proof.displaced)
            raise PartsDifferError

    def compare(self, ready: ReadyRecording, windows: Windows) -> None:
        """Compare every byte, except the counts in a header, or every packet of a container."""
        if self.suffix in CONTAINERS:
            self._compare_packets(ready, windows)
        else:
            self._compare_bytes(ready, windows)

    def _compare_bytes(self, ready: ReadyRecording, windows: Windows) -> None:
        comparison = Comparison(blocks(ready.path))
        for piece in itertools.chain.from_iterable(self.take(*window) for window in windows):
            comparison.expect(piece, masked=self._header_places())
        comparison.end()
        self._leave_out_torn_frame(ready.path)
        if (header := self._true_header()) is not None:
            offset, expected = header
            with ready.path.open("rb") as file:
                file.seek(offset)
                if file.read(len(expected)) != expected:
                    raise RecordingDiffersError("The header of the recording does not declare its length.")

    def _compare_packets(self, ready: ReadyRecording, windows: Windows) -> None:
        """Make the recording once more, and compare its packets: a container contains random numbers."""
        master = Master(ready.work / f"master.{self.suffix}")
        try:
            for window, is_last in windows:
                master.append(self.take(window, is_last))
                self.examine(master.path, is_last)
            made = self.finish(master, lambda _: None)
        finally:
            master.close()
        expected = self._packets(ready.work / Path(made.file_name).name, ready.work)
        for number, pair in enumerate(itertools.zip_longest(expected, self._packets(ready.path, ready.work)), start=1):
            if pair[0] != pair[1]:
                raise RecordingDiffersError(f"Packet {number} of the recording differs from its chunks.")

    def _packets(self, path: Path, work: Path) -> Iterator[bytes]:
        """Yield the size and the MD5 of each packet."""
        held = b""
        for block in ffmpeg.output_of(plan.packets(self.suffix, str(path)), work):
            *lines, held = (held + block).split(b"\n")
            for line in lines:
                if not line.startswith(b"#"):
                    yield b",".join(line.split(b",")[4:])

    def compare_header(self, recording: Recording, path: Path) -> None:
        """Do nothing: what a header says can't be checked without the stream behind it."""
