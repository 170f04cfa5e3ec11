"""PURE. The extension of ASGI with which this project's web server and its consumer exchange messages directly.

For each message, standard ASGI puts an event into a queue, wakes a task, and stops and starts the reading of the
socket. That costs about as much as the whole work of the consumer for a chunk. A server that offers the extension calls
the consumer instead, and sends the frames that the consumer has prepared. Under any other server the consumer uses
standard ASGI.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

EXTENSION = "sercuescribe.frames"


class FramePath(Protocol):
    """A connection of a server that offers the extension, in `scope["extensions"]`.

    Attributes:
        take_binary: Called with each binary message, unless an earlier event waits in the queue of ASGI. If it returns
            False, the message is put into that queue. None until the consumer sets it.
    """

    take_binary: Callable[[bytes], bool] | None

    @property
    def is_writable(self) -> bool:
        """Whether frames can be sent now: the connection is open, and the client reads."""
        ...

    def write_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames. The caller has checked `is_writable`."""
        ...
