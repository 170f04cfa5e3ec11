"""Waveforms of recordings, made from the peaks of the windows or by decoding the recording."""

from pathlib import Path

from django.db import transaction

from audio.jobs import rows, transcode
from audio.media import wav, waveform
from audio.media.waveform import OpenSpan, Readable, Waveform
from audio.models import AudioSession, BackgroundTask, DatabaseNow, Recording, RecordingState, TaskKind, TaskState
from audio.storage import downloads, durable, paths
from audio.storage.remote import remote_storage


def make(task: BackgroundTask, work: Path) -> None:
    """Make the waveform of a task's recording by decoding it. `work` is the working folder of the task."""
    recording = rows.ready_recording(task)
    report = rows.reporter(task, recording.duration_seconds or 0.0)
    audio_format, path, encoding = transcode.source(recording, work, report)
    output = work / f"{task.pk}.peaks"
    seconds = waveform.write(waveform.samples_of(audio_format, path, encoding, work), output, report)
    rows.keep(task, output, seconds)


def shown(
    session: AudioSession, recording: Recording, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform:
    """Return at most `points` peaks of a span of a recording.

    While samples are recorded, these are the peaks of the audio so far.

    Raises:
        AudioError: The errors of `rows.file_of`.
    """
    span = (points, start_seconds, end_seconds)
    if recording.state == RecordingState.LIVE and recording.master_encoding:
        found = waveform.so_far(
            paths.peaks_path(recording),
            downloads.master_format(session, recording).sample_rate,
            _master_frames(session, recording),
            *span,
        )
        return found or _scanned(session, recording, *span)
    _, path = rows.file_of(session, TaskKind.WAVEFORM)
    found = waveform.read(path, *span)
    if waveform.is_near(found, points) and _has_samples(recording):
        return _scanned(session, recording, *span)
    return found


def _scanned(
    session: AudioSession, recording: Recording, points: int, start_seconds: float, end_seconds: float | None
) -> Waveform:
    pcm = downloads.master_format(session, recording)
    data_bytes = max(0, recording.master_bytes - wav.HEADER_BYTES)
    return waveform.scan(_opener(recording), pcm, data_bytes, points, start_seconds, end_seconds)


def _master_frames(session: AudioSession, recording: Recording) -> int:
    pcm = downloads.master_format(session, recording)
    return max(0, recording.master_bytes - wav.HEADER_BYTES) // pcm.frame_bytes


def keep_peaks(recording: Recording) -> bool:
    """Make the waveform from the peaks of the windows, and return False if there are none."""
    peaks = paths.peaks_path(recording)
    if not recording.master_encoding or not peaks.exists():
        return False
    place = paths.folder(recording.pk) / paths.DERIVED_FOLDER
    place.mkdir(exist_ok=True)
    final, part = place / "recording.peaks", place / "recording.peaks.part"
    session = recording.session
    rate_hz = downloads.master_format(session, recording).sample_rate
    if not waveform.complete(peaks, part, rate_hz, _master_frames(session, recording)):
        return False
    size_bytes = durable.place(part, final)
    with transaction.atomic():
        # A deletion locks the session first too. In the other order the two could wait for each other.
        AudioSession.objects.select_for_update().filter(pk=recording.pk).first()
        # A rebuild that ended meanwhile has another `ready_at`.
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
            "project_id": recording.session.project_id,
            "state": TaskState.COMPLETED,
            "progress": 1.0,
            "seconds_done": recording.duration_seconds or 0.0,
            "file_name": rows.name_of(recording.pk, final),
            "size_bytes": size_bytes,
            "created_at": now,
            "updated_at": now,
            "ended_at": now,
        },
    )


def _has_samples(recording: Recording) -> bool:
    """Whether a WAV master exists, here or (if it is the recording itself) in the remote storage."""
    has_moved = recording.remote_at is not None and recording.master_name == recording.file_name
    return bool(recording.master_encoding) and (has_moved or (paths.root() / recording.master_name).exists())


def _opener(recording: Recording) -> OpenSpan:
    """Return a function that opens a span of the bytes of a WAV master, wherever the master is at that time."""
    name = recording.master_name

    def open_span(start: int, end: int) -> Readable:
        try:
            return waveform.from_file(paths.root() / name)(start, end)
        except FileNotFoundError:
            recording.refresh_from_db()
            if recording.remote_at is None or recording.file_name != name:
                raise
            return remote_storage().open_span(name, start, end)

    return open_span
