"""Batches of requests: what arrives while one batch is written to the database makes up the next one.

A crowd of clients that connect or leave at once thus costs a few transactions instead of one for each client. A single
client does not wait for others.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from audio.errors import AudioError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

# Chunks wait for one batch at most.
MAX_BATCH = 16


class Batches(Generic[RequestT, ResultT]):
    """A queue of requests of one kind. Only the event loop's thread uses it."""

    def __init__(
        self, process: Callable[[Sequence[RequestT]], Coroutine[Any, Any, Sequence[ResultT | AudioError]]]
    ) -> None:
        """Create an empty queue.

        Args:
            process: Processes a batch, and returns a result or an error for each request, in order. If it raises an
                error, that is the answer to all of them.
        """
        self._process = process
        self._waiting: list[tuple[RequestT, asyncio.Future[ResultT]]] = []
        self._running: asyncio.Future[Sequence[ResultT | AudioError]] | None = None

    async def run(self, request: RequestT) -> ResultT:
        """Process a request, together with others that wait.

        Raises:
            AudioError: The request was rejected, or its batch failed.
        """
        answer: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._running is None:
            self._start()
        return await answer

    def _start(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        running = asyncio.get_running_loop().create_task(self._process([request for request, _ in batch]))
        running.add_done_callback(partial(self._answer, [answer for _, answer in batch]))
        self._running = running

    def _answer(
        self, answers: list[asyncio.Future[ResultT]], done: asyncio.Future[Sequence[ResultT | AudioError]]
    ) -> None:
        self._running = None
        if self._waiting:
            self._start()
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        results = [failure] * len(answers) if failure is not None else done.result()
        for answer, result in zip(answers, results, strict=True):
            # A client that has left does not wait any more.
            if answer.done():
                continue
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)
