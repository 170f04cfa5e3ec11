"""The finished file of a recording."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audio.assembly.losses import Failure, Losses
from audio.assembly.master import Master
from audio.errors import MediaError, UndecodableChunkError, UnsupportedMediaError
from audio.media import ffmpeg
from audio.models import AudioSession
from audio.storage import durable
from audio.storage.paths import folder_name


@dataclass(frozen=True, slots=True)
class Made:
    """A recording: its name, relative to the storage root, format, size and length."""

    file_name: str
    format: str
    size_bytes: int
    duration_seconds: float


def name_of(session_id: uuid.UUID, path: Path) -> str:
    """Return the name of a file in the session's folder, relative to the storage root."""
    return f"{folder_name(session_id)}/{path.name}"


def beside(session: AudioSession, master: Master, make: Callable[[Path, Path], float]) -> Made:
    """Make a durable recording beside its master, with the same token in its name.

    Args:
        session: The session.
        master: The master.
        make: Called with the path to write and a folder for working files. It returns the length in seconds.
    """
    final = master.path.parent / f"{master.path.stem.replace('master', 'recording')}.{session.format}"
    with ffmpeg.working_folder(final.parent) as work:
        output = work / final.name
        seconds = make(output, work)
        size_bytes = durable.place(output, final)
    return Made(name_of(session.id, final), session.format, size_bytes, seconds)


def no_audio(losses: Losses) -> MediaError:
    """Return the error of a recording without audio: that of its first part, if one was left out."""
    failure = losses.failure or Failure(UndecodableChunkError.code, "The session has no audio.", 1)
    kind = UnsupportedMediaError if failure.code == UnsupportedMediaError.code else UndecodableChunkError
    return kind(failure.detail, sequence=failure.sequence)
