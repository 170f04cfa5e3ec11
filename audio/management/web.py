"""The processes of the web server, which share one listening socket, as programs of a supervisor.

The kernel gives each new connection to one of the waiting processes. Each process has its own journal. All shared state
is in the database.
"""

import signal
import socket
import sys
from collections.abc import Callable

from audio.management.supervisor import Program

NAME = "web"
# This is longer than `sercuescribe.server` needs to drain its connections.
STOP = [(signal.SIGTERM, 12.0)]


def programs(listener: socket.socket, count: int, prepare: Callable[[], None] = lambda: None) -> list[Program]:
    """Return the programs of `count` processes that accept on a listening socket. `prepare` runs before each start."""
    descriptor = listener.fileno()
    command = [sys.executable, "-m", "sercuescribe.server", "--fd", str(descriptor), "--workers", "1"]
    program = Program(name=NAME, arguments=command, stop=STOP, descriptors=[descriptor], prepare=prepare)
    return [program] * count
