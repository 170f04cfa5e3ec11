"""From a complete master to the recording. Every step can be repeated until the database says `ready`.

A WAV master and a stream's own bytes become the recording where they are, so closing costs no copy of them; a
container that needs an index is remuxed, decoded files are encoded.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from audio.assembly.assembler import Assembler
from audio.assembly.files import FilesAssembler
from audio.assembly.losses import Failure, Place
from audio.assembly.master import Master
from audio.assembly.stream import PartsDifferError, StreamAssembler
from audio.errors import FfmpegFailed, MasterDamaged, MediaError, UndecodableChunk, UnsupportedMedia
from audio.journal.files import sync_folder
from audio.media import convert, ffmpeg, frames, plan, remux, wav
from audio.media.frames import FlacCounter, FrameCounter
from audio.media.wav import PcmFormat
from audio.models import AudioSession
from audio.storage.paths import folder_name

logger = structlog.stdlib.get_logger(__name__)

OnProgress = Callable[[float], None]
_HEAD_BYTES = 1 << 20
_MOST_FRAME_BYTES = 1 << 18
# The delay and the last frame of every lossy encoder are shorter.
_ENCODED_TOLERANCE_SECONDS = 0.25
# What an encoder puts behind its last sound stays at a joint: the packets of its last page move by less than one.
_MOST_DISPLACED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Made:
    """The recording: its name, relative to the storage root, format, size and length."""

    file_name: str
    format: str
    size_bytes: int
    duration_seconds: float


def finish(session: AudioSession, assembler: Assembler, master: Master, on_progress: OnProgress) -> Made:
    """Make the recording from a complete master, durable on the disk.

    Args:
        session: The session.
        assembler: Its assembler, at the last chunk.
        master: The master.
        on_progress: Called with numbers from 0 to 1 while FFmpeg runs.

    Raises:
        UndecodableChunk: The stream holds no audio.
        PartsDifferError: Its parts can't be joined as they are.
        MediaError: What FFmpeg's runs raise.
    """
    match assembler:
        case StreamAssembler() if master.size_bytes != assembler.size_bytes:
            raise MasterDamaged(f"The master has {master.size_bytes} bytes instead of {assembler.size_bytes}.")
        case StreamAssembler() if assembler.counter is not None:
            return _counted(session, assembler, assembler.counter, master)
        case StreamAssembler() if assembler.flac is not None:
            return _flac(session, assembler, assembler.flac, master)
        case StreamAssembler():
            return _remuxed(session, assembler, master)
        case FilesAssembler():
            return _encoded(session, assembler, master, on_progress)
        case _:
            return _wav(session, assembler, master)


def _name(session_id: uuid.UUID, path: Path) -> str:
    return f"{folder_name(session_id)}/{path.name}"


def _wav(session: AudioSession, assembler: Assembler, master: Master) -> Made:
    pcm = assembler.format or PcmFormat(
        convert.master_encoding(session.encoding), session.sample_rate, session.channels
    )
    if not master.size_bytes and assembler.losses.failure:
        raise _nothing(assembler)
    if not master.size_bytes:
        # Less than one sample came.
        master.append([wav.header(pcm, 0)])
    seconds = (master.size_bytes - wav.HEADER_BYTES) / pcm.frame_bytes / pcm.sample_rate
    return Made(_name(session.id, master.path), "wav", master.finish_wav(pcm), seconds)


def _counted(session: AudioSession, assembler: StreamAssembler, counter: FrameCounter, master: Master) -> Made:
    """Bring the Info frame of MP3 in line with the stream that came."""
    if not counter.samples:
        raise UndecodableChunk(f"The stream has no {session.format} frames.", sequence=1)
    if counter.unrecognised_bytes > counter.audio_bytes:
        sentence = f"Only {counter.audio_bytes} of {master.size_bytes} bytes are {session.format} frames."
        place = Place(1, assembler.done_to, 0.0, counter.duration_seconds)
        assembler.losses.lose(UndecodableChunk(sentence, sequence=1), place)
    _patch(master, true_header(assembler))
    master.sync()
    name = _name(session.id, master.path)
    return Made(name, session.format, master.size_bytes, counter.duration_seconds)


def _flac(session: AudioSession, assembler: StreamAssembler, counter: FlacCounter, master: Master) -> Made:
    """Write the total into STREAMINFO where a live encoder left it open, or the stream ended before it."""
    info = counter.info
    if info is None:
        raise UndecodableChunk("The stream does not begin with a FLAC header.", sequence=1)
    if not counter.samples:
        raise UndecodableChunk("The stream has no flac frames.", sequence=1)
    settle_last_frame(assembler, master.path)
    _patch(master, true_header(assembler))
    master.sync()
    return Made(_name(session.id, master.path), "flac", master.size_bytes, counter.duration_seconds)


def settle_last_frame(assembler: StreamAssembler, path: Path) -> None:
    """Leave out of a FLAC stream's counts a last frame that is cut off, and say so.

    Args:
        assembler: The assembler, at the stream's end.
        path: The file that holds the stream.
    """
    counter = assembler.flac
    if counter is None or not counter.last_samples or assembler.size_bytes - counter.last_at > _MOST_FRAME_BYTES:
        return
    with path.open("rb") as file:
        file.seek(counter.last_at)
        if frames.is_whole_flac_frame(file.read(_MOST_FRAME_BYTES)):
            return
    declared_seconds = counter.duration_seconds
    counter.leave_out_last()
    sentence = "The stream ends within a frame. The incomplete frame is kept as it came, and can't be decoded."
    place = Place(assembler.done_to, assembler.done_to, counter.duration_seconds, declared_seconds)
    assembler.losses.warn("stream_damaged", sentence, place)


def true_header(assembler: StreamAssembler) -> tuple[int, bytes] | None:
    """Return where in a complete stream the counts of its header stand, and what they should be; None if they are so.

    Those are in the Info frame of MP3 and the STREAMINFO of FLAC. A live encoder leaves them open, and a stream that
    ended early has less than they say.
    """
    if assembler.flac is not None and assembler.flac.info is not None:
        info, samples = assembler.flac.info, assembler.flac.samples
        return (info.offset, info.with_total(samples).body) if samples != info.total_samples else None
    counter = assembler.counter
    if counter is None or counter.info is None or counter.is_info_true:
        return None
    return counter.info_at, counter.info.corrected(counter.frame_count, assembler.size_bytes - counter.info_at)


def _patch(master: Master, header: tuple[int, bytes] | None) -> None:
    if header is not None:
        master.patch(header[1], header[0])


def _remuxed(session: AudioSession, assembler: StreamAssembler, master: Master) -> Made:
    spans, measured = assembler.spans(), assembler.measured
    if not spans:
        raise _nothing(assembler)
    if measured is None and len(spans) > 1:
        raise PartsDifferError

    def make(output: Path, work: Path) -> float:
        place = (output, work, assembler.track)
        try:
            seconds = remux.copy(master.path, spans, session.format, assembler.codec, *place, measured or ())
        except FfmpegFailed as error:
            if len(spans) == 1:
                raise
            raise PartsDifferError from error
        _require_packets(session, assembler, master, output, work, seconds)
        return seconds

    return _made_by(session, master, make)


def _require_packets(
    session: AudioSession, assembler: StreamAssembler, master: Master, output: Path, work: Path, seconds: float
) -> None:
    """Compare what was copied with what came; where packets lack or are at other times, all has to be decoded.

    One part that can't be read to its end is kept as far as it can be read, and that is said.
    """
    spans = assembler.spans()
    try:
        proof = remux.compare(master.path, spans, session.format, output, work)
    except FfmpegFailed as error:
        if len(spans) > 1:
            raise PartsDifferError from error
        sentence = f"The stream is damaged. It is kept as far as it can be read. {error.detail}"
        assembler.losses.warn("stream_damaged", sentence, Place(1, assembler.done_to, 0.0, seconds))
        return
    if not proof.is_complete or proof.most_displaced_seconds > _MOST_DISPLACED_SECONDS:
        logger.warning("packets_differ", missing=proof.missing, extra=proof.extra, displaced=proof.displaced)
        raise PartsDifferError


def _nothing(assembler: Assembler) -> MediaError:
    """Return the error of a recording that holds nothing: that of its first part, if one was left out."""
    failure = assembler.losses.failure or Failure(UndecodableChunk.code, "The session has no audio.", 1)
    kind = UnsupportedMedia if failure.code == UnsupportedMedia.code else UndecodableChunk
    return kind(failure.detail, sequence=failure.sequence)


def _encoded(session: AudioSession, assembler: FilesAssembler, master: Master, on_progress: OnProgress) -> Made:
    pcm = assembler.format
    if not master.size_bytes or pcm is None:
        raise _nothing(assembler)
    frame_count = (master.size_bytes - wav.HEADER_BYTES) // pcm.frame_bytes
    seconds = frame_count / pcm.sample_rate
    master.finish_wav(pcm)

    def make(output: Path, work: Path) -> float:
        arguments = plan.encode(session.format, str(master.path), str(output), pcm.encoding)
        written = ffmpeg.run(arguments, work, on_seconds=lambda done: on_progress(min(1.0, done / seconds)))
        _require_all(session.format, output, pcm, frame_count, written)
        return seconds

    return _made_by(session, master, make)


def _require_all(audio_format: str, output: Path, pcm: PcmFormat, frame_count: int, written_seconds: float) -> None:
    """Compare what was encoded with what should be, by what the file says: in FLAC and MP3 to the sample."""
    with output.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if audio_format == "flac":
        info = frames.flac_stream_info(head)
        is_all = info is not None and info.total_samples == frame_count
    else:
        is_all = abs(written_seconds - frame_count / pcm.sample_rate) < _ENCODED_TOLERANCE_SECONDS
    if not is_all:
        raise FfmpegFailed(f"FFmpeg wrote only {written_seconds:.3f} of {frame_count / pcm.sample_rate:.3f} s.")


def _made_by(session: AudioSession, master: Master, make: Callable[[Path, Path], float]) -> Made:
    """Write a file beside the master with FFmpeg, sync it, and give it a name with the master's claim."""
    place = master.path.parent
    final = place / f"{master.path.stem.replace('master', 'recording')}.{session.format}"
    with ffmpeg.working_folder(place) as work:
        output = work / final.name
        seconds = make(output, work)
        with output.open("rb") as file:
            os.fsync(file.fileno())
            size_bytes = os.fstat(file.fileno()).st_size
        output.replace(final)
    sync_folder(place)
    return Made(_name(session.id, final), session.format, size_bytes, seconds)
