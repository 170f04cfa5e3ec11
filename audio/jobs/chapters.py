"""Recordings and transcodes with the markers of their session as chapters, copied packet by packet.

The file of a recording does not change with its markers. So the chapters are in another file, which is made at the
first request. Its name contains a digest of its chapters, so that it is made again after a change of the markers.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from audio.errors import TaskFailedError, TaskRunningError
from audio.jobs import rows, transcode
from audio.media import chapters, ffmpeg, plan
from audio.models import AudioSession, BackgroundTask, Recording, TaskKind
from audio.storage import cued, downloads, local
from audio.storage.downloads import Servable

_HEAD_BYTES = 64
_DIGEST_CHARACTERS = 16


def servable(session: AudioSession, recording: Recording, audio_format: str) -> Servable:
    """Return the recording of a session, or its transcode to another format, with its markers as chapters.

    Raises:
        TaskRunningError: The file is being made.
        TaskFailedError: It could not be made. The next call starts again.
        AudioError: The recording or the transcode is not ready.
    """
    rows.require_ready(session)
    is_own = audio_format == recording.format
    plain = downloads.servable(session, recording) if is_own else transcode.servable(session, audio_format)
    text = _metadata(recording, audio_format)
    if text is None:
        return plain
    try:
        task, path = rows.file_of(session, TaskKind.CHAPTERS, audio_format)
    except TaskFailedError as error:
        BackgroundTask.objects.filter(pk=error.details["task_id"]).update(is_current=False)
        raise
    if _digest(text) not in path.name:
        _forget(task, path)
        rows.file_of(session, TaskKind.CHAPTERS, audio_format)
        raise TaskRunningError(task_id=str(task.pk))
    at = task.ended_at or task.updated_at
    etag = downloads.etag(task.file_name, task.size_bytes, at)
    size_bytes = task.size_bytes or 0
    return replace(plain, path=path, head=b"", size_bytes=size_bytes, etag=etag, modified_at=at, remote_name="")


def _metadata(recording: Recording, audio_format: str) -> str | None:
    """Return the chapters as FFmpeg reads them; None if there are no markers."""
    marked = cued.cues_of(recording.pk)
    return chapters.metadata(audio_format, marked, recording.duration_seconds or 0.0) if marked else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _forget(task: BackgroundTask, path: Path) -> None:
    """Remove a file whose chapters are no longer those of the session."""
    if BackgroundTask.objects.filter(pk=task.pk, is_current=True).update(is_current=False):
        path.unlink(missing_ok=True)


def make(task: BackgroundTask, work: Path) -> None:
    """Make the file with chapters of a task. `work` is its working folder."""
    recording = rows.ready_recording(task)
    report = rows.reporter(task, recording.duration_seconds or 0.0)
    if task.format == recording.format:
        path = local.file_in(work, recording, on_block=lambda: report(0.0))
    else:
        _, path = rows.file_of(task.session, TaskKind.TRANSCODE, task.format)
    # Somebody may have deleted the last marker meanwhile.
    text = _metadata(recording, task.format) or chapters.metadata(task.format, [], 0.0)
    listing = work / "chapters.txt"
    listing.write_text(text)
    output = work / f"{task.pk}-{_digest(text)}.{task.format}"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    seconds = ffmpeg.run(
        plan.chapters(task.format, str(path), str(listing), str(output), head), work, on_seconds=report
    )
    if task.format == "mp3":
        output = _tagged(path, chapters.id3_bytes(head), output)
        seconds = recording.duration_seconds or 0.0
    rows.keep(task, output, seconds)


def _tagged(path: Path, skipped_bytes: int, tag: Path) -> Path:
    """Return an MP3 file with only the tag of another file.

    Its frames do not change. FFmpeg would replace the first one, which tells players how much silence to skip.
    """
    with tag.open("r+b") as output, path.open("rb") as file:
        output.truncate(chapters.id3_bytes(output.read(_HEAD_BYTES)))
        output.seek(0, 2)
        file.seek(skipped_bytes)
        shutil.copyfileobj(file, output, 1 << 20)
    return tag
