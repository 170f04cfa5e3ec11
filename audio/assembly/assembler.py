"""The three ways from chunks to a master (`audio.media.plan.Family`), as steps that can stop after any window.

An assembler takes windows of chunks and gives pieces for the master. What it needs to know for the next window is its
`checkpoint`: JSON, bounded, committed together with the master's length. The same chunks and checkpoint give the same
pieces, so a run that died is simply repeated.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from audio.assembly.chunks import PendingChunk
from audio.assembly.files import FilesAssembler
from audio.assembly.losses import Losses
from audio.assembly.pcm import PcmAssembler
from audio.assembly.stream import StreamAssembler
from audio.media import plan
from audio.media.wav import PcmFormat
from audio.models import AudioSession


class Assembler(Protocol):
    """The interface between concatenation and an assembler.

    Attributes:
        looked_to: The last sequence that it has seen.
        done_to: The last sequence whose audio is in the master.
        losses: What the master lacks, or has in doubt.
    """

    looked_to: int
    done_to: int
    losses: Losses

    @property
    def format(self) -> PcmFormat | None:
        """The format of a WAV master's samples, None while it is not known and for a stream."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of the master, in Hz; 0 while it is not known."""
        ...

    @property
    def channels(self) -> int:
        """Of the master; 0 while they are not known."""
        ...

    @property
    def suffix(self) -> str:
        """The suffix of the master's name."""
        ...

    def take(self, window: Sequence[PendingChunk], is_last: bool) -> Iterator[bytes]:
        """Give pieces for the master of the next window, which may be empty; with `is_last` nothing follows it."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Return what the next window needs."""
        ...


def restore(session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]) -> Assembler:
    """Return a session's assembler where it stood.

    Args:
        session: The session.
        target: The format of the master's samples, None while it is not known and for a stream.
        done_to: The last sequence whose audio is in the master.
        checkpoint: What the assembler's `checkpoint` returned then; empty at the beginning.
    """
    match plan.Family(checkpoint.get("family") or plan.family(session.format, session.chunk_mode)):
        case plan.Family.PCM:
            return PcmAssembler(session, target, done_to, checkpoint)
        case plan.Family.STREAM:
            return StreamAssembler(session, done_to, checkpoint)
        case plan.Family.FILES:
            return FilesAssembler(session, target, done_to, checkpoint)


def family_of(assembler: Assembler) -> plan.Family:
    """Return the family by which `restore` finds the assembler again."""
    match assembler:
        case PcmAssembler():
            return plan.Family.PCM
        case FilesAssembler():
            return plan.Family.FILES
        case _:
            return plan.Family.STREAM
