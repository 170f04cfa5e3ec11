"""The family of complete files. Each file is decoded in the window in which its end becomes known.

A file is a message (`chunks=files`), or the bytes between two headers of a stream. If a file cannot be decoded, the
audio before the damage is kept, and the next files follow it. The samples of all files are in the master, which is
encoded at the end.
"""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings

from audio.assembly.assembler import OnProgress, Windows
from audio.assembly.chunks import Chunk, PendingChunk, read, read_range
from audio.assembly.comparison import ReadyRecording
from audio.assembly.losses import Losses, Place
from audio.assembly.made import Made, beside, no_audio
from audio.assembly.master import Master
from audio.assembly.samples import SampleAssembler
from audio.errors import ChunkDamagedError, FfmpegFailedError, MediaError, MediaLimitExceededError
from audio.media import ffmpeg, frames, pcm, plan, wav
from audio.media.frames import FrameCounter
from audio.media.parts import FORMATS as HEADED_FORMATS
from audio.media.parts import ChunkOffsets, HeaderScanner, part_finder
from audio.media.pcm import Shortfall
from audio.media.plan import Family, Part
from audio.media.samples import SAMPLE_BYTES, PcmFormat, Samples
from audio.media.wav_reader import WavReader
from audio.models import AudioSession, Recording
from audio.storage.paths import folder, root

_HEAD_BYTES = 1 << 16
_ENCODED_HEAD_BYTES = 1 << 20
# The delay and the last frame of every lossy encoder are shorter than this.
_ENCODED_TOLERANCE_SECONDS = 0.25
# Encodings whose samples FLAC does not change.
_EXACT_FLAC = ("s16le", "s24le")
_ONE_SOURCE = 0
# Each file costs one or two runs of FFmpeg. A session may have this many more files than messages, because one message
# could contain the headers of a hundred thousand files.
_MOST_FILES_BEYOND_MESSAGES = 1000


