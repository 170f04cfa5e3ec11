"""Functions of the event loop that write to SQLite, in the committer's thread.

SQLite has one writer at a time, and who waits for the lock sleeps and tries again. Threads that open and close sessions
would therefore hold up the chunks of everybody, for as long as a lottery takes. In one thread, nobody waits for a lock,
and functions that arrive together share a transaction and its flush.
"""

import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import structlog
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db import Error as DjangoDatabaseError

from audio.database import rejection

logger = structlog.stdlib.get_logger(__name__)

# After this time the chunks that have arrived meanwhile get their turn.
SLICE_SECONDS = 0.01

AfterCommit = Callable[[], object]


class Call:
    """A function to run in a transaction, and the future of what it returns or raises."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        # The context has the keys that each line of the log contains, such as the session's id.
        self._context = contextvars.copy_context()
        self._function = function
        self._arguments = arguments
        self._result: Any = None
        self._error: Exception | None = None
        self.future: Future[Any] = Future()

    def __enter__(self) -> None:
        """Begin the run of the function."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep an error of the function for its caller. The transaction of the others goes on."""
        self._error = error if isinstance(error, Exception) else None
        return self._error is not None

    def run(self) -> None:
        """Run the function. Its changes are in a savepoint of their own, which an error takes back."""
        with self, transaction.atomic():
            self._result = self._context.run(self._function, *self._arguments)

    def answer(self, failure: Exception | None = None) -> None:
        """Tell the caller what the function has returned or raised, or why the transaction has failed."""
        error = self._error or failure
        if error is not None:
            self.future.set_exception(rejection(error) if isinstance(error, DjangoDatabaseError) else error)
        else:
            self.future.set_result(self._result)


class Calls:
    """The queue of calls of one committer."""

    def __init__(self, after_commit: Callable[[list[AfterCommit]], None]) -> None:
        """Create an empty queue.

        Args:
            after_commit: Gets what `transaction.on_commit` has collected. It must not be run in the committer's
                thread, because a Redis that hangs would hold up the chunks.
        """
        self._after_commit = after_commit
        self._waiting: deque[Call] = deque()

    def __bool__(self) -> bool:
        """Whether a call waits."""
        return bool(self._waiting)

    def add(self, call: Call) -> None:
        """Enqueue a call. The event loop's thread does this."""
        self._waiting.append(call)

    def run(self) -> None:
        """Run calls that wait in one transaction, for SLICE_SECONDS."""
        if not self._waiting:
            return
        calls: list[Call] = []
        failure: DjangoDatabaseError | None = None
        collected: list[AfterCommit] = []
        try:
            with transaction.atomic():
                self._run(calls)
                database = connections[DEFAULT_DB_ALIAS]
                collected = [entry[1] for entry in database.run_on_commit]
                database.run_on_commit = []
        except DjangoDatabaseError as error:
            logger.error("database_failed", error=str(error))
            failure = error
            connections[DEFAULT_DB_ALIAS].close()
        if collected and failure is None:
            self._after_commit(collected)
        for call in calls:
            call.answer(failure)

    def _run(self, calls: list[Call]) -> None:
        until = time.monotonic() + SLICE_SECONDS
        while self._waiting and (not calls or time.monotonic() < until):
            calls.append(self._waiting.popleft())
            calls[-1].run()
