"""A script that sets limits for its process, and then executes FFmpeg in it.

    python -I -S guard.py CPU_SECONDS,WALL_SECONDS,MEMORY_BYTES,FILE_BYTES FOLDER PROGRAM ARGUMENT...

It is a separate script because pydub starts FFmpeg too, and because a process with threads cannot safely set limits
between fork and exec. It imports nothing of the product, so that it starts in milliseconds. The alarm survives the exec
(POSIX alarm): SIGALRM ends FFmpeg when the wall time is over.

The process leaves the process group of the terminal, so that a Ctrl-C for the server does not end FFmpeg in the middle
of a file. On Linux it ends with its parent (prctl(2)).
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the limits in `sys.argv` for this process, and execute the command after them."""
    cpu_seconds, wall_seconds, memory_bytes, file_bytes = map(int, sys.argv[1].split(","))
    os.chdir(sys.argv[2])
    os.setsid()
    # FFmpeg would catch the signal of the soft limit, and end like after a normal stop.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.alarm(wall_seconds)
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - a list, and no shell


if __name__ == "__main__":
    main()
