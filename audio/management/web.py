"""The web server's processes, as a supervisor runs them: several on one listening socket, stopped together.

The kernel gives each new connection to one of those that wait for it. Each process has an ingest of its own, with its
own journal; what they must agree on is in the database.
"""

import signal
import socket
import sys
from collections.abc import Callable

from audio.management.supervisor import Program

NAME = "web"
# Longer than `sercuescribe.server` takes at most to settle its connections.
STOP = [(signal.SIGTERM, 12.0)]


def programs(listener: socket.socket, count: int, prepare: Callable[[], None] = lambda: None) -> list[Program]:
    """Takes a listening socket and how many processes accept on it; `prepare` runs before each start."""
    descriptor = listener.fileno()
    command = [sys.executable, "-m", "sercuescribe.server", "--fd", str(descriptor), "--workers", "1"]
    program = Program(name=NAME, arguments=command, stop=STOP, descriptors=[descriptor], prepare=prepare)
    return [program] * count
