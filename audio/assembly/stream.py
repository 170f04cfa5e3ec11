"""The family of continuous compressed streams, whose bytes are copied.

The frames of MP3, ADTS and FLAC are counted, so that the length is known at the end. Bytes that are no frames get a
warning. The master becomes the recording: only the counts in its header are corrected.

A session of WebM, Ogg or MP4 may consist of several parts, each with its own header, whose packets fit together
(`audio.assembly.container`). At the end their packets are copied into one file, which needs an index.
"""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from audio.assembly import container
from audio.assembly.assembler import OnProgress, PartsDifferError, Windows
from audio.assembly.chunks import Chunk, PendingChunk, read
from audio.assembly.comparison import Comparison, ReadyRecording, RecordingDiffersError, blocks
from audio.assembly.container import ContainerParts
from audio.assembly.losses import Losses, Place
from audio.assembly.made import Made, name_of
from audio.assembly.master import Master
from audio.errors import ChunkDamagedError, MasterDamagedError, UndecodableChunkError
from audio.media import frames
from audio.media.frames import FlacCounter, FrameCounter
from audio.media.parts import ChunkOffsets, part_finder
from audio.media.plan import CONTAINERS, Family
from audio.media.samples import PcmFormat
from audio.models import AudioSession, Recording

_MOST_FRAME_BYTES = 1 << 18


