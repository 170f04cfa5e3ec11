"""An event loop in a thread of its own, for programs that have none."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """An event loop in a thread. The thread is a daemon, so that a program that does not close it can end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sercuescribe-client", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an asynchronous function in the loop, and wait. If the waiting is interrupted, the function is cancelled.

        Raises:
            RuntimeError: The loop is closed.
        """

        async def call() -> T:
            return await function()

        if self.is_closed:
            raise RuntimeError("The client is closed.")
        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Yield what an asynchronous iterator yields."""
        try:
            while True:
                try:
                    item = self.run(iterator.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None and not self.is_closed:
                self.run(close)

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended."""
        return self._loop.is_closed()

    def close(self) -> None:
        """Cancel what still runs, and end the loop and the thread."""
        self.run(_cancel_others)
        self.run(self._loop.shutdown_asyncgens)
        self.run(self._loop.shutdown_default_executor)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
