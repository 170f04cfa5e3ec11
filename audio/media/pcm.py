"""The decoding of compressed files to samples, window by window. No other module uses pydub.

pydub runs one FFmpeg over all files of a window (an ffconcat list), with the limits of `audio.media.ffmpeg`. Files that
are long, have deep samples or declare too little are decoded by FFmpeg directly. Segments of pydub are never added,
because that copies them; the caller joins their `raw_data`.

Containers have a timeline. Where it has no packets, the samples are silence, so that positions in the samples and the
container are the same. Audio that a decoder leaves out becomes silence too, and is reported (`Shortfall`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from audio.errors import FfmpegFailedError, MediaError, UndecodableChunkError, UnsupportedMediaError
from audio.media import ffmpeg, plan, remux
from audio.media.plan import Part
from audio.media.samples import PcmFormat, Samples, is_recordable
from audio.media.timeline import BlockReader, Timeline, silence
from audio.media.wav_reader import WavReader

with warnings.catch_warnings():
    # pydub looks for an FFmpeg on PATH when it is imported. It gets the path of another one later.
    warnings.simplefilter("ignore", RuntimeWarning)
    from pydub import AudioSegment
    from pydub.exceptions import CouldntDecodeError

logger = structlog.stdlib.get_logger(__name__)

_ENCODINGS = {1: "u8", 2: "s16le", 3: "s24le", 4: "s32le"}
_UNUSED = PcmFormat("u8", 8000, 1)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A file that was decoded to its end and has fewer sample frames (at a rate in Hz) than it declares.

    `sequence` is that of its first chunk. `damage` describes the unreadable part, if it is known.
    """

    sequence: int
    expected_frames: int
    decoded_frames: int
    sample_rate: int
    damage: str = ""

    @property
    def seconds(self) -> float:
        """The length of the missing audio."""
        return (self.expected_frames - self.decoded_frames) / self.sample_rate


OnShortfall = Callable[[Shortfall], None]


def _ignore(shortfall: Shortfall) -> None:
    """Do nothing."""


def decode(
    parts: Sequence[Part], audio_format: str, folder: Path, on_shortfall: OnShortfall = _ignore
) -> Iterator[Samples]:
    """Yield the samples of complete files, in order.

    One run of FFmpeg decodes all files, if they may share one. If it fails, or returns another length than the files
    declare, each half is tried separately, down to the file that cannot be decoded.

    Args:
        parts: The files, in order.
        audio_format: Their format.
        folder: An empty folder to work in.
        on_shortfall: Called for a file that could be decoded to its end, but lacks audio.

    Raises:
        UndecodableChunkError, UnsupportedMediaError: The details name the `sequence` of the file.
    """
    if len(parts) == 1 and not plan.is_batchable(parts[0].description):
        yield from _single(parts[0], audio_format, folder, on_shortfall)
        return
    try:
        samples = _batch(parts, audio_format, folder)
    except FfmpegFailedError as error:
        logger.info("window_halved", files=len(parts), error=error.detail)
        yield from _halved(parts, audio_format, folder, on_shortfall)
        return
    yield samples


def _halved(parts: Sequence[Part], audio_format: str, folder: Path, on_shortfall: OnShortfall) -> Iterator[Samples]:
    if len(parts) == 1:
        yield from _single(parts[0], audio_format, folder, on_shortfall)
        return
    middle = len(parts) // 2
    yield from decode(parts[:middle], audio_format, folder, on_shortfall)
    yield from decode(parts[middle:], audio_format, folder, on_shortfall)