class StreamAssembler:
    """The assembler of one compressed stream."""

    family: ClassVar[Family] = Family.STREAM
    format = None

    def __init__(
        self, session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        self.looked_to = self.done_to = done_to
        self.suffix = session.format
        self._session_id: uuid.UUID = session.id
        self._finder = part_finder(session.format, session.chunk_mode, checkpoint.get("finder"))
        self._size_bytes: int = checkpoint.get("size_bytes", 0)
        self._offsets = ChunkOffsets(checkpoint.get("offsets", []))
        # The first and the last chunk of each span that the counter did not recognise.
        self._spans: list[list[int]] = checkpoint.get("spans", [])
        self._gaps = checkpoint.get("gaps", 0)
        self.losses = Losses(**checkpoint.get("losses", {}))
        self._content = self._restore_content(session, checkpoint)

    def _restore_content(
        self, session: AudioSession, checkpoint: dict[str, Any]
    ) -> FrameCounter | FlacCounter | ContainerParts:
        """Return the frames of MP3, ADTS or FLAC, or the parts of a container, as they are known so far."""
        if session.format in CONTAINERS:
            parts = ContainerParts(session, self.losses, checkpoint)
            parts.extend(self._size_bytes, self.done_to)
            return parts
        if isinstance(self._finder, FrameCounter):
            return self._finder
        flac = checkpoint.get("flac")
        return FlacCounter.restore(flac) if flac else FlacCounter()

    @property
    def _counter(self) -> FrameCounter | None:
        """The counter of frames; only for MP3 and ADTS."""
        return self._content if isinstance(self._content, FrameCounter) else None

    @property
    def _flac(self) -> FlacCounter | None:
        """The counter of frames; only for FLAC."""
        return self._content if isinstance(self._content, FlacCounter) else None

    @property
    def _parts(self) -> ContainerParts | None:
        """The parts; only for WebM, Ogg and MP4."""
        return self._content if isinstance(self._content, ContainerParts) else None

    @property
    def sample_rate(self) -> int:
        """The sample rate of the first header or frame in Hz; 0 while it is unknown."""
        return self._content.sample_rate

    @property
    def channels(self) -> int:
        """The channels of the first header or frame; 0 while they are unknown."""
        return self._content.channels

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield the window's bytes.

        Raises:
            PartsDifferError: A part begins that cannot be copied after the earlier ones.
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
        if self._parts is not None:
            self._parts.extend(self._size_bytes, self.done_to)
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
        if self._parts is None:
            raise PartsDifferError
        self._parts.begin(start, self._offsets.at(start)[0])

    def _note_damage(self, error: ChunkDamagedError, size_bytes: int) -> bytes:
        sequence = error.details["sequence"]
        self.losses.lose(error, Place(sequence, sequence, self.seconds, self.seconds))
        return b""

    @property
    def seconds(self) -> float:
        """The length of the frames counted so far; 0 in a container."""
        return 0.0 if isinstance(self._content, ContainerParts) else self._content.duration_seconds

    @property
    def untimed_bytes(self) -> int | None:
        """The number of bytes so far for a container; otherwise None."""
        return self._size_bytes if self._parts else None

    def moments(self, offsets: Sequence[int], master: Path) -> list[float]:
        """Return the positions in the recording of the first packets after these lengths of a container."""
        return self._parts.moments(offsets, master) if self._parts else []

    def _note_frames(self, begin: int, is_last: bool) -> None:
        """Note unrecognised bytes and their chunks. Bytes from `begin` on are new."""
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
        """Examine the parts of a container in the master that are complete.

        Raises:
            PartsDifferError: A part does not fit the earlier ones.
        """
        if self._parts is not None:
            self._parts.examine(master, is_last)

    def checkpoint(self) -> dict[str, Any]:
        """Return the state of the counters and the parts."""
        return {
            "finder": self._finder.state(),
            "flac": self._flac.state() if self._flac else None,
            "size_bytes": self._size_bytes,
            "offsets": self._offsets.marks,
            "spans": self._spans,
            "gaps": self._gaps,
            "losses": self.losses.state(),
            **(self._parts.state() if self._parts else {}),
        }

    def finish(self, master: Master, on_progress: OnProgress) -> Made:
        """Correct the header of a counted stream, or copy the packets of a container into one file."""
        if master.size_bytes != self._size_bytes:
            raise MasterDamagedError(f"The master has {master.size_bytes} bytes instead of {self._size_bytes}.")
        match self._content:
            case FrameCounter() as counter:
                return self._finish_counted(counter, master)
            case FlacCounter() as counter:
                return self._finish_flac(counter, master)
            case ContainerParts() as parts:
                return parts.finish(master)

    def _finish_counted(self, counter: FrameCounter, master: Master) -> Made:
        """Correct the Info frame of MP3."""
        if not counter.samples:
            raise UndecodableChunkError(f"The stream has no {self.suffix} frames.", sequence=1)
        if counter.unrecognised_bytes > counter.audio_bytes:
            sentence = f"Only {counter.audio_bytes} of {master.size_bytes} bytes are {self.suffix} frames."
            place = Place(1, self.done_to, 0.0, counter.duration_seconds)
            self.losses.lose(UndecodableChunkError(sentence, sequence=1), place)
        return self._with_true_header(master, counter.duration_seconds)

    def _finish_flac(self, counter: FlacCounter, master: Master) -> Made:
        """Write the total into STREAMINFO if a live encoder has left it out, or the stream has ended early."""
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
        """Leave a truncated last frame of the FLAC stream in `path` out of the counts, and note a warning."""
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
        """Return the offset of the counts in the header, and the right bytes; None if they are right.

        The counts are in the Info frame of MP3 and in STREAMINFO of FLAC. A live encoder leaves them out, and a stream
        that has ended early has less than they declare.
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

    def compare(self, ready: ReadyRecording, windows: Windows) -> None:
        """Compare every byte, except the counts in a header, or every packet of a container."""
        if self._parts is not None:
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
        """Make the recording again, and compare its packets, because a container contains random numbers."""
        master = Master(ready.work / f"master.{self.suffix}")
        try:
            for window, is_last in windows:
                master.append(self.take(window, is_last))
                self.examine(master.path, is_last)
            made = self.finish(master, lambda _: None)
        finally:
            master.close()
        container.compare(ready.work / Path(made.file_name).name, ready.path, self.suffix, ready.work)

    def compare_header(self, recording: Recording, path: Path) -> None:
        """Do nothing, because the header can only be checked with the stream after it."""
