"""The export of a recording and its metadata as two files of a folder, `ID.FORMAT` and `ID.json`.

Each file is written under a temporary name, synced, and renamed at the end. The JSON is written last. So if the JSON
exists, the audio exists too and has the SHA-256 that the JSON names.
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from django.core.serializers.json import DjangoJSONEncoder

from audio.errors import MasterDamagedError, RecordingNotReadyError, TaskRunningError
from audio.jobs import rows, run, transcode
from audio.journal.files import sync_folder
from audio.models import AudioChunk, AudioSession, BackgroundTask, Recording, RecordingState, TaskKind
from audio.pages import in_pages
from audio.storage import downloads, paths
from audio.storage.downloads import Servable
from audio.storage.remote import remote_storage

if TYPE_CHECKING:  # boto3 takes long to import, and is not needed without a remote storage
    from audio.storage.s3 import SpanReader

OnProgress = Callable[[float], None]
_BLOCK_BYTES = 1 << 20
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Exported:
    """The two files that an export has written. Size and SHA-256 are those of the audio."""

    audio: Path
    metadata: Path
    size_bytes: int
    sha256: str


def export(
    session: AudioSession,
    described: dict[str, Any],
    folder: Path,
    audio_format: str = "",
    is_forced: bool = False,
    is_partial: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Exported:
    """Write the recording of a session, and a JSON file that describes it.

    Args:
        session: The session.
        described: The description of the session for the JSON.
        folder: The target folder; it is created if it does not exist.
        audio_format: Another format than the recording's, which may need a transcode.
        is_forced: Whether to replace existing files.
        is_partial: Whether to export the part of a failed recording that could be made.
        on_progress: Called with the progress of the writing, from 0 to 1.

    Raises:
        FileExistsError: One of the files exists; nothing was made or written.
        RecordingNotReadyError: The session is open. Other errors are those of `downloads.servable`.
        TaskFailedError, MasterDamagedError: The transcode failed, or the file differs from its SHA-256.
    """
    recording = Recording.objects.filter(pk=session.pk).first() or Recording(session=session)
    metadata = folder / f"{session.pk}.json"
    _check_absent(metadata, is_forced)
    if audio_format:
        _check_absent(folder / f"{session.pk}.{audio_format}", is_forced)
    found = _found(session, recording, audio_format, is_partial)
    audio = folder / found.download_name
    _check_absent(audio, is_forced)
    sha256 = _write_audio(found, recording, audio, is_forced, on_progress)
    is_complete = recording.state == RecordingState.READY
    details = {"file": audio.name, "size_bytes": found.size_bytes, "sha256": sha256, "complete": is_complete}
    with _written(metadata, is_forced) as file:
        file.writelines(_metadata(session, {"session": described, "audio": details}))
    sync_folder(folder)
    return Exported(audio, metadata, found.size_bytes, sha256)


def _write_audio(found: Servable, recording: Recording, audio: Path, is_forced: bool, on_progress: OnProgress) -> str:
    """Write a downloadable file to a new file, and return its SHA-256."""
    audio.parent.mkdir(parents=True, exist_ok=True)
    with _written(audio, is_forced) as file:
        sha256 = _copy(found, file, on_progress)
        if found.path == paths.root() / recording.file_name and recording.sha256 not in ("", sha256):
            raise MasterDamagedError("The SHA-256 of the recording differs from its row.")
    return sha256


def _check_absent(path: Path, is_forced: bool) -> None:
    if path.exists() and not is_forced:
        raise FileExistsError(errno.EEXIST, "exists already; --overwrite replaces it", str(path))


def _found(session: AudioSession, recording: Recording, audio_format: str, is_partial: bool) -> Servable:
    if recording.state == RecordingState.LIVE:
        raise RecordingNotReadyError
    own = downloads.servable(session, recording, is_partial)
    return own if audio_format in ("", recording.format) else _made(session, audio_format)


def _made(session: AudioSession, audio_format: str) -> Servable:
    """Transcode the recording in this process, unless a worker does that or has done it."""
    task: BackgroundTask = rows.enqueue(session, TaskKind.TRANSCODE, audio_format, again=True)
    while True:
        run.run(task.pk)
        try:
            return transcode.servable(session, audio_format)
        except TaskRunningError:
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _written(path: Path, is_forced: bool) -> Iterator[IO[bytes]]:
    """Yield a file to write, which is renamed to `path` if the block ends without an error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if is_forced:
            Path(name).replace(path)
        else:
            # Unlike a rename, a hard link fails if a file of that name has appeared since the check.
            path.hardlink_to(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _opened(found: Servable) -> "IO[bytes] | SpanReader":
    if found.remote_name:
        return remote_storage().open_span(found.remote_name, 0, found.size_bytes)
    return found.path.open("rb")


def _copy(found: Servable, file: IO[bytes], on_progress: OnProgress) -> str:
    """Copy the bytes of a download, and return their SHA-256."""
    digest, done = hashlib.sha256(), 0
    with _opened(found) as source:
        while block := source.read(min(_BLOCK_BYTES, found.size_bytes - done)):
            file.write(block)
            digest.update(block)
            done += len(block)
            on_progress(done / found.size_bytes)
    if done != found.size_bytes:
        raise MasterDamagedError
    return digest.hexdigest()


def _metadata(session: AudioSession, head: dict[str, Any]) -> Iterator[bytes]:
    """Yield the JSON piece by piece, because a session may have a million chunks."""
    opened = json.dumps(head, cls=DjangoJSONEncoder, indent=2).rstrip("}").rstrip()
    yield f'{opened},\n  "chunks": ['.encode()
    separator = "\n    "
    columns = ("sequence", "size_bytes", "crc32", "received_at", "source__name")
    for page in in_pages(AudioChunk.objects.filter(session=session), *columns):
        for row in page:
            chunk = dict(zip(("sequence", "size_bytes", "crc32", "received_at", "source"), row, strict=True))
            yield (separator + json.dumps(chunk, cls=DjangoJSONEncoder)).encode()
            separator = ",\n    "
    yield b"\n  ]\n}\n"
