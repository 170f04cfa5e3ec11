"""`manage.py serve`: run the whole product with one command, and stop it cleanly."""

import functools
import os
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from celery import current_app
from django.conf import settings
from django.core.checks import Tags
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error as DatabaseFailure
from django.db import OperationalError, close_old_connections, connection

from audio import checks, database, metrics, upkeep
from audio.journal.files import try_lock
from audio.management import bundled_redis, first_steps, installation, readiness, web
from audio.management.examples import ExampleCommand
from audio.management.supervisor import Program, StartFailedError, Supervisor, listen

logger = structlog.stdlib.get_logger(__name__)

START_SECONDS = 90.0
# After a kill -9 the kernel needs a moment to end the children of the last server.
PATIENCE_SECONDS = 2.0
_LAST_PORT = 65535
# First a warm stop, which finishes the running window, then a cold stop, which returns it to the queue.
WORKER_STOP = [(signal.SIGTERM, 3.0), (signal.SIGQUIT, 2.0)]


def _port(text: str) -> int:
    """Return the port of an argument.

    Raises:
        ArgumentTypeError: It is not a port.
    """
    if text.isdecimal() and int(text) <= _LAST_PORT:
        return int(text)
    raise ArgumentTypeError(f"must be a whole number from 0 to {_LAST_PORT}, not {text!r}")


