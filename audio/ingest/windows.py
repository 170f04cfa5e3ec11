"""The schedule of windows: an open session is due when its pending audio is large enough or old enough.

The tasks are hints. If one is lost or was not enqueued, the sweep finds the session in the database.
"""

import asyncio
import time
import uuid

from django.conf import settings

from audio import dispatch
from audio.ingest.executor import DatabaseExecutor

# A window with this many pending bytes is due at once.
DUE_BYTES = 1024 * 1024
# Each window costs a worker some milliseconds. With many sessions, windows get larger instead of more frequent.
WINDOWS_PER_TICK = 40
_TICK_SECONDS = 1.0


class _PendingAudio:
    """Acknowledged audio of one session for which no window was enqueued yet."""

    __slots__ = ("since_seconds", "size_bytes")

    def __init__(self) -> None:
        self.since_seconds = time.monotonic()
        self.size_bytes = 0


class Windows:
    """The pending audio of the sessions of this process."""

    def __init__(self, executor: DatabaseExecutor) -> None:
        self._executor = executor
        # In the order in which the sessions became pending.
        self._pending: dict[uuid.UUID, _PendingAudio] = {}

    def note(self, session_id: uuid.UUID, size_bytes: int) -> None:
        """Count an acknowledged chunk."""
        pending = self._pending.get(session_id)
        if pending is None:
            pending = self._pending[session_id] = _PendingAudio()
        pending.size_bytes += size_bytes

    async def keep_enqueueing(self) -> None:
        """Enqueue windows as they become due, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if due := self._take_due():
                await self._executor.run(dispatch.concatenate_live, due)

    def _take_due(self) -> list[uuid.UUID]:
        """Remove and return some sessions whose window is due, beginning with the one that became pending first."""
        before = time.monotonic() - settings.WINDOW_SECONDS
        due = [key for key, p in self._pending.items() if p.since_seconds <= before or p.size_bytes >= DUE_BYTES]
        for key in due[:WINDOWS_PER_TICK]:
            del self._pending[key]
        return due[:WINDOWS_PER_TICK]