def _batch(parts: Sequence[Part], audio_format: str, folder: Path) -> Samples:
    names = [f"{part.first_sequence}.{audio_format}" for part in parts]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(part.data)
    listing = folder / "list.ffconcat"
    listing.write_text(plan.concat_list(audio_format, names))
    # A class for this window alone, because all users of AudioSegment share its attribute.
    guarded: Any = type(
        "GuardedSegment",
        (AudioSegment,),
        {"converter": str(ffmpeg.program(folder, plan.batch_input(audio_format, parts)))},
    )
    try:
        segment = guarded.from_file(str(listing), format="concat", codec=plan.batch_decoder(audio_format))
    except (CouldntDecodeError, IndexError) as error:
        raise FfmpegFailedError(str(error).strip().splitlines()[-1] if str(error).strip() else None) from error
    finally:
        for name in names:
            (folder / name).unlink()
    expected = plan.expected_frames(parts)
    # Spectral band replication (ISO/IEC 14496-3 section 4.6.18) doubles the declarations of ADTS headers.
    if segment.frame_count() != expected and not (audio_format == "aac" and segment.frame_count() == 2 * expected):
        raise FfmpegFailedError(f"{segment.frame_count():.0f} of {expected} sample frames were decoded.")
    if not is_recordable(segment.channels, segment.frame_rate):
        # Without pydub, the WAV header is checked instead.
        raise FfmpegFailedError("The decoded samples are of an unusual format.")
    return Samples(PcmFormat(_ENCODINGS[segment.sample_width], segment.frame_rate, segment.channels), segment.raw_data)


def _single(part: Part, audio_format: str, folder: Path, on_shortfall: OnShortfall) -> Iterator[Samples]:
    """Decode one file of any length in one run, block by block. FFmpeg may conceal damage in a lossy one."""
    path = folder / f"{part.first_sequence}.{audio_format}"
    path.write_bytes(part.data)
    try:
        yield from stream(path, part, audio_format, folder, on_shortfall)
    finally:
        path.unlink()


def stream(
    path: Path, part: Part, audio_format: str, folder: Path, on_shortfall: OnShortfall = _ignore
) -> Iterator[Samples]:
    """Yield the samples of one file.

    Args:
        path: The file.
        part: The declarations of the file.
        audio_format: Its format.
        folder: FFmpeg's folder.
        on_shortfall: Called at the end if there is less audio than the file declares.

    Raises:
        UndecodableChunkError: There are no samples. The details of this and of any other error of the media name the
            part's `sequence`.
        UnsupportedMediaError: The server does not record this kind of sound.
    """
    file = _Decoded(path, part, audio_format, folder)
    frames = 0
    try:
        for samples in file.samples():
            frames += len(samples.data) // samples.format.frame_bytes
            yield samples
        shortfall = file.shortfall()
    except FfmpegFailedError as error:
        raise UndecodableChunkError(error.detail, sequence=part.first_sequence) from error
    except MediaError as error:
        error.details.setdefault("sequence", part.first_sequence)
        raise
    if not frames:
        raise UndecodableChunkError(sequence=part.first_sequence)
    if shortfall:
        on_shortfall(shortfall)


class _Decoded:
    """A file that is being decoded: how much of it was decoded, and how much it declares."""

    def __init__(self, path: Path, part: Part, audio_format: str, folder: Path) -> None:
        self._path = path
        self._part = part
        self._format = audio_format
        self._folder = folder
        self._bits = part.description.bits if part.description else 16
        self._frames = 0
        self._rate_hz = 0
        self._track = 0
        self._blocks = Blocks(path, audio_format, "s16le", folder)

    def samples(self) -> Iterator[Samples]:
        for samples in self._contained() if self._format in plan.CONTAINERS else self._plain():
            self._frames += len(samples.data) // samples.format.frame_bytes
            self._rate_hz = samples.format.sample_rate
            yield samples

    def _plain(self) -> Iterator[Samples]:
        reader = WavReader(_UNUSED, "stream")
        for block in ffmpeg.output_of(plan.decode(self._format, str(self._path), self._bits), self._folder):
            yield from reader.feed(block)

    def _contained(self) -> Iterator[Samples]:
        try:
            self._blocks = self._blocks_of(0)
            yield from self._blocks.samples()
        except FfmpegFailedError:
            # The track is looked up only now, because nearly every file has one.
            track = 0 if self._blocks.count else remux.header_in(self._path, self._format, self._folder).track
            if not track:
                raise
            self._blocks = self._blocks_of(track)
            yield from self._blocks.samples()

    def _blocks_of(self, track: int) -> "Blocks":
        encoding = encoding_of(self._path, self._format, self._folder, track)
        return Blocks(self._path, self._format, encoding, self._folder, track)

    def shortfall(self) -> Shortfall | None:
        """Return the missing audio; None if nothing is missing, or the file declares no length."""
        if not self._frames:
            return None
        decoded, damage = self._frames - self._blocks.silent_frames, ""
        if self._format in plan.CONTAINERS:
            track = remux.measure(self._path, None, self._format, self._folder, self._blocks.track)
            expected, damage = self._expected_in_packets(track, decoded), track.damage
        else:
            expected = self._expected_in_header()
        if expected <= decoded and not damage:
            return None
        return Shortfall(self._part.first_sequence, max(expected, decoded), decoded, self._rate_hz, damage)

    def _expected_in_header(self) -> int:
        described = self._part.description
        if not described or not described.sample_rate:
            return 0
        # Spectral band replication (ISO/IEC 14496-3 section 4.6.18) doubles the rate that ADTS headers declare.
        return described.sample_frames * self._rate_hz // described.sample_rate

    def _expected_in_packets(self, track: remux.Measured, decoded: int) -> int:
        """Return the length that the packets should have, by the number of decoded packets.

        Samples before zero are decoded and dropped, and so is the first packet of a codec whose windows overlap.
        """
        packet_seconds = track.audio_seconds / max(1, track.packets)
        dropped = 1 + int(max(0.0, -track.start_seconds) / packet_seconds + 0.01) if packet_seconds else 1
        missing = track.packets - dropped - self._blocks.count
        return decoded + max(0, missing) * decoded // max(1, self._blocks.count)


