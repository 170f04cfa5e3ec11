"""The protocol of an assembler, which makes the recordings of one format family (`audio.media.plan.Family`).

An assembler gets windows of chunks and yields pieces for the master. Its `checkpoint` contains all that it needs for
the next window. This is JSON of limited size, and is committed together with the length of the master. The same chunks
and checkpoint give the same pieces, so a run that has died is simply repeated. When the master is complete, the
assembler makes the recording from it. A verification gives all windows to a new assembler, which compares the recording
with them.

Each family has a module of its own. Only `audio.assembly.families` names all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from audio.assembly.chunks import PendingChunk
from audio.assembly.comparison import ReadyRecording
from audio.assembly.losses import Losses
from audio.assembly.made import Made
from audio.assembly.master import Master
from audio.media.plan import Family
from audio.media.samples import PcmFormat
from audio.models import AudioSession, Recording

OnProgress = Callable[[float], None]
Windows = Iterable[tuple[Sequence[PendingChunk], bool]]


class PartsDifferError(Exception):
    """The parts of a stream cannot be copied into one recording. All chunks have to be decoded."""


class Assembler(Protocol):
    """The interface of a format family.

    Attributes:
        family: The family, which a checkpoint stores to find its assembler again.
        looked_to: The last sequence that the assembler has seen.
        done_to: The last sequence whose audio is in the master.
        losses: The audio that the master lacks, or that is in doubt.
    """

    family: ClassVar[Family]
    looked_to: int
    done_to: int
    losses: Losses

    def __init__(
        self, session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]
    ) -> None:
        """Continue from the state of another assembler of the session.

        Args:
            session: The session.
            target: The format of the master's samples; None while it is unknown, and for a stream.
            done_to: The last sequence whose audio is in the master.
            checkpoint: The value of its `checkpoint`; empty at the beginning.
        """
        ...

    @property
    def format(self) -> PcmFormat | None:
        """The format of a WAV master's samples; None while it is unknown, and for a stream."""
        ...

    @property
    def seconds(self) -> float:
        """The length of the audio so far; 0 if it is known only at the end of the stream."""
        ...

    @property
    def untimed_bytes(self) -> int | None:
        """The number of bytes so far, if times are known only at the end of the stream (`moments`); otherwise None."""
        ...

    def moments(self, offsets: Sequence[int], master: Path) -> list[float]:
        """Return the positions in the recording of the first audio after these lengths of a complete stream.

        Args:
            offsets: Values of `untimed_bytes`, in order.
            master: The path of the complete master.
        """
        ...

    @property
    def sample_rate(self) -> int:
        """The sample rate of the master in Hz; 0 while it is not known."""
        ...

    @property
    def channels(self) -> int:
        """The channels of the master; 0 while they are not known."""
        ...

    @property
    def suffix(self) -> str:
        """The suffix of the master's name."""
        ...

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Yield pieces for the master from the next window, which may be empty.

        Args:
            window: The next chunks.
            is_last: Whether no chunk follows them.

        Raises:
            PartsDifferError: The session needs the family that decodes.
        """
        ...

    def examine(self, master: Path, is_last: bool) -> None:
        """Examine the parts of the master that the last window has completed.

        Args:
            master: The path of the master.
            is_last: Whether no chunk follows.

        Raises:
            PartsDifferError: The session needs the family that decodes.
        """
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Return the state that the next window needs."""
        ...

    def finish(self, master: Master, on_progress: OnProgress) -> Made:
        """Make the recording from a complete master, durable on the disk. The call can be repeated.

        Args:
            master: The master.
            on_progress: Called with numbers from 0 to 1 while FFmpeg encodes.

        Raises:
            UndecodableChunkError: The session has no audio.
            PartsDifferError: The session needs the family that decodes.
            MediaError: What FFmpeg's runs raise.
        """
        ...

    def compare(self, ready: ReadyRecording, windows: Windows) -> None:
        """Compare a ready recording with its chunks.

        Args:
            ready: The recording.
            windows: All windows of the session, each with whether it is the last. The assembler is at the beginning.

        Raises:
            RecordingDiffersError: The chunks make another recording.
            PartsDifferError: The chunks can't be copied into one recording.
            MediaError: What FFmpeg's runs raise.
        """
        ...

    def compare_header(self, recording: Recording, path: Path) -> None:
        """Compare the header, which does not need the chunks.

        Args:
            recording: The row of the recording.
            path: Its file.

        Raises:
            RecordingDiffersError: The header has changed.
        """
        ...
