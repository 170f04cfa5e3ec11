"""The comparison of a ready recording with its chunks: assembly runs again, and its output is compared and not kept.

Memory is limited. Only WebM, Ogg and MP4 streams need space on the disk: two files of the size of the recording, in a
working folder. The comparison depends on the format (`audio.assembly.assembler.Assembler.compare`):

    PCM and WAV                   every sample, and the header
    MP3, ADTS and FLAC streams    every byte, except FLAC's STREAMINFO, in which the total is written at the end
    WebM, Ogg and MP4 streams     every packet, because the containers contain random numbers
    FLAC files, one by one        every sample
    other files, resampled audio  the number of samples, because the last bit depends on where the windows ended
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from audio.assembly import chunks, families
from audio.assembly.assembler import PartsDifferError
from audio.assembly.chunks import PendingChunk
from audio.assembly.comparison import ReadyRecording, RecordingDiffersError
from audio.errors import MediaError, SessionBusyError
from audio.media import ffmpeg
from audio.models import AudioSession, Recording
from audio.storage import paths
from audio.storage.lock import session_lock

OnChunk = Callable[[int], None]


def compare(session: AudioSession, recording: Recording, path: Path, on_chunk: OnChunk) -> None:
    """Compare the ready recording of a closed session with its chunks.

    Args:
        session: The session.
        recording: Its recording.
        path: The recording's file.
        on_chunk: Called after each window with the sequence of the last compared chunk.

    Raises:
        RecordingDiffersError: The chunks make another recording.
        SessionBusyError: Another run is working on the session.
        MediaError: An error that may pass.
    """
    try:
        with session_lock(session.pk) as is_ours:
            if not is_ours:
                raise SessionBusyError
            paths.clear_leftovers(session.pk)
            with ffmpeg.working_folder(paths.folder(session.pk)) as work:
                ready = ReadyRecording(recording, path, work)
                families.of_ready(session, recording).compare(ready, _windows(session, on_chunk))
    except MediaError as error:
        if error.retryable:
            raise
        raise RecordingDiffersError(error.detail) from error
    except PartsDifferError as error:
        raise RecordingDiffersError("The parts of the stream no longer fit together.") from error


def compare_header(session: AudioSession, recording: Recording, path: Path) -> None:
    """Compare the header of a ready recording whose chunks are deleted.

    Raises:
        RecordingDiffersError: The header has changed.
    """
    families.of_ready(session, recording).compare_header(recording, path)


def _windows(session: AudioSession, on_chunk: OnChunk) -> Iterator[tuple[Sequence[PendingChunk], bool]]:
    """Yield all windows of a closed session, each with whether it is the last."""
    sequence, is_last = 0, False
    while not is_last:
        window = chunks.window_after(session.pk, sequence)
        sequence = window[-1].sequence if window else sequence
        is_last = not window or sequence >= session.total_chunks
        yield window, is_last
        on_chunk(sequence)
