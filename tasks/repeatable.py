"""The base of tasks that retry after an error that may pass, with a growing delay."""

from collections.abc import Iterator
from typing import Any

from celery import Task

from audio.database import AWAY
from audio.errors import AudioError


def _retryable(kind: type[AudioError]) -> Iterator[type[AudioError]]:
    """Yield the topmost subclasses of `kind` that are marked as retryable. Their own subclasses are retryable too."""
    if kind.retryable:
        yield kind
        return
    for below in kind.__subclasses__():
        yield from _retryable(below)


WORTH_ANOTHER_TRY: tuple[type[Exception], ...] = (*AWAY, OSError, *_retryable(AudioError))


class Repeatable(Task[Any, Any]):
    """A task that retries if the database, the disk or a service was not available. Any other error ends it."""

    autoretry_for = WORTH_ANOTHER_TRY
    retry_backoff = 1
    retry_backoff_max = 60
    max_retries = 10
