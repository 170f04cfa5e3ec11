"""Extensions of a Celery worker.

The worker reports when it is ready, its processes end together, and it logs like the web server.
"""

import functools
import gc
import logging
import os
import signal
import warnings
from typing import Any

import click
import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker.consumer import Consumer as StockConsumer
from click.core import ParameterSource
from django.conf import settings
from structlog.contextvars import bind_contextvars, clear_contextvars

from audio.management import readiness
from audio.management.lifeline import die_with_parent
from sercuescribe import logs

logger = structlog.stdlib.get_logger(__name__)

RECONNECT_SECONDS = 2
SIGNAL_BYTES = 64


class Consumer(StockConsumer):
    """Celery's consumer, with faster reconnection after a long absence of the broker.

    The delay of the original grows by two seconds with each attempt, up to half a minute.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to the broker, with an attempt every RECONNECT_SECONDS for as long as it takes."""
        conn.ensure_connection = functools.partial(
            conn.ensure_connection, interval_start=RECONNECT_SECONDS, interval_step=0, interval_max=RECONNECT_SECONDS
        )
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close a connection whose broker is gone.

        If a task runs, kombu tries to return its message to the queue a second time, without a transport. The error of
        that would end the worker.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            logger.warning("broker_connection_not_closed", error=str(error))


class ReportReady(bootsteps.StartStopStep):
    """A step that reports to `--ready-fd`, or else to systemd, that the worker takes tasks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Report readiness. Celery calls this method after the first connection, and after each reconnection."""
        descriptor = parent.controller.options.pop("ready_fd", None)
        if descriptor is None:
            readiness.tell()
        else:
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


class WakeOnSignal(bootsteps.StartStopStep):
    """A step that wakes the loop of the worker when a signal comes.

    Without it, a stop waits for the next timer of the loop, about a second.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)

    def start(self, parent: Any) -> None:
        """Watch for signals. Celery calls this method after each connection, which empties the loop."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        parent.hub.add_reader(self._reader, os.read, self._reader, SIGNAL_BYTES)


def spare_advice(**_: Any) -> None:
    """Suppress Celery's warnings about settings, and about root, because a container may have no other user."""
    for category in (SecurityWarning, CPendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category)


def die_with_worker(**_: Any) -> None:
    """Bind the life of a pool process to the worker that forked it."""
    die_with_parent(os.getppid())


def freeze_loaded(**_: Any) -> None:
    """Exclude what the worker has loaded from garbage collection, so that pool processes share its memory."""
    gc.freeze()


def configure_logging(loglevel: int, **_: Any) -> None:
    """Replace Celery's own logging, and its redirection of standard output.

    A `--loglevel` on the command line overrides LOG_LEVEL. Celery's default for it does not.

    Args:
        loglevel: The level of the command line, or Celery's default.
    """
    logs.configure(settings.LOGGING)
    context = click.get_current_context(silent=True)
    if context is not None and context.get_parameter_source("loglevel") is ParameterSource.COMMANDLINE:
        logging.getLogger().setLevel(loglevel)
        logging.getLogger("celery.beat").setLevel(logging.NOTSET)  # its lines appear if the level asks for them


def name_task(task_id: str, task: Any, args: Any, **_: Any) -> None:
    """Bind a task, and the session in its first argument, to the context of the log."""
    clear_contextvars()
    bind_contextvars(task=task.name, task_id=task_id)
    if args and isinstance(args[0], str):
        bind_contextvars(session_id=args[0])


def forget_task(**_: Any) -> None:
    """Clear the context of the log after a task."""
    clear_contextvars()


def tell_retry(request: Any, reason: Any, **_: Any) -> None:
    """Log a retry. Celery logs it together with the start and the end of every task, which are left out."""
    logger.warning("task_retried", task_id=request.id, retries=request.retries, reason=str(reason))


def install(app: Celery) -> None:
    """Add these extensions to the workers of `app`."""
    app.user_options["worker"].add(click.Option(["--ready-fd"], type=int, help="Report readiness to this descriptor."))
    app.steps["consumer"].update({ReportReady, WakeOnSignal})
    signals.celeryd_init.connect(spare_advice)
    signals.worker_before_create_process.connect(freeze_loaded)
    signals.worker_process_init.connect(die_with_worker)
    signals.setup_logging.connect(configure_logging)
    signals.task_prerun.connect(name_task)
    signals.task_postrun.connect(forget_task)
    signals.task_retry.connect(tell_retry)
