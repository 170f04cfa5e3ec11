"""A production stack of real processes, each of which a test may stop, kill, freeze and start again.

    with Cluster(folder) as cluster:
        cluster.web[0].kill()
        cluster.web[0].launch()
        cluster.web[0].wait_until_ready()

It has a PostgreSQL (which syncs to the disk) and a Redis (which forgets everything when it ends) of its own, web
processes and Celery workers, spread over hosts (`hosts.py`), and one process that sweeps; what they share is the
storage folder. Each web process has a port of its own. `launch` must be called from a thread that outlives the
process: the kernel ends the one with the other.
"""

import contextlib
import ctypes
import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg

from tests.client import Rest
from tests.cluster.hosts import Host, Namespace, ThisMachine
from tests.server import DEADLINE_SECONDS, eventually, is_running
from tests.services import (
    REPOSITORY,
    Postgres,
    as_user,
    die_with_run,
    free_port,
    make_postgres,
    postgres_answers,
    postgres_url_of,
    product_variables,
    redis_answers,
    redis_command,
)

AnyPart = TypeVar("AnyPart", bound="Part")

HEARTBEAT_SECONDS = 0.5
GRACE_SECONDS = 8.0
ENVIRONMENT = {
    "HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "DISCONNECT_GRACE_SECONDS": str(GRACE_SECONDS),
    "SWEEP_INTERVAL_SECONDS": "0.3",
    "WINDOW_SECONDS": "0.5",
    "SECRET_KEY": "the hosts of one installation share their secret",
}
SWEEPER = """
import time
import django
django.setup()
from django.conf import settings
from audio.management.commands.serve import _sweep
while True:
    _sweep()
    time.sleep(settings.SWEEP_INTERVAL_SECONDS)
"""


