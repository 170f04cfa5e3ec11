"""The parts of a session that can be downloaded: its recording, the audio so far, or a part of a failed recording."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from audio.errors import RecordingBuildingError, RecordingEmptyError, RecordingFailedError
from audio.media import wav
from audio.media.plan import FORMATS
from audio.media.samples import PcmFormat
from audio.models import AudioSession, Recording, RecordingState
from audio.storage.paths import root


@dataclass(frozen=True, slots=True)
class Servable:
    """A file to download. `head` replaces the first bytes of the file at `path`, and `tail` follows it.

    `size_bytes` counts the bytes that are served. `etag` is strong and quoted (RFC 9110 section 8.8.3). `remote_name`
    names the object in the remote storage to which the file has moved; it is empty if the file is local. `is_growing`
    says that the next request may get a longer file.
    """

    path: Path
    head: bytes
    size_bytes: int
    content_type: str
    etag: str
    download_name: str
    modified_at: datetime
    remote_name: str = ""
    tail: bytes = b""
    is_growing: bool = False


def master_format(session: AudioSession, recording: Recording) -> PcmFormat:
    """Return the format of the samples in a session's WAV master."""
    rate, channels = recording.sample_rate or session.sample_rate, recording.channels or session.channels
    return PcmFormat(recording.master_encoding, rate, channels)


def servable(session: AudioSession, recording: Recording, is_partial: bool = False) -> Servable:
    """Return the download of a session: its recording, or the audio so far.

    Args:
        session: The session.
        recording: Its recording.
        is_partial: Whether to accept the part of a failed recording that could be made.

    Raises:
        RecordingEmptyError: There is nothing yet, and there may never be.
        RecordingBuildingError: The recording is being made.
        RecordingFailedError: The recording could not be made, or no part of it.
    """
    match recording.state:
        case RecordingState.READY:
            return _ready(session, recording)
        case RecordingState.LIVE if recording.master_bytes:
            return replace(_snapshot(session, recording), is_growing=True)
        case RecordingState.FAILED if is_partial and has_part(recording):
            return _part(session, recording)
        case RecordingState.FAILED:
            raise RecordingFailedError(
                f"The recording could not be made: {recording.error_detail}",
                reason=recording.error_code,
                sequence=recording.failed_sequence,
            )
        case RecordingState.BUILDING:
            raise RecordingBuildingError(progress=round(recording.progress, 3))
        case _ if session.total_chunks and not session.is_open:
            # No worker has started yet.
            raise RecordingBuildingError(progress=0.0)
        case _:
            raise RecordingEmptyError


def _ready(session: AudioSession, recording: Recording) -> Servable:
    at = recording.ready_at or recording.updated_at
    return Servable(
        path=root() / recording.file_name,
        head=b"",
        size_bytes=recording.size_bytes or 0,
        content_type=FORMATS[recording.format].content_type,
        etag=etag(recording.file_name, recording.size_bytes, at),
        download_name=f"{session.id}.{recording.format}",
        modified_at=at,
        remote_name=recording.file_name if recording.remote_at else "",
    )


def has_part(recording: Recording) -> bool:
    """Whether a failed recording has a part that could be made."""
    header_bytes = wav.HEADER_BYTES if recording.master_encoding else 0
    is_made = bool(recording.size_bytes) or recording.master_bytes > header_bytes
    return recording.state == RecordingState.FAILED and is_made


def _part(session: AudioSession, recording: Recording) -> Servable:
    found = _ready(session, recording) if recording.size_bytes else _snapshot(session, recording)
    return replace(found, download_name=f"{session.id}-incomplete{Path(found.download_name).suffix}")


def _snapshot(session: AudioSession, recording: Recording) -> Servable:
    head, audio_format = b"", session.format
    if recording.master_encoding:
        pcm = master_format(session, recording)
        head, audio_format = wav.header(pcm, recording.master_bytes - wav.HEADER_BYTES), "wav"
    return Servable(
        path=root() / recording.master_name,
        head=head,
        size_bytes=recording.master_bytes,
        content_type=FORMATS[audio_format].content_type,
        etag=etag(recording.master_name, recording.master_bytes, None),
        download_name=f"{session.id}-live.{audio_format}",
        modified_at=recording.updated_at,
    )


def etag(name: str, size_bytes: int | None, at: datetime | None) -> str:
    """Return the strong validator of a file of a session.

    Bytes below a committed length never change. So the name, the length and the time of completion identify the
    content.
    """
    digest = hashlib.sha256(f"{name} {size_bytes} {at.isoformat() if at else 'live'}".encode()).hexdigest()
    return f'"{digest[:32]}"'


def duration_seconds(session: AudioSession, recording: Recording) -> float | None:
    """Return the length of a ready recording, or of the samples so far.

    It is None for a compressed stream that is not ready, because its bytes do not show the length.
    """
    if recording.duration_seconds is not None:
        return recording.duration_seconds
    if not session.total_chunks:
        return 0.0
    if not recording.master_encoding or not recording.master_bytes:
        return None
    pcm = master_format(session, recording)
    return (recording.master_bytes - wav.HEADER_BYTES) // pcm.frame_bytes / pcm.sample_rate
