"""End a process with its parent, so that no `kill -9` leaves an orphan."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have Linux kill the calling process as soon as its parent, process `parent_pid`, is gone.

    On other systems it does nothing. It should be called between fork and exec, or first in a forked process. The
    parent may have died before the call, so its id is compared afterwards. See prctl(2), PR_SET_PDEATHSIG.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "prctl"):
        return
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
