"""A supervisor of processes: it starts them, restarts those that die, and stops them in order.

`manage.py serve` and the web server use it. It is one thread with one loop. Signals, including that of a child's death,
arrive as bytes in a pipe. The loop waits for this pipe and for the children's ready pipes, so that it needs no polling
for them. Each child leads a session of its own. So an interrupt on the terminal reaches only the supervisor, and
processes that a dead child has left behind can be killed as a group. A child reports readiness through the descriptor
of its `--ready-fd`. If a child cannot do this, the supervisor calls `answers` of its program.
"""

import contextlib
import functools
import itertools
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import structlog

from audio.management.fork import Fork, Running
from audio.management.lifeline import die_with_parent

logger = structlog.stdlib.get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ANSWER_INTERVAL_SECONDS = 0.02
IDLE_SECONDS = 3600.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 30.0
# After this time a child is considered stable, and its failures are forgotten.
STEADY_SECONDS = 30.0
START_ATTEMPTS = 3
REPORT_BYTES = 64


class StartFailedError(Exception):
    """The children could not be started. The message is a sentence for the operator."""


class NotYetError(Exception):
    """Something that a child needs is not available yet. The start is tried again later."""


@dataclass(frozen=True)
class Program:
    """A process to keep running.

    Attributes:
        name: The name.
        arguments: The command line. If `reports` is set, `--ready-fd N` is added.
        stop: Signals that stop the process, each with the seconds before the next one. The last step is always SIGKILL.
        reports: Whether the process reports readiness to `--ready-fd`.
        descriptors: Descriptors that the process inherits.
        group: Programs of one group stop together. By default it is the name.
        is_fork: Whether the process is a fork of the supervisor. Its command line is then `python -m MODULE ...`.
        answers: Tells whether a process that does not report is ready.
        prepare: Called before each start. It may raise `NotYetError`.
        give_up: Called when a process exited with an error before it was ever ready.
    """

    name: str
    arguments: Sequence[str]
    stop: Sequence[tuple[signal.Signals, float]]
    reports: bool = True
    descriptors: Sequence[int] = ()
    group: str = ""
    is_fork: bool = False
    answers: Callable[[], bool] = lambda: False
    prepare: Callable[[], None] = lambda: None
    give_up: Callable[[], None] = lambda: None


@dataclass
class Child:
    """The current process of a program, and the history of the earlier ones."""

    program: Program
    process: Running | None = None
    pipe: int | None = None
    is_ready: bool = False
    has_worked: bool = False
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0


