"""A process that is forked from this one.

It shares the memory of the loaded modules, and starts without loading them again.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from billiard import Process
from django.db import connections
from setproctitle import setproctitle

from audio.management.lifeline import die_with_parent


class Running(Protocol):
    """A process that was started: a fork, or a `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, or minus the number of the signal that ended the process; None while it runs."""

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""


class Fork:
    """A fork that runs `python -m MODULE`, as its command line says.

    Celery's library starts it, and recreates the objects that processes must not share. The caller must have no other
    threads.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> None:
        """Start the process.

        Args:
            arguments: The command line: the interpreter, `-m`, the name of the module, and its options. The module has
                a function `main`.
            environment: The environment of the process.
            descriptors: The descriptors that the process inherits.
        """
        self._arguments, self._environment, self._descriptors = list(arguments), dict(environment), set(descriptors)
        self._parent_pid = os.getpid()
        # Modules that the module loads are shared too.
        self._module = importlib.import_module(arguments[2])
        # A database connection must not be used by two processes.
        connections.close_all()
        # Garbage collection would write to the memory of each object, which then is not shared any more.
        gc.freeze()
        # Celery treats a process of another name as one of a pool.
        self._process = Process(target=self._run, name="MainProcess")
        self._process.start()
        self.pid = int(self._process.pid or 0)

    def poll(self) -> int | None:
        """Return the exit code, or minus the number of the signal that ended the process; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        while (code := self.poll()) is None:
            self._process.join()
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _run(self) -> None:
        os.setsid()
        die_with_parent(self._parent_pid)
        self._renounce()
        # The title is written over the original environment, which must still be there.
        setproctitle(" ".join(self._arguments))
        os.environ.clear()
        os.environ.update(self._environment)
        sys.argv = [str(self._module.__file__), *self._arguments[3:]]
        self._module.main()

    def _renounce(self) -> None:
        """Give up the objects of the parent: its signal handlers, its standard output and its descriptors."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.stdout.flush()
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            if descriptor not in {0, 1, 2, *self._descriptors}:
                with contextlib.suppress(OSError):  # the listing has a descriptor too
                    os.close(descriptor)
