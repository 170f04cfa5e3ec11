"""The parts of a WebM, Ogg or MP4 stream. Each is examined when it is complete, and at the end all are copied.

The master contains the parts one after the other. Each has its own header. If their packets do not fit together, the
session needs the family that decodes (`PartsDifferError`).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import structlog

from audio.assembly.assembler import PartsDifferError
from audio.assembly.comparison import RecordingDiffersError
from audio.assembly.losses import Losses, Place
from audio.assembly.made import Made, beside, no_audio
from audio.assembly.master import Master
from audio.errors import FfmpegFailedError, MediaError, UndecodableChunkError
from audio.media import ffmpeg, plan, remux
from audio.media.plan import Span
from audio.media.remux import Measured
from audio.models import AudioSession
from audio.storage.paths import folder

logger = structlog.stdlib.get_logger(__name__)

# The most parts of one stream. A session with more is decoded, so that the checkpoint stays small.
_MOST_PARTS = 1000
# The padding of an encoder stays at a joint, so the packets of its last page move by less than the length of one.
_MOST_DISPLACED_SECONDS = 0.1


class ContainerParts:
    """The parts of one stream, and their properties."""

    def __init__(self, session: AudioSession, losses: Losses, checkpoint: dict[str, Any]) -> None:
        self._session = session
        self._format = session.format
        self._losses = losses
        # The length of the stream so far, and the last chunk in it.
        self._size_bytes = 0
        self._last_sequence = 0
        # The offset of each part in the master, and its first chunk.
        self._starts: list[list[int]] = checkpoint.get("starts", [[0, 1]])
        # The parameters of the audio, which are those of all parts, and the track that holds it.
        self._parameters: str = checkpoint.get("parameters", "")
        self._track: int = checkpoint.get("track", 0)
        # The number of parts that were examined, and those without packets.
        self._compared: int = checkpoint.get("compared", 0)
        self._left_out: list[int] = checkpoint.get("left_out", [])
        # The timelines of the other parts; None for one that cannot be read to its end.
        self._measured: list[list[Any] | None] = checkpoint.get("measured", [])

    @property
    def sample_rate(self) -> int:
        """The sample rate of the first header in Hz; 0 while it is unknown."""
        return remux.rate_of(self._parameters)

    @property
    def channels(self) -> int:
        """The channels of the first header; 0 while they are unknown."""
        return remux.channels_of(self._parameters)

    @property
    def _codec(self) -> str:
        """FFmpeg's name of the codec."""
        return remux.codec_of(self._parameters)

    def state(self) -> dict[str, Any]:
        """Return what the next window needs, as JSON."""
        return {
            "starts": self._starts,
            "parameters": self._parameters,
            "track": self._track,
            "compared": self._compared,
            "left_out": self._left_out,
            "measured": self._measured,
        }

    def begin(self, start: int, sequence: int) -> None:
        """Note that a part begins.

        Args:
            start: The offset of the part in the master.
            sequence: Its first chunk.

        Raises:
            PartsDifferError: There are too many parts.
        """
        if len(self._starts) == _MOST_PARTS:
            raise PartsDifferError
        self._starts.append([start, sequence])

    def extend(self, size_bytes: int, last_sequence: int) -> None:
        """Note the length of the stream, and the last chunk in it."""
        self._size_bytes, self._last_sequence = size_bytes, last_sequence

    def examine(self, master: Path, is_last: bool) -> None:
        """Examine the parts in the master that are complete.

        Raises:
            PartsDifferError: A part does not fit the earlier ones.
        """
        complete = len(self._starts) if is_last else len(self._starts) - 1
        if self._compared >= complete:
            return
        with ffmpeg.working_folder(folder(self._session.pk)) as work:
            while self._compared < complete:
                self._examine(self._compared, master, work)
                self._compared += 1

    def _examine(self, number: int, master: Path, work: Path) -> None:
        span = self._span(number)
        try:
            header = remux.header_of(master, span, self._format, work)
        except MediaError as error:
            if error.retryable:
                raise
            # The other parts are copied nevertheless.
            self._lose(number, UndecodableChunkError(error.detail) if isinstance(error, FfmpegFailedError) else error)
            return
        if not header.has_packets:
            # The recorder was stopped before its first sound.
            self._left_out.append(number)
        elif self._parameters and header.parameters != self._parameters:
            raise PartsDifferError
        else:
            self._parameters, self._track = header.parameters, header.track
            self._measure(number, master, work)

    def _measure(self, number: int, master: Path, work: Path) -> None:
        """Measure the timeline of a part when it is complete, so that only the copy is left for the close."""
        try:
            measured = remux.measure(master, self._span(number), self._format, work, self._track)
        except FfmpegFailedError:
            # The part cannot be read to its end.
            self._measured.append(None)
        else:
            self._measured.append(list(astuple(measured)))
            if measured.damage:
                sentence = f"A part of the stream can't be read and was left out. {measured.damage}"
                self._losses.warn("stream_damaged", sentence, self._place_of(number, self._timelines or [measured]))

    @property
    def _timelines(self) -> list[Measured] | None:
        """The timelines of the parts that `_kept_spans` returns; None if one of them cannot be read to its end."""
        parts = [Measured(*part) for part in self._measured if part is not None]
        return parts if len(parts) == len(self._measured) else None

    def _lose(self, number: int, error: MediaError) -> None:
        """Leave a part out of the recording, and note the loss."""
        self._losses.lose(error, self._place_of(number, []))
        self._left_out.append(number)

    def _place_of(self, number: int, measured: Sequence[Measured]) -> Place:
        """Return the place of a part: its chunks, and its seconds if it is the last one that was measured."""
        first = self._starts[number][1]
        last = self._starts[number + 1][1] - 1 if number + 1 < len(self._starts) else self._last_sequence
        if not measured:
            return Place(first, max(first, last), 0.0, 0.0)
        start, end = remux.duration_seconds(measured[:-1], self._codec), remux.duration_seconds(measured, self._codec)
        return Place(first, max(first, last), start, end)

    def _span(self, number: int) -> Span:
        end = self._starts[number + 1][0] if number + 1 < len(self._starts) else self._size_bytes
        return Span(self._starts[number][0], end)

    def _kept_spans(self) -> list[Span]:
        """Return the spans of the master that contain packets."""
        return [self._span(number) for number in range(len(self._starts)) if number not in self._left_out]

    def moments(self, offsets: Sequence[int], master: Path) -> list[float]:
        """Return the positions in the recording of the first packets after these lengths of the stream."""
        copied = (self._track, self._codec, self._timelines or [])
        with ffmpeg.working_folder(folder(self._session.pk)) as work:
            return remux.moments(master, self._kept_spans(), self._format, work, offsets, copied)

    def finish(self, master: Master) -> Made:
        """Copy the packets of all parts into one file beside the master.

        Raises:
            PartsDifferError: The packets cannot be copied into one file.
            MediaError: No part has audio, or FFmpeg has failed.
        """
        spans, timelines = self._kept_spans(), self._timelines
        if not spans:
            raise no_audio(self._losses)
        if timelines is None and len(spans) > 1:
            raise PartsDifferError

        def make(output: Path, work: Path) -> float:
            place = (output, work, self._track)
            try:
                seconds = remux.copy(master.path, spans, self._format, self._codec, *place, timelines or ())
            except FfmpegFailedError as error:
                if len(spans) == 1:
                    raise
                raise PartsDifferError from error
            self._require_packets(master, output, work, seconds)
            return seconds

        return beside(self._session, master, make)

    def _require_packets(self, master: Master, output: Path, work: Path, seconds: float) -> None:
        """Compare the copied packets with those of the parts. If some are missing or at other times, decode all.

        A single part that cannot be read to its end is kept as far as it can be read, with a warning.
        """
        spans = self._kept_spans()
        try:
            proof = remux.compare(master.path, spans, self._format, output, work)
        except FfmpegFailedError as error:
            if len(spans) > 1:
                raise PartsDifferError from error
            sentence = f"The stream is damaged. It is kept as far as it can be read. {error.detail}"
            self._losses.warn("stream_damaged", sentence, Place(1, self._last_sequence, 0.0, seconds))
            return
        if not proof.is_complete or proof.most_displaced_seconds > _MOST_DISPLACED_SECONDS:
            logger.warning("packets_differ", missing=proof.missing, extra=proof.extra, displaced=proof.displaced)
            raise PartsDifferError


def compare(made: Path, ready: Path, audio_format: str, work: Path) -> None:
    """Compare the packets of two files.

    Args:
        made: The recording that was made again.
        ready: The recording that is ready.
        audio_format: The format of both.
        work: A folder for working files.

    Raises:
        RecordingDiffersError: A packet differs.
    """
    pairs = itertools.zip_longest(_packets(made, audio_format, work), _packets(ready, audio_format, work))
    for number, (expected, actual) in enumerate(pairs, start=1):
        if expected != actual:
            raise RecordingDiffersError(f"Packet {number} of the recording differs from its chunks.")


def _packets(path: Path, audio_format: str, work: Path) -> Iterator[bytes]:
    """Yield the size and the MD5 of each packet."""
    held = b""
    for block in ffmpeg.output_of(plan.packets(audio_format, str(path)), work):
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            if not line.startswith(b"#"):
                yield b",".join(line.split(b",")[4:])
