"""Supervision of the background tasks of a web process.

No code waits for a background task, so an unexpected exception in it would go unnoticed. The supervisor logs the
exception with its traceback, counts it, and restarts the task if it has to continue.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from audio import metrics

logger = structlog.stdlib.get_logger(__name__)

FIRST_DELAY_SECONDS = 0.1
# Shorter than the time after which other processes treat this one as dead.
MAX_DELAY_SECONDS = 5.0
# After a task has run for this long, the delay before its next restart is short again.
_SOUND_SECONDS = 60.0
_CANCEL_AGAIN_SECONDS = 1.0


class Supervisor:
    """The background tasks of one process. Each runs until it ends, or until the supervisor stops."""

    def __init__(self) -> None:
        # All running tasks, including those that wait for their restart.
        self._tasks: set[asyncio.Task[None]] = set()

    def keep_running(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function that never returns, and restart it with a growing delay if it ends all the same.

        Args:
            name: The name of the task in logs and metrics, one of `metrics.BACKGROUND_TASKS`.
            function: The function. It handles the errors that it expects.
        """
        self._add(self._restart(name, function))

    def run_once(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end.

        Args:
            name: The name of the task in logs and metrics, one of `metrics.BACKGROUND_TASKS`.
            coroutine: The coroutine. It handles the errors that it expects.
        """
        self._add(self._watch(name, coroutine))

    async def stop(self) -> None:
        """Cancel all tasks until they have ended. A Redis client may swallow the first cancellation."""
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)

    def _add(self, supervised: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(supervised)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restart(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        delay_seconds = FIRST_DELAY_SECONDS
        while True:
            started_at = loop.time()
            if await self._watch(name, function()) is None:
                self._report(name, RuntimeError(f"The background task {name} has returned."))
            if loop.time() - started_at >= _SOUND_SECONDS:
                delay_seconds = FIRST_DELAY_SECONDS
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, MAX_DELAY_SECONDS)

    async def _watch(self, name: str, awaitable: Awaitable[None]) -> BaseException | None:
        """Wait for the end of a task.

        Returns:
            The exception that ended it, which was reported. None if it returned.
        """
        # A cancellation of the awaitable alone is a failure too. A cancellation by `stop` is raised here.
        (failure,) = await asyncio.gather(awaitable, return_exceptions=True)
        if failure is not None:
            self._report(name, failure)
        return failure

    @staticmethod
    def _report(name: str, failure: BaseException) -> None:
        metrics.background_task_failures.labels(name).inc()
        logger.error("background_task_failed", task=name, exc_info=failure)
