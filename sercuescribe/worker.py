"""What a Celery worker does beyond the stock one: it tells when it takes tasks, and its processes die together."""

import os
from typing import Any

import click
from celery import Celery, bootsteps, signals

from audio.management.lifeline import die_with_parent


class ReportReady(bootsteps.StartStopStep):
    """Writes one line to the descriptor `--ready-fd`, if given, as soon as the worker takes tasks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Called when the consumer of `parent` has connected, and again after each reconnection."""
        descriptor = parent.controller.options.pop("ready_fd", None)
        if descriptor is not None:
            os.write(descriptor, b"ready\n")
            os.close(descriptor)


def die_with_worker(**_: Any) -> None:
    """Ties a pool process to the worker that forked it."""
    die_with_parent(os.getppid())


def install(app: Celery) -> None:
    """Adds the above to the workers of `app`."""
    app.user_options["worker"].add(click.Option(["--ready-fd"], type=int, help="Report readiness to this descriptor."))
    app.steps["consumer"].add(ReportReady)
    signals.worker_process_init.connect(die_with_worker)
