"""The three ways from chunks to a master (`audio.media.plan.Route`), as steps that can stop after any window.

A route takes windows of chunks and gives pieces for the master. What it needs to know for the next window is its
`carry`: JSON, bounded, committed together with the master's length. The same chunks and carry give the same
pieces, so a run that died is simply repeated.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from audio.assembly.chunks import Waiting
from audio.assembly.files import FilesRoute
from audio.assembly.losses import Losses
from audio.assembly.pcm import PcmRoute
from audio.assembly.stream import StreamRoute
from audio.media import plan
from audio.media.wav import PcmFormat
from audio.models import AudioSession


class Route(Protocol):
    """The interface between concatenation and a route.

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

    def take(self, window: Sequence[Waiting], is_last: bool) -> Iterator[bytes]:
        """Give pieces for the master of the next window, which may be empty; with `is_last` nothing follows it."""
        ...

    def carry(self) -> dict[str, Any]:
        """Return what the next window needs."""
        ...


def restore(session: AudioSession, target: PcmFormat | None, done_to: int, carry: dict[str, Any]) -> Route:
    """Return a session's route where it stood.

    Args:
        session: The session.
        target: The format of the master's samples, None while it is not known and for a stream.
        done_to: The last sequence whose audio is in the master.
        carry: What the route's `carry` returned then; empty at the beginning.
    """
    match plan.Route(carry.get("route") or plan.route(session.format, session.chunk_mode)):
        case plan.Route.PCM:
            return PcmRoute(session, target, done_to, carry)
        case plan.Route.STREAM:
            return StreamRoute(session, done_to, carry)
        case plan.Route.FILES:
            return FilesRoute(session, target, done_to, carry)


def name_of(route: Route) -> plan.Route:
    """Return the name under which `restore` finds the route again."""
    match route:
        case PcmRoute():
            return plan.Route.PCM
        case FilesRoute():
            return plan.Route.FILES
        case _:
            return plan.Route.STREAM
