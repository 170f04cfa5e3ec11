"""From a complete master to the recording. Every step can be repeated until the database says `ready`.

A WAV master and a stream's own bytes become the recording where they are, so closing costs no copy of them; a
container that needs an index is remuxed, decoded files are encoded.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audio.build.master import Master
from audio.build.routes import FilesRoute, Route, SecondPart, StreamRoute
from audio.build.store import folder_name, master_format
from audio.errors import FfmpegFailed, UndecodableChunk
from audio.journal.files import sync_folder
from audio.media import convert, ffmpeg, frames, plan, remux, wav
from audio.models import AudioSession

OnProgress = Callable[[float], None]
_TAIL_BYTES = 2 << 20
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """The recording: its name, relative to the storage root, format, size and length."""

    file_name: str
    format: str
    size_bytes: int
    duration_seconds: float


def finish(session: AudioSession, route: Route, master: Master, on_progress: OnProgress) -> Made:
    """Takes a session and its complete master; returns the recording, durable on the disk.

    `on_progress` is called with numbers from 0 to 1 while FFmpeg runs. Raises UndecodableChunk if the stream holds
    no audio, SecondPart if its parts can't be joined as they are, and what FFmpeg's runs raise.
    """
    match route:
        case StreamRoute() if session.format in ("mp3", "aac"):
            return _counted(session, route, master)
        case StreamRoute() if session.format == "flac":
            return _flac(session, master)
        case StreamRoute():
            return _remuxed(session, route, master)
        case FilesRoute():
            return _encoded(session, route, master, on_progress)
        case _:
            return _wav(session, route, master)


def _name(session_id: uuid.UUID, path: Path) -> str:
    return f"{folder_name(session_id)}/{path.name}"


def _wav(session: AudioSession, route: Route, master: Master) -> Made:
    pcm = master_format(session, route.encoding or convert.master_encoding(session.encoding))
    if not master.size_bytes:
        # Less than one sample came.
        master.append([wav.header(pcm, 0)])
    seconds = (master.size_bytes - wav.HEADER_BYTES) / pcm.frame_bytes / pcm.sample_rate
    return Made(_name(session.id, master.path), "wav", master.finish_wav(pcm), seconds)


def _counted(session: AudioSession, route: StreamRoute, master: Master) -> Made:
    if not route.counter.samples:
        raise UndecodableChunk(f"The stream holds no {session.format} frames.", sequence=1)
    master.sync()
    name = _name(session.id, master.path)
    return Made(name, session.format, master.size_bytes, route.counter.duration_seconds)


def _flac(session: AudioSession, master: Master) -> Made:
    """Writes the total into STREAMINFO where a live encoder left it open, or the stream ended before it."""
    info = frames.flac_stream_info(master.read(0, _HEAD_BYTES))
    if info is None:
        raise UndecodableChunk("The stream does not begin with a FLAC header.", sequence=1)
    at = max(0, master.size_bytes - _TAIL_BYTES)
    samples, _ = frames.flac_samples(master.read(at, _TAIL_BYTES), info)
    if not samples:
        raise UndecodableChunk("The stream holds no flac frames.", sequence=1)
    if samples != info.total_samples:
        master.patch(info.with_total(samples).body, info.offset)
    master.sync()
    return Made(_name(session.id, master.path), "flac", master.size_bytes, samples / info.sample_rate)


def _remuxed(session: AudioSession, route: StreamRoute, master: Master) -> Made:
    spans = route.spans()
    if not spans:
        raise route.undecodable.error or UndecodableChunk(f"The stream holds no {session.format} audio.", sequence=1)

    def make(output: Path, work: Path) -> float:
        try:
            return remux.copy(master.path, spans, session.format, route.codec, output, work)
        except FfmpegFailed as error:
            if len(spans) == 1:
                raise
            raise SecondPart from error

    return _made_by(session, master, make)


def _encoded(session: AudioSession, route: Route, master: Master, on_progress: OnProgress) -> Made:
    if not master.size_bytes:
        raise route.undecodable.error or UndecodableChunk(sequence=1)
    pcm = master_format(session, route.encoding)
    seconds = (master.size_bytes - wav.HEADER_BYTES) / pcm.frame_bytes / pcm.sample_rate
    master.finish_wav(pcm)

    def make(output: Path, work: Path) -> float:
        arguments = plan.encode(session.format, str(master.path), str(output), pcm.encoding)
        ffmpeg.run(arguments, work, on_seconds=lambda done: on_progress(min(1.0, done / seconds)))
        return seconds

    return _made_by(session, master, make)


def _made_by(session: AudioSession, master: Master, make: Callable[[Path, Path], float]) -> Made:
    """Lets FFmpeg write a file beside the master, syncs it, and gives it its name, which has the master's claim."""
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
