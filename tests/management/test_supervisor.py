"""The supervisor with small programs of its own: readiness, restarts, give-ups and the ladder of signals."""

import itertools
import os
import signal
import sys
import time

import psutil
import pytest

from audio.management.supervisor import NotYetError, Program, StartFailedError, Supervisor
from tests.server import eventually, is_running

# `manage.py serve` has one thread; a test run has several, which later Pythons warn of at a fork.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WORKS = "os.write(fd, b'ready\\n'); signal.pause()"
TERM = [(signal.SIGTERM, 30.0)]


def script(code: str) -> list[str]:
    """A Python program in which `fd` is the descriptor to report to."""
    return [sys.executable, "-c", f"import os, signal, sys, time; fd = int(sys.argv[-1]); {code}"]


def processes_of(supervisor: Supervisor) -> list[psutil.Process]:
    """The children and their descendants."""
    children = [psutil.Process(child.process.pid) for child in supervisor.children if child.process]
    return children + [descendant for child in children for descendant in child.children(recursive=True)]


@pytest.fixture
def environment():
    return dict(os.environ)


def test_it_returns_when_the_child_has_reported(environment):
    with Supervisor(environment) as supervisor:
        supervisor.start(Program("child", script(WORKS), TERM), within_seconds=60)
        assert supervisor.children[0].is_ready
        (process,) = processes_of(supervisor)
    assert not is_running(process)


def test_a_child_that_never_works_is_an_error(environment):
    gave_up = []
    program = Program("broken", script("sys.exit(3)"), TERM, give_up=lambda: gave_up.append(1))
    with (
        pytest.raises(StartFailedError, match="The broken process does not start"),
        Supervisor(environment) as supervisor,
    ):
        supervisor.start(program, within_seconds=60)
    assert len(gave_up) == 3


def test_a_child_that_does_not_report_in_time_is_an_error(environment):
    program = Program("silent", script("signal.pause()"), TERM)
    with pytest.raises(StartFailedError, match="silent"), Supervisor(environment) as supervisor:
        supervisor.start(program, within_seconds=0.5)
    assert supervisor.children[0].process is None


def test_a_child_is_started_once_what_it_needs_is_there(environment):
    missing = ["one thing"]

    def prepare():
        if missing:
            raise NotYetError(missing.pop())

    with Supervisor(environment) as supervisor:
        supervisor.start(Program("child", script(WORKS), TERM, prepare=prepare), within_seconds=60)
        assert supervisor.children[0].is_ready


def test_a_program_that_can_not_be_run_at_first_is_tried_again(environment, tmp_path):
    program = tmp_path / "program"
    attempts = []

    def prepare():
        attempts.append(1)
        if len(attempts) > 1:
            program.symlink_to(sys.executable)

    with Supervisor(environment) as supervisor:
        command = [str(program), *script(WORKS)[1:]]
        supervisor.start(Program("child", command, TERM, prepare=prepare), within_seconds=60)
        assert supervisor.children[0].is_ready
    assert len(attempts) == 2


def test_a_dead_child_is_restarted_with_growing_delays(environment, tmp_path):
    starts: list[float] = []
    # The first one lives until the supervisor has seen it ready.
    is_seen = tmp_path / "seen"
    dies = script(f"os.write(fd, b'ready\\n')\nwhile not os.path.exists({str(is_seen)!r}): time.sleep(0.01)")
    program = Program("short-lived", dies, TERM, prepare=lambda: starts.append(time.monotonic()))
    with Supervisor(environment) as supervisor:

        def enough():
            supervisor.stopping = len(starts) >= 4

        supervisor.start(program, within_seconds=60)
        is_seen.touch()
        supervisor.run(0.01, enough)
    # Each start waits for its delay at least, whatever the machine adds.
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert [gap >= delay for gap, delay in zip(gaps, (0.1, 0.2, 0.4), strict=True)] == [True, True, True]


def test_a_stop_signal_ends_the_wait_at_once(environment):
    with Supervisor(environment) as supervisor:
        supervisor.start(Program("child", script(WORKS), TERM), within_seconds=60)
        tasks = []

        def once():
            tasks.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

        supervisor.run(3600, once)  # an hour until the next: only the signal can end it
    assert len(tasks) == 1


def test_a_child_that_ignores_its_signals_is_killed_with_what_it_started(environment):
    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); pid = os.fork();"
        "os.write(fd, b'ready\\n') if pid else None; [time.sleep(1) for _ in range(3600)]"
    )
    with Supervisor(environment) as supervisor:
        supervisor.start(Program("stubborn", script(stubborn), [(signal.SIGTERM, 0.2)]), within_seconds=60)
        processes = processes_of(supervisor)
        assert len(processes) == 2
    eventually(lambda: not any(is_running(process) for process in processes))


def test_programs_of_one_name_stop_together(environment, tmp_path):
    """Each of the two ends only once the other was told to stop as well."""
    waits = (
        f"folder = pathlib.Path({str(tmp_path)!r});"
        "signal.signal(signal.SIGTERM, lambda *_: (folder / str(os.getpid())).touch());"
        "os.write(fd, b'ready\\n'); [time.sleep(0.01) for _ in iter(lambda: len(list(folder.iterdir())) < 2, False)]"
    )
    program = Program("pair", script(f"import pathlib; {waits}"), TERM)
    with Supervisor(environment) as supervisor:
        supervisor.start(program, program, within_seconds=60)
        processes = [child.process for child in supervisor.children]
    assert [process.wait() for process in processes if process] == [0, 0]


def test_signal_handlers_are_given_back(environment):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    with Supervisor(environment):
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before
