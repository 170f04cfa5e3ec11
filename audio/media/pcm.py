"""The only pydub of the product: compressed files to samples, a window at a time.

pydub runs one FFmpeg over all files of a window (an ffconcat list) through the guarded program of
`audio.media.ffmpeg`. What is long, deep or says too little goes through that FFmpeg directly. Segments are
never added: `raw_data` is joined by whoever writes it.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from audio.errors import FfmpegFailed, MediaError, UndecodableChunk
from audio.media import ffmpeg, plan, wav
from audio.media.plan import Part
from audio.media.wav import PcmFormat, Samples, WavReader

with warnings.catch_warnings():
    # pydub looks for an FFmpeg on PATH when it is imported; it is given ours by name.
    warnings.simplefilter("ignore", RuntimeWarning)
    from pydub import AudioSegment
    from pydub.exceptions import CouldntDecodeError

logger = structlog.stdlib.get_logger(__name__)

_ENCODINGS = {1: "u8", 2: "s16le", 4: "s32le"}
_UNUSED = PcmFormat("u8", 8000, 1)


def decode(parts: Sequence[Part], audio_format: str, folder: Path) -> Iterator[Samples]:
    """Takes complete files in order and an empty folder to work in; gives their samples, in order.

    One FFmpeg run for all, if they may share one. When that fails, or gives another length than the files say,
    each half is tried by itself, down to the one that can't be decoded: UndecodableChunk names its `sequence`.
    """
    if len(parts) == 1 and not plan.is_batchable(parts[0].description):
        yield from _single(parts[0], audio_format, folder)
        return
    try:
        samples = _batch(parts, audio_format, folder)
    except FfmpegFailed as error:
        logger.info("window_halved", files=len(parts), error=error.detail)
        yield from _halved(parts, audio_format, folder)
        return
    yield samples


def _halved(parts: Sequence[Part], audio_format: str, folder: Path) -> Iterator[Samples]:
    if len(parts) == 1:
        yield from _single(parts[0], audio_format, folder)
        return
    middle = len(parts) // 2
    yield from decode(parts[:middle], audio_format, folder)
    yield from decode(parts[middle:], audio_format, folder)


def _batch(parts: Sequence[Part], audio_format: str, folder: Path) -> Samples:
    names = [f"{part.first_sequence}.{audio_format}" for part in parts]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(part.data)
    listing = folder / "list.ffconcat"
    listing.write_text(plan.concat_list(audio_format, names))
    # A class of this window's own: the attribute of AudioSegment would be everybody's.
    guarded: Any = type(
        "GuardedSegment",
        (AudioSegment,),
        {"converter": str(ffmpeg.program(folder, plan.batch_input(audio_format, parts)))},
    )
    try:
        segment = guarded.from_file(str(listing), format="concat", codec=plan.batch_decoder(audio_format))
    except (CouldntDecodeError, IndexError) as error:
        raise FfmpegFailed(str(error).strip().splitlines()[-1] if str(error).strip() else None) from error
    finally:
        for name in names:
            (folder / name).unlink()
    expected = plan.expected_frames(parts)
    # Spectral band replication (ISO/IEC 14496-3 section 4.6.18) doubles what ADTS headers say.
    if segment.frame_count() != expected and not (audio_format == "aac" and segment.frame_count() == 2 * expected):
        raise FfmpegFailed(f"{segment.frame_count():.0f} of {expected} sample frames were decoded.")
    if not wav.is_recordable(segment.channels, segment.frame_rate):
        # What goes through FFmpeg directly is refused by its WAV header.
        raise FfmpegFailed("The decoded samples are of an unusual format.")
    return Samples(PcmFormat(_ENCODINGS[segment.sample_width], segment.frame_rate, segment.channels), segment.raw_data)


def _single(part: Part, audio_format: str, folder: Path) -> Iterator[Samples]:
    """Decodes one file of any length in one run, block by block. FFmpeg may conceal damage in a lossy one."""
    path = folder / f"{part.first_sequence}.{audio_format}"
    path.write_bytes(part.data)
    try:
        yield from stream(path, part, audio_format, folder)
    finally:
        path.unlink()


def stream(path: Path, part: Part, audio_format: str, folder: Path) -> Iterator[Samples]:
    """Takes a file and the part that it is; gives its samples; raises UndecodableChunk if there are none.

    Whatever is wrong with the media, the error's details name the part's `sequence`.
    """
    bits = part.description.bits if part.description else 16
    reader, frames = WavReader(_UNUSED, "stream"), 0
    try:
        for block in ffmpeg.output_of(plan.decode(audio_format, str(path), bits), folder):
            for samples in reader.feed(block):
                frames += len(samples.data) // samples.format.frame_bytes
                yield samples
    except FfmpegFailed as error:
        raise UndecodableChunk(error.detail, sequence=part.first_sequence) from error
    except MediaError as error:
        error.details.setdefault("sequence", part.first_sequence)
        raise
    if not frames:
        raise UndecodableChunk(sequence=part.first_sequence)
