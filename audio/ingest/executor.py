"""Threads that run functions which use the database, on behalf of the event loop."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
from django.db import Error as DjangoDatabaseError
from django.db import close_old_connections

from audio.database import rejection

logger = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")


class DatabaseExecutor:
    """A pool of threads, each with its own database connection."""

    def __init__(self, name: str, max_workers: int) -> None:
        self._threads = ThreadPoolExecutor(max_workers, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in one of the threads.

        Raises:
            ServiceError: The database is away or full.
        """
        # The context has the keys that each line of the log contains, such as the session's id.
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, run, _with_database, function, *arguments
        )

    def shutdown(self) -> None:
        """Wait for the running functions, and end the threads."""
        self._threads.shutdown()


def _with_database(function: Callable[..., T], *arguments: Any) -> T:
    close_old_connections()
    try:
        return function(*arguments)
    except DjangoDatabaseError as error:
        logger.error("database_failed", error=str(error))
        raise rejection(error) from error
