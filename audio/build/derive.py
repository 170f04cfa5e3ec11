"""What is made of a recording: its waveform, and when somebody asks other formats, each once; and its verification.

    pending --run--> running --complete--> completed
        \\__revoke______|____fail_________> revoked, failed

A request is a row (`BackgroundTask`); two at once get the same one. A run holds an flock in a folder of its own,
which goes when it ends, and commits only while its row says `running`: a revoked run sees that when it next tells
how far it is, at most about a second later, and its FFmpeg is killed.
"""

import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import structlog
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from structlog.contextvars import bound_contextvars

from audio import dispatch
from audio.build import concatenate, local, store, verify, waveform
from audio.build.lock import LOCK_NAME, file_lock, session_lock
from audio.build.store import Servable
from audio.build.waveform import OpenSpan, Readable, Waveform
from audio.errors import (
    AudioError,
    RecordingNotReady,
    SessionBusy,
    SessionNotFound,
    TaskEnded,
    TaskFailed,
    TaskNotFound,
    TaskRunning,
    UndecodableChunk,
)
from audio.journal.files import sync_folder
from audio.media import ffmpeg, frames, plan, wav
from audio.media.pcm import encoding_of
from audio.media.wav import Samples
from audio.models import (
    AudioSession,
    BackgroundTask,
    DatabaseNow,
    Recording,
    RecordingState,
    TaskKind,
    TaskState,
)

logger = structlog.stdlib.get_logger(__name__)

_PROGRESS_SECONDS = 1.0
_DETAIL_CHARACTERS = 500
_HEAD_BYTES = 1 << 20
_ATTEMPTS = 5
_MADE_OF_RECORDINGS = (TaskKind.TRANSCODE, TaskKind.WAVEFORM)


class Revoked(Exception):
    """The row does not say `running` any more: the run may commit nothing."""


def ask(session: AudioSession, kind: TaskKind, audio_format: str = "", again: bool = False) -> BackgroundTask:
    """Takes a session, what to make of it, and the format of a transcode; returns the task that makes it, or has.

    Asked twice, made once. One that failed is tried anew if `again`. Raises RecordingNotReady, or what
    `store.servable` raises, where there is no finished recording to make it of; SessionNotFound.
    """
    if kind in _MADE_OF_RECORDINGS:
        _require_ready(session)
    for _ in range(_ATTEMPTS):
        current = BackgroundTask.objects.filter(session=session, kind=kind, format=audio_format, is_current=True)
        task = current.first()
        if task is not None and again and task.state == TaskState.FAILED:
            current.filter(pk=task.pk).update(is_current=False)
            task = None
        if task is None:
            task = _new(session, kind, audio_format)
        if task is not None:
            return task
    raise SessionNotFound(session_id=str(session.pk))


def _require_ready(session: AudioSession) -> None:
    recording = Recording.objects.filter(pk=session.pk).first() or Recording(session=session)
    if recording.state == RecordingState.LIVE:
        raise RecordingNotReady
    store.servable(session, recording)


def _new(session: AudioSession, kind: TaskKind, audio_format: str) -> BackgroundTask | None:
    """Inserts a row and asks for its task; None if another request was first, or the session is gone."""
    try:
        with transaction.atomic():
            task = BackgroundTask.objects.create(
                session=session, kind=kind, format=audio_format, created_at=DatabaseNow(), updated_at=DatabaseNow()
            )
            task.refresh_from_db(fields=["created_at", "updated_at"])
    except IntegrityError:
        return None
    request(task)
    return task


def request(task: BackgroundTask) -> None:
    """Asks the broker for a task that has a row."""
    dispatch.background(task.pk, task.kind, task.session_id, task.format)


def find(task_id: str) -> BackgroundTask:
    """Returns the task with that id; raises TaskNotFound."""
    try:
        key = uuid.UUID(task_id)
    except ValueError:
        raise TaskNotFound(task_id=task_id[:64]) from None
    task = BackgroundTask.objects.select_related("session__recording").filter(pk=key).first()
    if task is None:
        raise TaskNotFound(task_id=task_id[:64])
    return task


def revoke(task_id: str) -> None:
    """Revokes a task that waits or runs; a second time is no error. Raises TaskNotFound or TaskEnded.

    The request alone is revoked of a concatenation: every recording is made.
    """
    task = find(task_id)
    if not BackgroundTask.objects.filter(pk=task.pk).revoke() and find(task_id).state != TaskState.REVOKED:
        raise TaskEnded(task_id=str(task.pk))