@dataclass
class Supervisor:
    """A context manager that keeps `Program`s running until a stop signal comes. Its end stops every child.

    `environment` is the environment of the children. By default it is that of this process.
    """

    environment: Mapping[str, str] | None = None
    children: list[Child] = field(default_factory=list)
    stopping: bool = False

    def __enter__(self) -> "Supervisor":
        """Install the signal handlers."""
        self._resources = contextlib.ExitStack()
        self._selector = self._resources.enter_context(selectors.DefaultSelector())
        self._resources.enter_context(self._signals())
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the children, the last started first, and those of one group together."""
        self.stopping = True
        groups = itertools.groupby(reversed(self.children), lambda child: child.program.group or child.program.name)
        for _, children in groups:
            self._stop(list(children))
        self._resources.close()

    def start(self, *programs: Program, within_seconds: float) -> None:
        """Start `programs`, and return once all of them are ready or a stop was requested.

        Raises:
            StartFailedError: One of them died repeatedly, or the time is over.
        """
        started = [Child(program) for program in programs]
        self.children += started
        deadline = time.monotonic() + within_seconds
        while not self.stopping and not all(child.is_ready for child in started):
            self._turn(until=deadline)
            for child in started:
                if child.failures >= START_ATTEMPTS or time.monotonic() >= deadline:
                    raise StartFailedError(f"The {child.program.name} process does not start. The log above says why.")

    def run(self, every_seconds: float = IDLE_SECONDS, task: Callable[[], None] = lambda: None) -> None:
        """Restart children that die, and call `task` at the interval, until a stop is requested."""
        due = time.monotonic()
        while not self.stopping:
            self._turn(until=due)
            if time.monotonic() >= due and not self.stopping:
                task()
                due = time.monotonic() + every_seconds

    # The loop

    def _turn(self, until: float) -> None:
        """Wait for the next event, at most until the monotonic time `until`, then do everything that is due."""
        self._wait(min([until, *(self._next_look(child) for child in self.children)]))
        for child in self.children:
            if not self.stopping:
                self._look_after(child)

    def _look_after(self, child: Child) -> None:
        if child.process is None:
            if time.monotonic() >= child.restart_at:
                self._spawn(child)
        elif child.process.poll() is not None:
            self._bury(child)
        elif not child.is_ready and not child.program.reports and child.program.answers():
            self._has_started(child)

    def _next_look(self, child: Child) -> float:
        if child.process is None:
            return child.restart_at
        if not child.is_ready and not child.program.reports:
            return time.monotonic() + ANSWER_INTERVAL_SECONDS
        return float("inf")

    def _wait(self, until: float) -> None:
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            if isinstance(key.data, Child):
                self._read_report(key.data)
            else:
                os.read(key.fd, REPORT_BYTES)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        handled = [*STOP_SIGNALS, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup the end of the terminal stops nothing
            handled.remove(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._selector.register(reader, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            self.stopping = True

    # One child

    def _spawn(self, child: Child) -> None:
        try:
            child.program.prepare()
            self._launch(child)
        except (NotYetError, OSError) as reason:  # OSError: no memory, no process or no descriptor is left
            logger.warning("process_waits", process=child.program.name, reason=str(reason))
            self._close_pipe(child)
            self._schedule(child)

    def _launch(self, child: Child) -> None:
        program = child.program
        arguments, descriptors = list(program.arguments), list(program.descriptors)
        writer = None
        if program.reports:
            child.pipe, writer = os.pipe()
            self._selector.register(child.pipe, selectors.EVENT_READ, child)
            arguments += ["--ready-fd", str(writer)]
            descriptors.append(writer)
        try:
            start = self._fork if program.is_fork else self._popen
            child.process = start(arguments, descriptors)
        finally:
            if writer is not None:
                os.close(writer)
        child.started_at = time.monotonic()
        child.is_ready = False

    def _fork(self, arguments: Sequence[str], descriptors: Sequence[int]) -> Running:
        return Fork(arguments, os.environ if self.environment is None else self.environment, descriptors)

    def _popen(self, arguments: Sequence[str], descriptors: Sequence[int]) -> Running:
        return subprocess.Popen(
            arguments,
            env=self.environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # standard output is only for the line that reports readiness
            start_new_session=True,
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
        )

    def _read_report(self, child: Child) -> None:
        """Read the report of readiness, or the end of the file if the child died without one."""
        if child.pipe is not None and os.read(child.pipe, REPORT_BYTES):
            self._has_started(child)
        self._close_pipe(child)

    def _has_started(self, child: Child) -> None:
        child.is_ready = True
        seconds = round(time.monotonic() - child.started_at, 1)
        # `start` reports the first start of all children. A restart is reported only here.
        level = logging.INFO if child.has_worked else logging.DEBUG
        logger.log(level, "process_ready", process=child.program.name, seconds=seconds)
        child.has_worked = True

    def _bury(self, child: Child) -> None:
        """Handle the death of a child: kill the processes that it left behind, and schedule its restart."""
        process = child.process
        if process is None:
            return
        self._kill_group(process)
        self._close_pipe(child)
        child.process = None
        code = process.wait()
        logger.error("process_died", process=child.program.name, reason=_how(code))
        if not child.is_ready and code > 0:
            child.program.give_up()
        elif time.monotonic() - child.started_at >= STEADY_SECONDS:
            child.failures = 0
        child.is_ready = False
        self._schedule(child)

    def _schedule(self, child: Child) -> None:
        delay = min(FIRST_DELAY_SECONDS * 2.0**child.failures, LONGEST_DELAY_SECONDS)
        child.failures += 1
        child.restart_at = time.monotonic() + delay

    def _close_pipe(self, child: Child) -> None:
        if child.pipe is not None:
            self._selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = None

    def _stop(self, children: Sequence[Child]) -> None:
        """Stop children of one group with the signals of their program."""
        program = children[0].program
        processes = [child.process for child in children if child.process is not None]
        for number, seconds in program.stop:
            for process in processes:
                process.send_signal(number)
            if self._wait_for(processes, seconds):
                break
        else:
            logger.error("process_killed", process=program.name)
        for process in processes:
            self._kill_group(process)
            process.wait()
        for child in children:
            child.process = None
            self._close_pipe(child)

    def _wait_for(self, processes: Sequence[Running], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (runs := any(process.poll() is None for process in processes)) and time.monotonic() < deadline:
            self._wait(deadline)
        return not runs

    def _kill_group(self, process: Running) -> None:
        # If no process is left, macOS raises PermissionError.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _how(returncode: int) -> str:
    return f"exit code {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def listen(host: str, port: int, patience_seconds: float) -> socket.socket:
    """Return a TCP socket that listens on `host` and `port` (0 for any free port); on `::` also for IPv4.

    If the address is in use, the call retries for `patience_seconds`: the children of a server that was killed a moment
    ago may use it until the kernel has ended them.

    Raises:
        OSError: The address can't be used.
    """
    deadline = time.monotonic() + patience_seconds
    family, address = _resolved(host, port)
    while True:
        try:
            return socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=host == "::")
        except OSError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(ANSWER_INTERVAL_SECONDS)


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address to bind to. If a name has both families, it is the IPv4 address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address
