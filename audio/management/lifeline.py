"""Ties the life of a process to that of its parent, so that no `kill -9` leaves an orphan."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Has Linux kill the calling process as soon as its parent, process `parent_pid`, is gone.

    Elsewhere it does nothing. It is meant to run between fork and exec, or first thing in a forked process: the
    death may have come before the request, which is what the comparison is for. See prctl(2), PR_SET_PDEATHSIG.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "prctl"):
        return
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