class Command(ExampleCommand):
    """Migrate the database, then run Redis, the workers and the web server until a stop signal comes."""

    help = "Runs SercueScribe: the web server, the workers and, without REDIS_URL, Redis. Ctrl-C stops it."
    examples = ("", "--host 0.0.0.0 --port 8080")
    # `handle` runs the checks after it has locked the folder, whose errors have clearer sentences.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the address to listen on. Everything else is in the environment."""
        parser.add_argument("--host", default=settings.HOST, help="the address to listen on (default: %(default)s)")
        parser.add_argument(
            "--port",
            type=_port,
            default=settings.PORT,
            help="the port to listen on; 0 picks a free one (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGINT, SIGTERM or SIGHUP.

        Raises:
            CommandError: The server can't start.
        """
        with ExitStack() as resources:
            _claim(settings.DATA_DIR, resources)
            resources.callback(_remove_socket_folder)
            _begin_metrics(settings.METRICS_DIR)
            self.check(tags=[checks.START])
            listener = resources.enter_context(_listen(options["host"], options["port"]))
            self._migrate()
            port = listener.getsockname()[1]
            with Supervisor(_environment(options["host"], port)) as supervisor:
                self._supervise(supervisor, listener, options["host"])

    def _supervise(self, supervisor: Supervisor, listener: socket.socket, host: str) -> None:
        try:
            supervisor.start(*_redis(), within_seconds=START_SECONDS)
            web_programs = web.programs(listener, settings.WEB_PROCESSES, functools.partial(_before_web, supervisor))
            supervisor.start(_worker(), _job_worker(), *web_programs, within_seconds=START_SECONDS)
        except StartFailedError as error:
            raise CommandError(str(error)) from None
        if not supervisor.stopping:
            self.stdout.write(f"SercueScribe is ready: {_url(listener)}")
            self.stdout.flush()
            readiness.tell()
            _tell_first_steps(host)
            supervisor.run(settings.SWEEP_INTERVAL_SECONDS, _sweep)
        # No process accepts any more. A closed socket rejects new clients at once, instead of letting them wait.
        listener.close()

    def _migrate(self) -> None:
        try:
            _migrate()
        except DatabaseFailure as error:
            raise CommandError(installation.sentence(error)) from None
        self.check(tags=[Tags.database], databases=["default"])


def _migrate() -> None:
    """Migrate the database. On a full disk SQLite needs the space of its reserve even for reading."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except OperationalError as error:
        if not (database.is_full(error) and database.release_reserve()):
            raise
        logger.warning("reserve_released")
        call_command("migrate", interactive=False, verbosity=0)


def _claim(folder: Path, resources: ExitStack) -> None:
    """Create the data folder and lock it for this process.

    Raises:
        CommandError: The folder can't be written, or another server uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = resources.enter_context((folder / "serve.lock").open("a+"))
    except OSError as error:
        raise CommandError(f"The folder {folder} can't be written: {error.strerror}. Set DATA_DIR.") from None
    if not try_lock(lock):
        raise CommandError(f"Another server already uses the folder {folder}. Stop it, or set DATA_DIR.")


def _begin_metrics(folder: Path) -> None:
    try:
        metrics.begin_anew(folder)
    except OSError as error:
        raise CommandError(f"The folder {folder} can't be written: {error.strerror}. Set METRICS_DIR.") from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port, PATIENCE_SECONDS)
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"Can't listen on {host} port {port}: {reason}. Set HOST or PORT to a free one.") from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _environment(host: str, port: int) -> dict[str, str]:
    """Return the environment of the children. They read the same settings, with the actual port."""
    # This process has run the checks.
    return os.environ | {"HOST": host, "PORT": str(port), "PYTHONPATH": _python_path(), "CELERY_SKIP_CHECKS": "true"}


def _python_path() -> str:
    """Return a PYTHONPATH with which the children can import the product from any working folder."""
    return os.pathsep.join([str(settings.BASE_DIR), *filter(None, [os.environ.get("PYTHONPATH")])])


def _remove_socket_folder() -> None:
    """Remove the folder of the bundled Redis's socket if it is empty. It may be in the shared temporary folder."""
    with suppress(OSError):
        settings.REDIS_SOCKET.parent.rmdir()


def _redis() -> list[Program]:
    """Return the bundled Redis; none if REDIS_URL names another one.

    Raises:
        CommandError: The Redis of REDIS_URL does not answer, or the bundled one can't run.
    """
    if settings.REDIS_URL:
        if fault := bundled_redis.fault(settings.REDIS_URL):
            raise CommandError(f"The Redis at REDIS_URL does not answer: {fault}. Start it, or check REDIS_URL.")
        return []
    try:
        return [bundled_redis.program(settings.DATA_DIR / "redis", settings.REDIS_SOCKET, _before_redis)]
    except bundled_redis.UnusableRedisError as error:
        raise CommandError(str(error)) from None


def _worker() -> Program:
    return _celery("worker", "celery", settings.WORKER_CONCURRENCY, _before_worker)


def _job_worker() -> Program:
    """Return the worker for jobs and webhooks. It runs one at a time, so that a long job never delays a recording.

    An endpoint that hangs delays jobs by 15 seconds at most, and never a recording. A worker for webhooks alone would
    take the memory of another process.
    """
    return _celery("jobs", "jobs,webhooks", 1, _before_job_worker)


def _celery(name: str, queue: str, concurrency: int, prepare: Callable[[], None]) -> Program:
    options = ["--queues", queue, "--hostname", f"{name}@%h", "--concurrency", str(concurrency)]
    features = ["--pool", "prefork", "--without-gossip", "--without-mingle"]
    return Program(
        name=name,
        arguments=[sys.executable, "-m", "sercuescribe.celery_worker", *options, *features],
        stop=WORKER_STOP,
        group="workers",
        is_fork=True,
        prepare=prepare,
    )


def _before_redis() -> None:
    """Make all waiting work due for the sweep, because the queue of a Redis that starts is empty."""
    with _put_off("queue_not_refilled"):
        upkeep.expect_empty_queue()


def _before_worker() -> None:
    if not settings.REDIS_URL:
        bundled_redis.restore_unacknowledged(current_app)


def _before_job_worker() -> None:
    """Make the tasks of an earlier job worker due for the sweep, and remove old results of Celery.

    In production `celery beat` removes them.
    """
    with _put_off("dead_runs_not_expected"):
        upkeep.expect_dead_runs()
        current_app.backend.cleanup()


def _before_web(supervisor: Supervisor) -> None:
    """Forget the web processes of an earlier server.

    They are known to be dead, and not just silent, if the database and Redis belong to this server and none of its web
    processes runs.
    """
    others_run = any(child.process is not None for child in supervisor.children if child.program.name == web.NAME)
    if others_run or settings.REDIS_URL or connection.vendor != "sqlite":
        return
    with _put_off("dead_processes_not_forgotten"):
        upkeep.forget_dead_processes()


def _tell_first_steps(host: str) -> None:
    """Log what an operator should know about access. Standard output has the ready line and nothing else."""
    with _put_off("first_steps_not_told"):
        if sentence := first_steps.sentence(host):
            logger.warning("access", advice=sentence)


def _sweep() -> None:
    """Run one sweep."""
    with _put_off("sweep_put_off"):
        upkeep.sweep()


@contextmanager
def _put_off(event: str) -> Iterator[None]:
    """Log the event instead of raising an error of the database or the storage.

    No work of `serve` itself is worth the end of its children. A later sweep does it, or finds the work of others once
    it is old enough.
    """
    close_old_connections()
    try:
        yield
    except (DatabaseFailure, OSError) as error:
        logger.warning(event, error=str(error))
