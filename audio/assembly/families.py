"""The table of the format families: which assembler makes the recording of a session."""

from typing import Any

from audio.assembly.assembler import Assembler
from audio.assembly.files import FilesAssembler
from audio.assembly.pcm import PcmAssembler
from audio.assembly.stream import StreamAssembler
from audio.media import plan
from audio.media.plan import Family
from audio.media.samples import PcmFormat
from audio.models import AudioSession, Recording

ASSEMBLERS: dict[Family, type[Assembler]] = {
    PcmAssembler.family: PcmAssembler,
    StreamAssembler.family: StreamAssembler,
    FilesAssembler.family: FilesAssembler,
}


def restore(session: AudioSession, target: PcmFormat | None, done_to: int, checkpoint: dict[str, Any]) -> Assembler:
    """Return the assembler of a session in its last state. The arguments are those of `Assembler`.

    The checkpoint names the family, which changes if the parts of a stream have to be decoded.
    """
    family = Family(checkpoint.get("family") or plan.family(session.format, session.chunk_mode))
    return ASSEMBLERS[family](session, target, done_to, checkpoint)


def decoding(session: AudioSession) -> Assembler:
    """Return a new assembler for a session whose parts cannot be copied (`PartsDifferError`)."""
    return ASSEMBLERS[Family.FILES](session, None, 0, {})


def of_ready(session: AudioSession, recording: Recording) -> Assembler:
    """Return a new assembler of the family that made a ready recording, whose checkpoint is gone."""
    family = plan.family(session.format, session.chunk_mode)
    # The master of a stream that was copied has no samples.
    return decoding(session) if family is Family.STREAM and recording.master_encoding else restore(session, None, 0, {})
