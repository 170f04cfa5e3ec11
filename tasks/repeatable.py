"""What repeatable tasks have in common: an error that may pass by itself is met by trying again, later each time."""

from collections.abc import Iterator
from typing import Any

from celery import Task

from audio.database import AWAY
from audio.errors import AudioError


def _retryable(kind: type[AudioError]) -> Iterator[type[AudioError]]:
    """Gives the errors below `kind` that say so of themselves; what is below one of those is one too."""
    if kind.retryable:
        yield kind
        return
    for below in kind.__subclasses__():
        yield from _retryable(below)


WORTH_ANOTHER_TRY: tuple[type[Exception], ...] = (*AWAY, OSError, *_retryable(AudioError))


class Repeatable(Task[Any, Any]):
    """A task that is tried again when the database, the disk or a service was away; any other error ends it."""

    autoretry_for = WORTH_ANOTHER_TRY
    retry_backoff = 1
    retry_backoff_max = 60
    max_retries = 10
