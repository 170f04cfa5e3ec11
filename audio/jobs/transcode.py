"""Transcodes: recordings in other formats, each made once and kept."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from audio.errors import UndecodableChunkError
from audio.jobs import rows
from audio.media import ffmpeg, frames, plan, waveform
from audio.media.pcm import encoding_of
from audio.media.samples import Samples
from audio.models import AudioSession, BackgroundTask, Recording, TaskKind
from audio.storage import downloads, local, paths
from audio.storage.downloads import Servable

_HEAD_BYTES = 1 << 20


def make(task: BackgroundTask, work: Path) -> None:
    """Make the recording of a task's session in the format of the task. `work` is its working folder."""
    recording = rows.ready_recording(task)
    report = rows.reporter(task, recording.duration_seconds or 0.0)
    audio_format, path, encoding = source(recording, work, report)
    output = work / f"{task.pk}.{task.format}"
    if audio_format in plan.CONTAINERS:
        samples = waveform.samples_of(audio_format, path, encoding, work)
        seconds = _encode_samples(samples, task.format, output, work, report)
    else:
        arguments = plan.transcode(audio_format, str(path), task.format, str(output), encoding)
        seconds = ffmpeg.run(arguments, work, on_seconds=report)
    rows.keep(task, output, seconds)


def _encode_samples(
    samples: Iterator[Samples], target: str, output: Path, work: Path, report: Callable[[float], None]
) -> float:
    """Encode samples, including the silence in their gaps, and return their duration in seconds."""
    first = next((block for block in samples if block.data), None)
    if first is None:
        raise UndecodableChunkError("The recording has no audio that can be decoded.")
    frames = 0

    def blocks() -> Iterator[bytes]:
        nonlocal frames
        for block in itertools.chain([first], samples):
            yield block.data
            frames += len(block.data) // first.format.frame_bytes
            report(frames / first.format.sample_rate)

    ffmpeg.feed(plan.transcode_samples(first.format, target, str(output)), blocks(), work)
    return frames / first.format.sample_rate


def source(recording: Recording, work: Path, report: Callable[[float], None]) -> tuple[str, Path, str]:
    """Return the format, the file and the sample encoding of the best source for a transcode.

    That is the master of samples if there is one, otherwise the recording itself. A recording that has moved to the
    remote storage is copied into the folder first.

    Args:
        recording: A ready recording.
        work: The task's folder.
        report: Called while the recording is copied.

    Raises:
        StorageUnavailableError: The remote storage does not answer.
        ObjectDamagedError: The object differs from the recording.
        StorageFullError: The copy would take more than half of the free space.
    """
    if recording.master_encoding and (master := local.hard_link(paths.root() / recording.master_name, work)):
        return "wav", master, recording.master_encoding
    path = local.file_in(work, recording, on_block=lambda: report(0.0))
    if recording.format == "wav":
        return "wav", path, recording.master_encoding
    if recording.format in plan.CONTAINERS:
        return recording.format, path, encoding_of(path, recording.format, work)
    return recording.format, path, _flac_encoding(path) if recording.format == "flac" else "s16le"


def _flac_encoding(path: Path) -> str:
    with path.open("rb") as file:
        info = frames.flac_stream_info(file.read(_HEAD_BYTES))
    bits = info.bits if info else 16
    return "s16le" if bits <= 16 else "s24le" if bits <= 24 else "s32le"


def servable(session: AudioSession, audio_format: str) -> Servable:
    """Return a session's transcode to another format.

    Raises:
        AudioError: The transcode is not ready, as for `rows.file_of`.
    """
    task, path = rows.file_of(session, TaskKind.TRANSCODE, audio_format)
    at = task.ended_at or task.updated_at
    return Servable(
        path=path,
        head=b"",
        size_bytes=task.size_bytes or 0,
        content_type=plan.TARGETS[audio_format].content_type,
        etag=downloads.etag(task.file_name, task.size_bytes, at),
        download_name=f"{session.pk}.{audio_format}",
        modified_at=at,
    )
