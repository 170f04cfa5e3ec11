"""The names of the background tasks, and how the product asks for one.

A request is a hint: the broker may lose it, or be away. The sweep finds in the database what was not done.
"""

import logging
from typing import Any

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

CONCATENATE = "sercuescribe.concatenate"
SWEEP = "sercuescribe.sweep"


def send(name: str, *arguments: Any) -> None:
    """Asks for task `name` now; a broker that is away costs a log line and a delay until the next sweep."""
    try:
        current_app.send_task(name, args=[str(argument) for argument in arguments])
    except OperationalError as error:
        logger.warning("broker away, %s %s is left to the sweep: %s", name, arguments, error)


def send_on_commit(name: str, *arguments: Any) -> None:
    """Asks for task `name` once the surrounding transaction, if any, is committed."""
    transaction.on_commit(lambda: send(name, *arguments))
