"""`manage.py serve`: the whole product with one command, and its clean end."""

import fcntl
import functools
import os
import signal
import socket
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from celery import current_app
from django.conf import settings
from django.core.checks import Tags
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure
from django.db import OperationalError, close_old_connections, connection

from audio import checks, database, metrics, upkeep
from audio.management import bundled_redis, installation, readiness, web
from audio.management.supervisor import Program, StartFailed, Supervisor, listen

logger = structlog.stdlib.get_logger(__name__)

START_SECONDS = 90.0
# After a kill -9 the kernel needs a moment to end the children of the last server.
PATIENCE_SECONDS = 2.0
# Warm (the running window is finished), then cold (it is given back to the queue).
WORKER_STOP = [(signal.SIGTERM, 3.0), (signal.SIGQUIT, 2.0)]


class Command(BaseCommand):
    """Migrates the database, then runs Redis, the Celery worker and the web server until it is told to stop."""

    help = "Runs SercueScribe: the web server, the workers and, without REDIS_URL, Redis. Ctrl-C stops it."
    # They come after the folder is known to be ours, which has a clearer sentence when it can't be.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to listen; the environment says the rest."""
        parser.add_argument("--host", default=settings.HOST, help="the address to listen on (default: %(default)s)")
        parser.add_argument(
            "--port",
            type=int,
            default=settings.PORT,
            help="the port to listen on; 0 picks a free one (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until SIGINT, SIGTERM or SIGHUP. Raises CommandError with one sentence when it can't start."""
        with ExitStack() as resources:
            _claim(settings.DATA_DIR, resources)
            resources.callback(_remove_socket_folder)
            _begin_metrics(settings.METRICS_DIR)
            self.check(tags=[checks.START])
            listener = resources.enter_context(_listen(options["host"], options["port"]))
            self._migrate()
            port = listener.getsockname()[1]
            with Supervisor(_environment(options["host"], port)) as supervisor:
                self._supervise(supervisor, listener)

    def _supervise(self, supervisor: Supervisor, listener: socket.socket) -> None:
        try:
            supervisor.start(*_redis(), within_seconds=START_SECONDS)
            web_programs = web.programs(listener, settings.WEB_PROCESSES, functools.partial(_before_web, supervisor))
            supervisor.start(_worker(), _job_worker(), *web_programs, within_seconds=START_SECONDS)
        except StartFailed as error:
            raise CommandError(str(error)) from None
        if not supervisor.stopping:
            self.stdout.write(f"SercueScribe is ready: {_url(listener)}")
            self.stdout.flush()
            readiness.tell()
            supervisor.run(settings.SWEEP_INTERVAL_SECONDS, _sweep)
        # Nobody accepts any more: new clients are told so at once instead of waiting in the queue.
        listener.close()

    def _migrate(self) -> None:
        try:
            _migrate()
        except DatabaseFailure as error:
            raise CommandError(installation.sentence(error)) from None
        self.check(tags=[Tags.database], databases=["default"])


def _migrate() -> None:
    """Bring the database up to date. On a full disk SQLite needs its reserve even to be read."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except OperationalError as error:
        if not (database.is_full(error) and database.release_reserve()):
            raise
        logger.warning("reserve_released")
        call_command("migrate", interactive=False, verbosity=0)


def _claim(folder: Path, resources: ExitStack) -> None:
    """Makes the data folder and locks it for this process. Raises CommandError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = resources.enter_context((folder / "serve.lock").open("a+"))
    except OSError as error:
        raise CommandError(f"The folder {folder} can't be written: {error.strerror}. Set DATA_DIR.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError(f"Another server already uses the folder {folder}. Stop it, or set DATA_DIR.") from None


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
    """Return the environment of the children, who read the same settings; only the port may have been found by us."""
    # The checks have been made here.
    return os.environ | {"HOST": host, "PORT": str(port), "PYTHONPATH": _python_path(), "CELERY_SKIP_CHECKS": "true"}


def _python_path() -> str:
    """Lets the children import the product from any working folder."""
    return os.pathsep.join([str(settings.BASE_DIR), *filter(None, [os.environ.get("PYTHONPATH")])])


def _remove_socket_folder() -> None:
    """Removes the folder of our Redis's socket when nothing else is in it: one in the shared temporary folder."""
    with suppress(OSError):
        settings.REDIS_SOCKET.parent.rmdir()


def _redis() -> list[Program]:
    """Our own Redis, or none when REDIS_URL names one. Raises CommandError."""
    if settings.REDIS_URL:
        if fault := bundled_redis.fault(settings.REDIS_URL):
            raise CommandError(f"The Redis at REDIS_URL does not answer: {fault}. Start it, or check REDIS_URL.")
        return []
    try:
        return [bundled_redis.program(settings.DATA_DIR / "redis", settings.REDIS_SOCKET, _before_redis)]
    except bundled_redis.Unusable as error:
        raise CommandError(str(error)) from None


def _worker() -> Program:
    return _celery("worker", "celery", settings.WORKER_CONCURRENCY, _before_worker)


def _job_worker() -> Program:
    """Other formats and waveforms, one at a time: a long one never keeps a closed session waiting."""
    return _celery("jobs", "jobs", 1, _before_job_worker)


def _celery(name: str, queue: str, concurrency: int, prepare: Callable[[], None]) -> Program:
    options = ["--queues", queue, "--hostname", f"{name}@%h", "--concurrency", str(concurrency)]
    features = ["--pool", "prefork", "--without-gossip", "--without-mingle"]
    return Program(
        name=name,
        arguments=[sys.executable, "-m", "sercuescribe.celery_worker", *options, *features],
        stop=WORKER_STOP,
        prepare=prepare,
    )


def _before_redis() -> None:
    """Have everything that waits asked for again: the queue of a Redis that starts is empty."""
    with _put_off("queue_not_refilled"):
        upkeep.expect_empty_queue()


def _before_worker() -> None:
    if not settings.REDIS_URL:
        bundled_redis.restore_unacknowledged(current_app)


def _before_job_worker() -> None:
    """What the one before it had taken would otherwise wait for a while. Old results of Celery's, which nobody needs,
    are removed by its beat in production."""
    with _put_off("dead_runs_not_expected"):
        upkeep.expect_dead_runs()
        current_app.backend.cleanup()


def _before_web(supervisor: Supervisor) -> None:
    """Where nobody but our own web processes can be taking chunks and none runs, those before it are dead, not just
    silent."""
    others_run = any(child.process is not None for child in supervisor.children if child.program.name == web.NAME)
    if others_run or settings.REDIS_URL or connection.vendor != "sqlite":
        return
    with _put_off("dead_processes_not_forgotten"):
        upkeep.forget_dead_processes()


def _sweep() -> None:
    """Take one round of upkeep."""
    with _put_off("sweep_put_off"):
        upkeep.sweep()


@contextmanager
def _put_off(event: str) -> Iterator[None]:
    """Log the event instead of an error of the database or the storage.

    Nothing that `serve` does itself is worth the end of the rest: it is done in a later round, or by the sweep once
    what others left behind is old enough.
    """
    close_old_connections()
    try:
        yield
    except (DatabaseFailure, OSError) as error:
        logger.warning(event, error=str(error))
