"""Real servers for tests: `manage.py serve` in processes of its own, started, stopped, killed and started again.

In a test, ask for the fixture `run_server` (or `server`, one that runs already); elsewhere use `Server` as a context
manager. A server lives in a folder of its own and listens on a free port; the environment variables of the product
are those that the test gives, and no others.
"""

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from tests.services import REPOSITORY, product_variables

READY = "SercueScribe is ready: "
# Nothing here takes that long: a test that waits so long has failed.
DEADLINE_SECONDS = 240.0
POLL_SECONDS = 0.02
# A killed test run takes its servers along.
TIED = (
    "import os, sys; from audio.management.lifeline import die_with_parent; die_with_parent(int(sys.argv[1]));"
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
ROLES = {
    "web": "sercuescribe.server",
    "worker": "--queues celery",
    "jobs": "--queues jobs",
    "redis": "unixsocket",
}

T = TypeVar("T")


def eventually(condition: Callable[[], T], within_seconds: float = DEADLINE_SECONDS) -> T:
    """Polls `condition` until it is true, and returns what it returned. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + within_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {within_seconds} s: {condition}"
        time.sleep(POLL_SECONDS)
    return result


def free_port() -> int:
    """A port that nobody listens on, for a server that must have the same one after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def is_running(process: psutil.Process) -> bool:
    """Whether the process lives; one that is dead but not yet buried by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """The command line of a process; empty if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Server:
    """A `manage.py serve` on `folder`, with `environment` on top of a clean one.

    The first `start` in a new folder finds a migrated SQLite database there, because the migrations would take longer
    than everything else. `launch` leaves them to the server.

    `start` must be called from a thread that outlives the server: the kernel ends it with that thread.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        foreign = product_variables()
        inherited = {name: value for name, value in os.environ.items() if name not in foreign}
        # Tests of the doors set it; the default depends on the address.
        ours = {"DATA_DIR": str(folder), "PORT": "0", "REQUIRE_AUTH": "false"}
        self.environment = inherited | ours | environment
        self.url = ""
        # What runs a command where the server's folder can be seen.
        self.enter: list[str] = []
        self._seen: list[psutil.Process] = []

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    @property
    def ws_url(self) -> str:
        """The address for WebSockets, without a path."""
        return self.url.replace("http", "ws", 1)

    def launch(self, *arguments: str) -> subprocess.Popen:
        """Starts `manage.py serve`, as the leader of a process group, without waiting for it."""
        command = [
            *self.enter,
            sys.executable,
            "-c",
            TIED,
            str(os.getpid()),
            str(REPOSITORY / "manage.py"),
            "serve",
            *arguments,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._seen.append(psutil.Process(self.process.pid))
        return self.process

    def start(self) -> None:
        """Starts the server and waits until it says that it is ready."""
        if not (self.folder.exists() or "DATABASE_URL" in self.environment):
            copy_database(self.folder)
        self.launch()
        line = self._first_line()
        assert line.startswith(READY), f"no ready line but {line!r}; the log:\n{self.read_log()}"
        self.url = line.removeprefix(READY).strip()

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(DEADLINE_SECONDS):
                return ""
        return self.process.stdout.readline().decode()

    def manage(self, *arguments: str) -> str:
        """Runs a command of `manage.py` on the server's folder, and returns what it wrote."""
        command = [sys.executable, "manage.py", *arguments]
        ran = subprocess.run(command, cwd=REPOSITORY, env=self.environment, check=True, capture_output=True, text=True)
        return ran.stdout

    def read_log(self) -> str:
        """What the server and its children wrote to standard error so far."""
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all its descendants that live; remembered, so that what they leave behind is found."""
        known = {process.pid: process for process in self._seen if is_running(process)}
        for process in list(known.values()):
            try:
                known |= {child.pid: child for child in process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        self._seen = [process for process in known.values() if is_running(process)]
        return list(self._seen)

    def child(self, role: str) -> psutil.Process | None:
        """The supervisor's child that is the `web`, `worker` or `redis` process, if it lives."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if ROLES[role] in command_of(child) and is_running(child)), None)

    def commands(self, text: str) -> list[psutil.Process]:
        """The processes of the server that live, and whose command line contains a text."""
        return [process for process in self.processes() if text in command_of(process)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal to the supervisor, waits for its end, and returns its exit code."""
        self.processes()
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for the supervisor's end; returns its exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def kill_all(self) -> None:
        """SIGKILL to the supervisor and every descendant at once; returns when all are gone."""
        for process in self.processes():
            # An FFmpeg may end by itself at any time.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        eventually(lambda: not self.processes())
        self.process.wait(DEADLINE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def restart(self) -> None:
        """Starts again on the same folder, and on the same port if one was given."""
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.start()


def migrated(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a host where somebody else runs Redis, with its database migrated; for processes that a test
    starts without `serve`."""
    variables = {"REDIS_URL": os.environ["TEST_REDIS_URL"] + "/14", **variables}
    environment = Server(folder, **variables).environment
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=REPOSITORY, env=environment, check=True)
    return environment


def copy_database(folder: Path) -> None:
    """Makes a data folder with a migrated and empty SQLite database, which is made once in a run of pytest."""
    if (run := os.environ.get("SERCUESCRIBE_TEST_FOLDER")) is None:
        return
    template = Path(run) / "template"
    with Path(run, "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            unfinished = template.with_suffix(".unfinished")
            migrated(unfinished)
            unfinished.rename(template)
    folder.mkdir(parents=True)
    shutil.copy(template / "db.sqlite3", folder)