class FilesAssembler(SampleAssembler):
    """The assembler of complete files."""

    family: ClassVar[Family] = Family.FILES

    def __init__(
        self, session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        super().__init__(session, target, checkpoint)
        self.done_to = done_to
        self.looked_to: int = checkpoint.get("looked_to", done_to)
        self._session_id: uuid.UUID = session.id
        self._format = session.format
        self._is_file_each = session.chunk_mode == "files"
        self._finder = part_finder(session.format, session.chunk_mode, checkpoint.get("finder"))
        # The length of the audio in all files so far.
        self._seconds: float = checkpoint.get("seconds", 0.0)
        # The number of bytes of the session that were examined, and the offsets of its last chunks in them.
        self._looked_at_bytes: int = checkpoint.get("looked_at_bytes", 0)
        self._offsets = ChunkOffsets(checkpoint.get("offsets", []))
        # The file whose end is not known yet: its offset, its first chunk, and its first byte in that chunk.
        self._open_at: int = checkpoint.get("open_at", 0)
        self._open_sequence: int = checkpoint.get("open_sequence", done_to + 1)
        self._open_skip: int = checkpoint.get("open_skip", 0)
        self._files: int = checkpoint.get("files", 0)
        # The bytes of this window, from `_window_at` on.
        self._window = bytearray()
        self._window_at = self._looked_at_bytes
        self.losses = Losses(**checkpoint.get("losses", {}))

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield the samples of the files that are complete."""
        self._window, self._window_at = bytearray(), self._looked_at_bytes
        with ffmpeg.working_folder(folder(self._session_id)) as work:
            for parts in self._batches(window, is_last, work):
                yield from self._kept(parts, work)
        if is_last:
            yield from self.output.flush()
        # A file that continues is read again when it is complete.
        self._window = bytearray()
        self._offsets.forget_before(self._looked_at_bytes - len(self._finder.held))

    def _kept(self, parts: Sequence[Part], work: Path) -> Iterator[bytes]:
        """Yield the samples of the files that can be decoded, and note the other files."""
        while parts:
            try:
                self._require_room(parts[0])
                for samples in self._decoded(parts, work):
                    self._count(samples, parts[0])
                    yield from self.output.put(_ONE_SOURCE, samples)
                return
            except MediaError as error:
                if error.retryable or "sequence" not in error.details:
                    raise
                parts = self._without(parts, error)

    def _without(self, parts: Sequence[Part], error: MediaError) -> Sequence[Part]:
        """Note the file that could not be decoded, and return the files after it."""
        number = next(n for n, part in enumerate(parts) if part.last_sequence >= error.details["sequence"])
        part = parts[number]
        place = Place(part.first_sequence, part.last_sequence, self._seconds, self._seconds)
        self.losses.lose(error, place)
        return parts[number + 1 :]

    def _count(self, samples: Samples, part: Part) -> None:
        """Count the seconds of audio.

        A small file can contain weeks of silence. So the decoded files are limited to twice the length that a session
        may have; the rest is for the padding of files.
        """
        self._seconds += len(samples.data) / samples.format.frame_bytes / samples.format.sample_rate
        self._require_room(part)

    def _require_room(self, part: Part) -> None:
        if self._seconds > 2 * 3600 * settings.MAX_SESSION_DURATION_HOURS:
            sentence = (
                f"The files up to this one have {self._seconds:.0f} s of audio, which is more than a session may have."
            )
            raise MediaLimitExceededError(sentence, sequence=part.first_sequence)

    def _decoded(self, parts: Sequence[Part], work: Path) -> Iterator[Samples]:
        if len(parts) == 1 and not parts[0].data:
            name = f"{parts[0].first_sequence}.{self._format}"
            yield from pcm.stream(work / name, parts[0], self._format, work, self._note_shortfall)
            (work / name).unlink()
        else:
            yield from pcm.decode(parts, self._format, work, self._note_shortfall)

    def _note_shortfall(self, short: Shortfall) -> None:
        place = Place(short.sequence, short.sequence, max(0.0, self._seconds - short.seconds), self._seconds)
        if short.expected_frames > short.decoded_frames:
            sentence = (
                f"Only {short.decoded_frames} of {short.expected_frames} sample frames of the file could be decoded."
            )
            self.losses.warn("file_incomplete", sentence, place)
        if short.damage:
            sentence = f"A part of the file can't be read and was left out. {short.damage}"
            self.losses.warn("stream_damaged", sentence, place)

    def _batches(self, window: Sequence[PendingChunk], is_last: bool, work: Path) -> Iterator[list[Part]]:
        """Yield the complete files that one run of FFmpeg decodes. A large file has a run of its own, and no `data`.

        Files of one run share no chunk, because errors name them by their chunks.
        """
        small: list[Part] = []
        for part in self._parts(window, is_last, work):
            if small and part.first_sequence <= small[-1].last_sequence:
                yield from plan.windows(small)
                small = []
            if part.data:
                small.append(part)
                continue
            yield from plan.windows(small)
            small = []
            yield [part]
        yield from plan.windows(small)

    def _parts(self, window: Sequence[PendingChunk], is_last: bool, work: Path) -> Iterator[Part]:
        for chunk in read(window, self._note_damage):
            for end in self._ends(chunk):
                yield from self._closed(end, work)
            self.looked_to = chunk.sequence
            if self._is_file_each:
                yield from self._closed(self._looked_at_bytes, work)
        self.looked_to = window[-1].sequence if window else self.looked_to
        if is_last:
            ends = self._finder.finish() if isinstance(self._finder, FrameCounter) and not self._is_file_each else []
            for end in [*ends, self._looked_at_bytes]:
                yield from self._closed(end, work)
            self.done_to = self.looked_to

    def _ends(self, chunk: Chunk) -> list[int]:
        """Examine a chunk, and return the offsets at which files end and others begin."""
        self._offsets.add(self._looked_at_bytes, chunk.sequence)
        if self._open_at == self._looked_at_bytes:
            self._open_sequence, self._open_skip = chunk.sequence, 0
        self._looked_at_bytes += len(chunk.payload)
        self._window += chunk.payload
        if not self._is_file_each:
            return self._finder.feed(chunk.payload)
        if self._format not in HEADED_FORMATS:
            return []
        # Joined files, such as the links of an Ogg chain, are decoded separately.
        begin = self._looked_at_bytes - len(chunk.payload)
        return [begin + start for start in HeaderScanner(self._format).feed(chunk.payload)]

    def _note_damage(self, error: ChunkDamagedError, size_bytes: int) -> bytes:
        sequence = error.details["sequence"]
        if self._open_at == self._looked_at_bytes:
            self.done_to = sequence
        self.losses.lose(error, Place(sequence, sequence, self._seconds, self._seconds))
        return b""

    def _closed(self, end: int, work: Path) -> Iterator[Part]:
        """End the open file before the byte at `end`, and yield it unless it is empty."""
        if end <= self._open_at:
            return
        self._files += 1
        if self._files > self.looked_to + _MOST_FILES_BEYOND_MESSAGES:
            sentence = f"The session has {self._files} files in {self.looked_to} messages, which is over the limit."
            raise MediaLimitExceededError(sentence, sequence=self._open_sequence)
        first, skip, start = self._open_sequence, self._open_skip, self._open_at
        last, _ = self._offsets.at(end - 1)
        self._open_at = end
        self._open_sequence, begin = self._offsets.at(end)
        self._open_skip = end - begin
        self.done_to = last if end == self._looked_at_bytes else self._open_sequence - 1
        if start >= self._window_at:
            yield self._part(first, last, bytes(self._window[start - self._window_at : end - self._window_at]))
        elif end - start > plan.WINDOW_BYTES:
            yield self._spooled(first, last, skip, end - start, work)
        else:
            yield self._part(first, last, b"".join(self._reread(first, last, skip, end - start)))

    def _part(self, first: int, last: int, data: bytes) -> Part:
        return Part(first, last, data, frames.describe(self._format, data))

    def _reread(self, first: int, last: int, skip: int, left: int) -> Iterator[bytes]:
        """Yield `left` bytes of the chunks `first` to `last`, without the first `skip`."""
        for chunk in read_range(self._session_id, first, last, lambda *_: b""):
            piece = chunk.payload[skip : skip + left]
            skip, left = 0, left - len(piece)
            yield piece

    def _spooled(self, first: int, last: int, skip: int, size_bytes: int, work: Path) -> Part:
        path, head = work / f"{first}.{self._format}", b""
        with path.open("wb") as file:
            for piece in self._reread(first, last, skip, size_bytes):
                head += piece[: max(0, _HEAD_BYTES - len(head))]
                file.write(piece)
        return Part(first, last, b"", frames.describe(self._format, head))

    def examine(self, master: Path, is_last: bool) -> None:
        """Do nothing: `take` knows everything about the samples."""

    def checkpoint(self) -> dict[str, Any]:
        """Return the number of examined bytes, the open file, and the state of the converter."""
        return {
            "looked_to": self.looked_to,
            "finder": self._finder.state(),
            "seconds": self._seconds,
            "looked_at_bytes": self._looked_at_bytes,
            "offsets": self._offsets.marks,
            "open_at": self._open_at,
            "open_sequence": self._open_sequence,
            "open_skip": self._open_skip,
            "files": self._files,
            "losses": self.losses.state(),
            **self.output.checkpoint(),
        }

    def finish(self, master: Master, on_progress: OnProgress) -> Made:
        """Encode the master in the format of the session."""
        pcm, audio_format = self.format, self._format
        if not master.size_bytes or pcm is None:
            raise no_audio(self.losses)
        frame_count = (master.size_bytes - wav.HEADER_BYTES) // pcm.frame_bytes
        seconds = frame_count / pcm.sample_rate
        master.finish_wav(pcm)

        def make(output: Path, work: Path) -> float:
            arguments = plan.encode(audio_format, str(master.path), str(output), pcm.encoding)
            written = ffmpeg.run(arguments, work, on_seconds=lambda done: on_progress(min(1.0, done / seconds)))
            _require_all(audio_format, output, pcm, frame_count, written)
            return seconds

        return beside(self._session, master, make)

    def compare(self, ready: ReadyRecording, windows: Windows) -> None:
        """Compare every sample if the files are FLAC, otherwise the number of samples."""
        pcm = self._master_format(ready.row)
        is_exact = self._format == "flac" and pcm.encoding in _EXACT_FLAC
        if ready.row.format != "flac":
            self._compare_master(windows, ready.row, root() / ready.row.master_name, is_exact)
            return
        arguments = plan.decode("flac", str(ready.path), 8 * SAMPLE_BYTES[pcm.encoding])
        reader = WavReader(pcm, "stream")
        decoded = ffmpeg.output_of(arguments, ready.work)
        samples = (samples.data for block in decoded for samples in reader.feed(block))
        self._compare_samples(windows, samples, is_exact)

    def compare_header(self, recording: Recording, path: Path) -> None:
        """Do nothing: FFmpeg has written the header."""


def _require_all(audio_format: str, output: Path, pcm: PcmFormat, frame_count: int, written_seconds: float) -> None:
    """Compare the declared length of the encoded file with that of the samples: for FLAC and MP3 exactly."""
    with output.open("rb") as file:
        head = file.read(_ENCODED_HEAD_BYTES)
    if audio_format == "flac":
        info = frames.flac_stream_info(head)
        is_all = info is not None and info.total_samples == frame_count
    else:
        is_all = abs(written_seconds - frame_count / pcm.sample_rate) < _ENCODED_TOLERANCE_SECONDS
    if not is_all:
        raise FfmpegFailedError(f"FFmpeg wrote only {written_seconds:.3f} of {frame_count / pcm.sample_rate:.3f} s.")