def encoding_of(path: Path, audio_format: str, folder: Path, track: int = 0) -> str:
    """Return the encoding of samples that loses nothing of a track of a container.

    Raises:
        FfmpegFailedError, UnsupportedMediaError: It can't be read.
    """
    reader, arguments = BlockReader(), plan.first_packet(audio_format, str(path), track)
    try:
        for piece in ffmpeg.output_of(arguments, folder, ffmpeg.WINDOW_LIMITS):
            for _ in reader.feed(piece):
                pass
    except FfmpegFailedError:
        # Matroska does not support floats of the other byte order.
        codec = remux.header_in(path, audio_format, folder).codec
        return "f32le" if codec.startswith("pcm_f") else "s16le"
    return plan.encoding_of(reader.codec, reader.bits)


class Blocks:
    """The samples of one audio track of a container, with silence in the gaps of its timeline."""

    def __init__(self, path: Path, audio_format: str, encoding: str, folder: Path, track: int = 0) -> None:
        """`encoding` is that of the samples that come out; `folder` is FFmpeg's."""
        self._path = path
        self._format = audio_format
        self._encoding = encoding
        self._folder = folder
        self.track = track
        # The number of decoded blocks, and the silence between them.
        self.count = 0
        self.silent_frames = 0
        self._held = b""

    def samples(self) -> Iterator[Samples]:
        """Yield the samples, in order. Errors are those of FFmpeg's runs, and UnsupportedMediaError."""
        arguments = plan.decode_timed(self._format, str(self._path), self._encoding, self.track)
        reader, timeline, pcm = BlockReader(), Timeline(), _UNUSED
        for piece in ffmpeg.output_of(arguments, self._folder):
            ready: list[bytes] = []
            for block in reader.feed(piece):
                pcm = pcm if self.count else self._format_of(reader)
                self.count += 1
                gap = timeline.silence_before(block.start_ms, len(block.data) // pcm.frame_bytes, pcm.sample_rate)
                if gap:
                    yield Samples(pcm, b"".join(ready))
                    ready.clear()
                    yield from (Samples(pcm, data) for data in silence(gap, pcm.frame_bytes))
                ready.append(self._next(block.data))
            yield Samples(pcm, b"".join(ready))
        self.silent_frames = timeline.silent
        yield Samples(pcm, self._held)

    def _next(self, data: bytes) -> bytes:
        """Return the block that is written next; for Ogg the previous one.

        FFmpeg puts the first block after a gap before the gap (`plan`).
        """
        if self._format != "ogg":
            return data
        self._held, data = data, self._held
        return data

    def _format_of(self, reader: BlockReader) -> PcmFormat:
        channels, rate_hz = reader.channels, reader.sample_rate
        if not is_recordable(channels, rate_hz):
            raise UnsupportedMediaError(f"Sound with {channels} channels at {rate_hz} Hz can't be recorded.")
        return PcmFormat(self._encoding, rate_hz, channels)
