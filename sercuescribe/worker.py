"""What a Celery worker does beyond the stock one: it tells when it takes tasks, its processes die together, and it logs
as the rest of the product does.
"""

import functools
import gc
import logging
import os
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


class Consumer(StockConsumer):
    """Celery's consumer, which after a longer absence of its broker is back within seconds.

    The stock one waits two seconds longer each time, up to half a minute.
    """

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to the broker, trying again every RECONNECT_SECONDS for as long as it takes."""
        conn.ensure_connection = functools.partial(
            conn.ensure_connection, interval_start=RECONNECT_SECONDS, interval_step=0, interval_max=RECONNECT_SECONDS
        )
        return super().ensure_connected(conn)


class ReportReady(bootsteps.StartStopStep):
    """Tells `--ready-fd`, if given, else systemd, as soon as the worker takes tasks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Called when the consumer of `parent` has connected, and again after each reconnection."""
        descriptor = parent.controller.options.pop("ready_fd", None)
        if descriptor is None:
            readiness.tell()
        else:
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


def spare_advice(**_: Any) -> None:
    """Keep Celery's advice out of the log: against root (in a container there may be nobody else), and on settings."""
    for category in (SecurityWarning, CPendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category)


def die_with_worker(**_: Any) -> None:
    """Ties a pool process to the worker that forked it."""
    die_with_parent(os.getppid())


def freeze_loaded(**_: Any) -> None:
    """Keep the collector of a pool process away from what the worker has loaded, so that they share its memory."""
    gc.freeze()


def configure_logging(loglevel: int, **_: Any) -> None:
    """Take the place of Celery's own way of logging, and of its redirection of standard output.

    A `--loglevel` on the command line goes before LOG_LEVEL; Celery's default for it does not.

    Args:
        loglevel: What the command line says, or Celery's default.
    """
    logs.configure(settings.LOGGING)
    context = click.get_current_context(silent=True)
    if context is not None and context.get_parameter_source("loglevel") is ParameterSource.COMMANDLINE:
        logging.getLogger().setLevel(loglevel)
        logging.getLogger("celery.beat").setLevel(logging.NOTSET)  # whoever asks for its lines gets them


def name_task(task_id: str, task: Any, args: Any, **_: Any) -> None:
    """Says in every line of the log which task writes it, and for which session: the first argument of ours."""
    clear_contextvars()
    bind_contextvars(task=task.name, task_id=task_id)
    if args and isinstance(args[0], str):
        bind_contextvars(session_id=args[0])


def forget_task(**_: Any) -> None:
    """What is written between tasks belongs to none."""
    clear_contextvars()


def tell_retry(request: Any, reason: Any, **_: Any) -> None:
    """Celery says this among the lines for every task that comes and goes, which are left out."""
    logger.warning("task_retried", task_id=request.id, retries=request.retries, reason=str(reason))


def install(app: Celery) -> None:
    """Adds the above to the workers of `app`."""
    app.user_options["worker"].add(click.Option(["--ready-fd"], type=int, help="Report readiness to this descriptor."))
    app.steps["consumer"].add(ReportReady)
    signals.celeryd_init.connect(spare_advice)
    signals.worker_before_create_process.connect(freeze_loaded)
    signals.worker_process_init.connect(die_with_worker)
    signals.setup_logging.connect(configure_logging)
    signals.task_prerun.connect(name_task)
    signals.task_postrun.connect(forget_task)
    signals.task_retry.connect(tell_retry)