def file_of(session: AudioSession, kind: TaskKind, audio_format: str = "") -> tuple[BackgroundTask, Path]:
    """Asks for what can be made of a session; returns its task and its file.

    Raises what `ask` raises; TaskRunning while it is made and TaskFailed if it could not be.
    """
    task = ask(session, kind, audio_format)
    match task.state:
        case TaskState.COMPLETED:
            return task, store.root() / task.file_name
        case TaskState.FAILED:
            raise TaskFailed(f"The task failed: {task.error_detail}", task_id=str(task.pk), reason=task.error_code)
        case _:
            raise TaskRunning(task_id=str(task.pk), status=task.state, progress=round(task.progress, 3))


def servable(session: AudioSession, audio_format: str) -> Servable:
    """Takes a session and another format than its recording's; returns the file in it, or raises as `file_of` does."""
    task, path = file_of(session, TaskKind.TRANSCODE, audio_format)
    at = task.ended_at or task.updated_at
    return Servable(
        path=path,
        head=b"",
        size_bytes=task.size_bytes or 0,
        content_type=plan.TARGETS[audio_format].content_type,
        etag=store.etag(task.file_name, task.size_bytes, at),
        download_name=f"{session.pk}.{audio_format}",
        modified_at=at,
    )


def waveform_of(
    session: AudioSession, recording: Recording, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform:
    """Takes a session, its recording and a span of it; returns at most `points` peaks of that span.

    While samples are being recorded, those of what is concatenated so far. Raises what `file_of` raises.
    """
    span = (points, start_seconds, end_seconds)
    if recording.state == RecordingState.LIVE and recording.master_encoding:
        found = waveform.so_far(
            store.peaks_path(recording),
            store.master_format(session, recording).sample_rate,
            _master_frames(session, recording),
            *span,
        )
        return found or _scanned(session, recording, *span)
    _, path = file_of(session, TaskKind.WAVEFORM)
    shown = waveform.read(path, *span)
    if waveform.is_near(shown, points) and _has_samples(recording):
        return _scanned(session, recording, *span)
    return shown


def _scanned(
    session: AudioSession, recording: Recording, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform:
    pcm = store.master_format(session, recording)
    data_bytes = max(0, recording.master_bytes - wav.HEADER_BYTES)
    return waveform.scan(_opener(recording), pcm, data_bytes, points, start_seconds, end_seconds)


def _master_frames(session: AudioSession, recording: Recording) -> int:
    pcm = store.master_format(session, recording)
    return max(0, recording.master_bytes - wav.HEADER_BYTES) // pcm.frame_bytes


def make_recording(session_id: uuid.UUID) -> None:
    """Brings a session's recording as far as its chunks allow (`audio.build.concatenate`); one that is ready gets its
    waveform, and then its upload is asked for (`audio.build.upload`).

    Raises what `concatenate` raises.
    """
    concatenate.concatenate(session_id)
    recording = Recording.objects.select_related("session").filter(pk=session_id, state=RecordingState.READY).first()
    if recording is None:
        return
    if not _waveforms(session_id).exists():
        with session_lock(session_id) as is_ours:
            if is_ours and not _keep_peaks(recording):
                ask(recording.session, TaskKind.WAVEFORM)
    if recording.is_local:
        dispatch.upload(session_id)


def _waveforms(session_id: uuid.UUID) -> QuerySet[BackgroundTask]:
    return BackgroundTask.objects.filter(session=session_id, kind=TaskKind.WAVEFORM, is_current=True)


def _keep_peaks(recording: Recording) -> bool:
    """Makes the waveform of the peaks that the windows have left; returns False where they left none."""
    peaks = store.peaks_path(recording)
    if not recording.master_encoding or not peaks.exists():
        return False
    place = store.folder(recording.pk) / store.DERIVED_FOLDER
    place.mkdir(exist_ok=True)
    final, part = place / "recording.peaks", place / "recording.peaks.part"
    session = recording.session
    rate_hz = store.master_format(session, recording).sample_rate
    if not waveform.complete(peaks, part, rate_hz, _master_frames(session, recording)):
        return False
    size_bytes = _place(part, final)
    with transaction.atomic():
        # The session first, as a deletion locks it: in the other order the two would wait for one another.
        AudioSession.objects.select_for_update().filter(pk=recording.pk).first()
        # It was not made anew meanwhile.
        if Recording.objects.select_for_update().filter(pk=recording.pk, ready_at=recording.ready_at).exists():
            _record_waveform(recording, final, size_bytes)
    peaks.unlink(missing_ok=True)
    return True


def _record_waveform(recording: Recording, final: Path, size_bytes: int) -> None:
    now = DatabaseNow()
    BackgroundTask.objects.get_or_create(
        session_id=recording.pk,
        kind=TaskKind.WAVEFORM,
        is_current=True,
        defaults={
            "state": TaskState.COMPLETED,
            "progress": 1.0,
            "seconds_done": recording.duration_seconds or 0.0,
            "file_name": _derived_name(recording.pk, final),
            "size_bytes": size_bytes,
            "created_at": now,
            "updated_at": now,
            "ended_at": now,
        },
    )


def _has_samples(recording: Recording) -> bool:
    """Whether there is a WAV master, here or, being the recording itself, in the remote storage."""
    has_moved = recording.remote_at is not None and recording.master_name == recording.file_name
    return bool(recording.master_encoding) and (has_moved or (store.root() / recording.master_name).exists())


def _opener(recording: Recording) -> OpenSpan:
    """Returns what opens a span of the bytes of a WAV master, wherever it is by then."""
    name = recording.master_name

    def open_span(start: int, end: int) -> Readable:
        try:
            return waveform.from_file(store.root() / name)(start, end)
        except FileNotFoundError:
            recording.refresh_from_db()
            if recording.remote_at is None or recording.file_name != name:
                raise
            return store.remote().open_span(name, start, end)

    return open_span


def run(task_id: uuid.UUID) -> None:
    """Does the task with that id, unless it has ended, is gone, or another run is at it.

    A fault of the media, or of the recording's state, makes it `failed`; any other error, and every one that may
    pass by itself, is raised, and the same call may succeed later.
    """
    task = BackgroundTask.objects.select_related("session").filter(pk=task_id).first()
    if task is None:
        return
    work = store.folder(task.session_id) / store.DERIVED_FOLDER / str(task_id)
    try:
        with _named(task), file_lock(work / LOCK_NAME) as is_ours:
            if is_ours:
                _begin(task, work)
    finally:
        # Deleted meanwhile: what this run has put there again goes too.
        if not AudioSession.objects.filter(pk=task.session_id).exists():
            store.delete_files(task.session_id)


def _named(task: BackgroundTask) -> AbstractContextManager[None]:
    """Says in every line of the log what it is about."""
    what = f"{task.kind} {task.format}".strip()
    return bound_contextvars(session_id=str(task.session_id), task_id=str(task.pk), task=what)


def _begin(task: BackgroundTask, work: Path) -> None:
    row = BackgroundTask.objects.filter(pk=task.pk)
    try:
        if row.start():
            _MAKERS[TaskKind(task.kind)](task, work)
            logger.info("task_ended")
    except Revoked:
        logger.info("task_revoked")
    except AudioError as error:
        if error.retryable:
            raise
        fail(task.pk, error)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fail(task_id: uuid.UUID, error: AudioError) -> None:
    """Makes a running task `failed`."""
    if BackgroundTask.objects.filter(pk=task_id).fail(error.code, error.detail[:_DETAIL_CHARACTERS]):
        logger.warning("task_failed", task_id=str(task_id), code=error.code, error=error.detail)


def outcome(task_id: uuid.UUID) -> dict[str, Any]:
    """Takes a task's id; returns its `status`, and what it made or why it failed. It is `deleted` with its session."""
    task = BackgroundTask.objects.filter(pk=task_id).first()
    if task is None:
        return {"status": "deleted"}
    if task.state == TaskState.FAILED:
        return {"status": task.state, "code": task.error_code, "detail": task.error_detail}
    return {"status": task.state, "seconds_done": task.seconds_done, "size_bytes": task.size_bytes}


def _teller(task: BackgroundTask, total_seconds: float) -> Callable[[float], None]:
    """Returns what writes the seconds done into the row, at most once a second, and raises Revoked."""
    told_at = time.monotonic()

    def tell(seconds: float) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at < _PROGRESS_SECONDS:
            return
        told_at = now
        progress = min(1.0, seconds / total_seconds) if total_seconds else 0.0
        if not BackgroundTask.objects.filter(pk=task.pk).tell(progress, seconds):
            raise Revoked

    return tell


def _ready_recording(task: BackgroundTask) -> Recording:
    _require_ready(task.session)
    return Recording.objects.get(pk=task.session_id)


def _transcode(task: BackgroundTask, work: Path) -> None:
    recording = _ready_recording(task)
    tell = _teller(task, recording.duration_seconds or 0.0)
    audio_format, path, encoding = source(recording, work, tell)
    output = work / f"{task.pk}.{task.format}"
    if audio_format in plan.CONTAINERS:
        samples = waveform.samples_of(audio_format, path, encoding, work)
        seconds = _transcode_samples(samples, task.format, output, work, tell)
    else:
        arguments = plan.transcode(audio_format, str(path), task.format, str(output), encoding)
        seconds = ffmpeg.run(arguments, work, on_seconds=tell)
    _keep(task, output, seconds)


def _transcode_samples(
    samples: Iterator[Samples], target: str, output: Path, work: Path, tell: Callable[[float], None]
) -> float:
    """Make samples into a format, the silence in their gaps too; return how many seconds they last."""
    first = next((block for block in samples if block.data), None)
    if first is None:
        raise UndecodableChunk("The recording has no audio that can be decoded.")
    frames = 0

    def blocks() -> Iterator[bytes]:
        nonlocal frames
        for block in itertools.chain([first], samples):
            yield block.data
            frames += len(block.data) // first.format.frame_bytes
            tell(frames / first.format.sample_rate)

    ffmpeg.feed(plan.transcode_samples(first.format, target, str(output)), blocks(), work)
    return frames / first.format.sample_rate


def source(recording: Recording, work: Path, tell: Callable[[float], None]) -> tuple[str, Path, str]:
    """Takes a ready recording and the task's folder; returns what is best made into something else: its format, its
    file, and the encoding of its samples. That is the master of samples where one was kept, else the recording itself.

    A recording that is not here is copied into the folder first; `tell` is then called as the work goes on. Raises
    StorageUnavailable, ObjectDamaged, or StorageFull if the copy would take more than half of the space that is left.
    """
    if recording.master_encoding and (master := local.held(store.root() / recording.master_name, work)):
        return "wav", master, recording.master_encoding
    path = local.file_in(work, recording, on_block=lambda: tell(0.0))
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


def _waveform(task: BackgroundTask, work: Path) -> None:
    recording = _ready_recording(task)
    tell = _teller(task, recording.duration_seconds or 0.0)
    audio_format, path, encoding = source(recording, work, tell)
    output = work / f"{task.pk}.peaks"
    seconds = waveform.write(waveform.samples_of(audio_format, path, encoding, work), output, tell)
    _keep(task, output, seconds)


def _keep(task: BackgroundTask, output: Path, seconds: float) -> None:
    """Makes the file durable, gives it its place, and commits it."""
    final = store.folder(task.session_id) / store.DERIVED_FOLDER / output.name
    size_bytes = _place(output, final)
    row = BackgroundTask.objects.filter(pk=task.pk)
    name = _derived_name(task.session_id, final)
    if not row.complete(file_name=name, size_bytes=size_bytes, seconds_done=seconds):
        final.unlink(missing_ok=True)
        raise Revoked


def _place(output: Path, final: Path) -> int:
    """Gives a finished file its name, durably; returns its size."""
    with output.open("rb") as file:
        os.fsync(file.fileno())
        size_bytes = os.fstat(file.fileno()).st_size
    output.replace(final)
    for folder in (final.parent, final.parent.parent):
        sync_folder(folder)
    return size_bytes


def _derived_name(session_id: uuid.UUID, path: Path) -> str:
    return f"{store.folder_name(session_id)}/{store.DERIVED_FOLDER}/{path.name}"


def _concatenate(task: BackgroundTask, work: Path) -> None:
    make_recording(task.session_id)
    row = BackgroundTask.objects.filter(pk=task.pk)
    recording = Recording.objects.select_related("session").filter(pk=task.session_id).first()
    if recording is None or _is_unfinished(recording):
        # Another run is at it.
        raise SessionBusy
    if recording.state == RecordingState.FAILED:
        row.fail(recording.error_code, recording.error_detail)
    else:
        row.complete(is_current=False)


def _verify(task: BackgroundTask, work: Path) -> None:
    recording = Recording.objects.filter(pk=task.session_id).first()
    seconds = (recording.duration_seconds if recording else None) or 0.0
    tell = _teller(task, seconds)
    found = verify.session(task.session_id, lambda progress: tell(progress * seconds))
    BackgroundTask.objects.filter(pk=task.pk).complete(is_current=False, report=found.as_dict(), seconds_done=seconds)


def _is_unfinished(recording: Recording) -> bool:
    """Whether the session is closed and its recording neither there nor given up."""
    session = recording.session
    is_final = recording.state in (RecordingState.READY, RecordingState.FAILED)
    return session.total_chunks > 0 and not session.is_open and not is_final


_MAKERS: dict[TaskKind, Callable[[BackgroundTask, Path], None]] = {
    TaskKind.CONCATENATE: _concatenate,
    TaskKind.TRANSCODE: _transcode,
    TaskKind.WAVEFORM: _waveform,
    TaskKind.VERIFY: _verify,
}