class Part(ABC):
    """One program of the stack, on a host."""

    def __init__(self, name: str, log: Path, environment: dict[str, str], host: Host) -> None:
        self.name = name
        self.log = log
        self.environment = environment
        self.host = host
        self.process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None

    def answers(self) -> bool:
        """Whether a program that does not report works."""
        return True

    @abstractmethod
    def launch(self) -> None:
        """Starts it without waiting for it."""

    def _popen(self, command: Sequence[str], with_run: signal.Signals, **options: Any) -> None:
        assert not self.is_alive(), f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.host.prefix, *command],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(die_with_run, ctypes.CDLL(None), with_run),
                **options,
            )

    def wait_until_ready(self) -> None:
        """Waits until it works."""
        assert self.comes_up(), f"{self.name} did not start:\n{self.read_log()}"

    def comes_up(self) -> bool:
        """Waits until it works or has died; returns which, after a `launch`."""
        eventually(lambda: self.answers() or not self.is_alive())
        return self.is_alive()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        assert self.process is not None
        return self.process.wait(DEADLINE_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal and waits for its end; returns the exit code."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, to the process and to all that it started; returns when they are gone."""
        if self.process is None or not self.is_alive():
            return
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(DEADLINE_SECONDS)
        eventually(lambda: not any(is_running(process) for process in family))

    def freeze(self) -> None:
        """It stops where it is, with all that it started, as a machine that hangs does."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _family(self) -> list[psutil.Process]:
        """The process and all that it started, none if it has just ended."""
        assert self.process is not None
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def read_log(self) -> str:
        """What it wrote to standard error, over all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Product(Part):
    """A program of ours, which reports by `--ready-fd` when it works."""

    @abstractmethod
    def command(self) -> list[str]:
        """Its command line."""

    def launch(self) -> None:
        """Starts it without waiting for it."""
        self.close_pipe()
        self._pipe, writer = os.pipe()
        try:
            self._popen([*self.command(), "--ready-fd", str(writer)], signal.SIGKILL, pass_fds=[writer])
        finally:
            os.close(writer)

    def comes_up(self) -> bool:
        """Waits until it works or has died; returns which, after a `launch`."""
        assert self._pipe is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            return bool(selector.select(DEADLINE_SECONDS) and os.read(self._pipe, 64))

    def kill(self) -> None:
        """SIGKILL, to the process and to all that it started; returns when they are gone."""
        super().kill()
        self.close_pipe()

    def close_pipe(self) -> None:
        """Nobody waits for it any more."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class Web(Product):
    """A web process on a port of its own, the same in each of its lives."""

    port = 0

    def command(self) -> list[str]:
        """Its command line."""
        self.port = self.port or free_port()
        return [sys.executable, "-m", "sercuescribe.server", "--host", self.host.address, "--port", str(self.port)]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host.address}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Where it takes WebSockets, without a path."""
        return self.url.replace("http", "ws", 1)

    @property
    def rest(self) -> Rest:
        """Its REST API."""
        return Rest(self.url)


class Worker(Product):
    """A Celery worker of both queues."""

    def command(self) -> list[str]:
        """Its command line."""
        options = ["--queues", "celery,jobs,webhooks", "--hostname", f"{self.name}@%h", "--concurrency", "2"]
        features = ["--loglevel", "INFO", "--pool", "prefork", "--without-gossip", "--without-mingle"]
        return [sys.executable, "-m", "celery", "-A", "sercuescribe", "--quiet", "worker", *options, *features]


class Sweeper(Part):
    """A process that does nothing but sweep."""

    def launch(self) -> None:
        """Starts it."""
        self._popen([sys.executable, "-c", SWEEPER], signal.SIGKILL)


class Database(Part):
    """PostgreSQL, with what it wrote kept from one life to the next."""

    def __init__(self, log: Path, postgres: Postgres, addresses: Sequence[str]) -> None:
        super().__init__("PostgreSQL", log, dict(os.environ), ThisMachine("services"))
        self._postgres = postgres
        self._addresses = ["127.0.0.1", *addresses]
        self.port = free_port()
        self._hosts = postgres.folder / "hosts.conf"
        self._hosts.write_text("host all all all trust\n")

    def launch(self) -> None:
        """Starts it without waiting for it."""
        options = ["-h", ",".join(self._addresses), "-c", f"hba_file={self._hosts}"]
        self._popen(self._postgres.command(self.port, *options), signal.SIGQUIT, **as_user(self._postgres.user))

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """A fast shutdown; after SIGTERM it would wait for its clients to leave."""
        return super().stop(number)

    def answers(self) -> bool:
        """Whether it takes connections."""
        return postgres_answers(self.port)

    def url(self, host: str = "127.0.0.1") -> str:
        """The URL of its database."""
        return postgres_url_of(self.port, host)

    @property
    def _data(self) -> Path:
        return self._postgres.folder / "data"

    @property
    def _copy(self) -> Path:
        return self._postgres.folder / "backup"

    def copy_files(self) -> None:
        """Keep a copy of its files, instead of an older one. It must not run."""
        shutil.rmtree(self._copy, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self._data), str(self._copy)], check=True)

    def put_copy_back(self) -> None:
        """Put that copy in the place of its files. It must not run."""
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", str(self._copy), str(self._data)], check=True)

    def query(self, statement: str, *values: Any, database: str = "") -> list[tuple[Any, ...]]:
        """Run a statement, in another database than its own if one is named; return its rows."""
        with psycopg.connect(f"{self.url()}?dbname={database or 'postgres'}", autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


class Broker(Part):
    """Redis, empty in each of its lives."""

    def __init__(self, log: Path, folder: Path, addresses: Sequence[str]) -> None:
        super().__init__("Redis", log, dict(os.environ), ThisMachine("services"))
        self._folder = folder
        self._addresses = ["127.0.0.1", *addresses]
        self.port = free_port()
        folder.mkdir()

    def launch(self) -> None:
        """Starts it without waiting for it."""
        options = ["--bind", *self._addresses, "--protected-mode", "no"]
        self._popen(redis_command(self._folder, self.port, *options), signal.SIGTERM)

    def answers(self) -> bool:
        """Whether it answers."""
        return redis_answers(self.port)

    def url(self, host: str = "127.0.0.1") -> str:
        """The URL of its database."""
        return f"redis://{host}:{self.port}/0"


class Cluster:
    """The whole stack: a web process and a worker on each host. Use it as a context manager: entering starts
    everything, leaving kills everything."""

    def __init__(self, folder: Path, hosts: Sequence[Host], **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.hosts = hosts
        self._cleanup = contextlib.ExitStack()
        foreign = product_variables()
        self._environment = {name: value for name, value in os.environ.items() if name not in foreign}
        self.storage = folder / "audio"
        self._environment |= {"AUDIO_STORAGE_PATH": str(self.storage), **ENVIRONMENT, **environment}
        addresses = [host.services_at for host in hosts if host.has_link]
        self.database = Database(folder / "postgres.log", make_postgres(self._cleanup), addresses)
        self.broker = Broker(folder / "redis.log", folder / "redis", addresses)
        self.web = [self._product(Web, f"web-{host.name}", host) for host in hosts]
        self.workers = [self._product(Worker, f"worker-{host.name}", host) for host in hosts]
        self.sweeper = self._product(Sweeper, "sweeper", ThisMachine("services"))

    def __enter__(self) -> "Cluster":
        try:
            self.start(self.database, self.broker)
            self._migrate()
            self.start(*self.web, *self.workers, self.sweeper)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.parts()):
            part.kill()
        self._cleanup.close()

    def parts(self) -> list[Part]:
        """Everything that runs, in the order in which it is started."""
        return [self.database, self.broker, *self.products()]

    def products(self) -> list[Part]:
        """What of it is ours."""
        return [*self.web, *self.workers, self.sweeper]

    def start(self, *parts: Part) -> None:
        """Starts those that don't run, at once, and waits until each works."""
        launched = [part for part in parts if not part.is_alive()]
        for part in launched:
            part.launch()
        for part in launched:
            part.wait_until_ready()

    def cut_off(self, host: Host) -> None:
        """What runs on the host reaches nobody any more; without a link to cut, it is stopped where it is."""
        if isinstance(host, Namespace):
            host.cut_off()
        for part in () if host.has_link else self._on(host):
            part.freeze()

    def reconnect(self, host: Host) -> None:
        """The host is back, and what runs on it does not know that it was away."""
        if isinstance(host, Namespace):
            host.reconnect()
        for part in self._on(host):
            if part.is_alive():
                part.thaw()

    def _on(self, host: Host) -> list[Part]:
        return [part for part in self.parts() if part.host is host]

    def repair(self) -> None:
        """Brings back what a test has left dead, stopped or cut off."""
        for host in {part.host for part in self.parts()}:
            self.reconnect(host)
        self.start(self.database, self.broker)
        self.start(*self.web, *self.workers, self.sweeper)
        self.until_whole()

    def until_whole(self) -> None:
        """Waits until the processes that the database knows of are those that live: one that hung comes back with a
        heartbeat, one that died is forgotten by the sweep."""
        eventually(lambda: self.database.query("SELECT count(*) FROM audio_ingestprocess") == [(len(self.web),)])

    def _product(self, kind: type[AnyPart], name: str, host: Host) -> AnyPart:
        environment = self._environment | {
            "DATA_DIR": str(self.folder / name),
            "DATABASE_URL": f"{self.database.url(host.services_at)}?application_name={name}",
            "REDIS_URL": self.broker.url(host.services_at),
            "ALLOWED_HOSTS": "*",
            "REQUIRE_AUTH": "false",
            "DJANGO_SETTINGS_MODULE": "sercuescribe.settings",
        }
        return kind(name, self.folder / f"{name}.log", environment, host)

    def _migrate(self) -> None:
        self.manage("migrate", "--verbosity", "0").check_returncode()

    def manage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `manage.py` to its end, on a host that lacks nothing."""
        command = [sys.executable, str(REPOSITORY / "manage.py"), *arguments]
        variables = self.sweeper.environment | {"LD_PRELOAD": ""} | environment
        return subprocess.run(command, env=variables, cwd=REPOSITORY, capture_output=True, text=True)

    def logs(self) -> str:
        """What every part wrote."""
        return "\n".join(f"--- {part.name}\n{part.read_log()}" for part in self.parts())
