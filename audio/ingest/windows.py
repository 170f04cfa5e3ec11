"""The schedule of windows: an open session is due when enough audio is pending, or when it has waited long enough.

The first window of a session comes early. It shows the parameters of the audio, and whether it can be decoded at all.
Later windows are large, because each costs a worker some milliseconds, whatever its size. A reader of a live recording
requests a window (`audio.assembly.wanted`).

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
FIRST_WINDOW_SECONDS = 5.0
# A task has at most this many sessions, and there is one task at a time, so that sessions that are due together are
# spread.
SESSIONS_PER_TASK = 40
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
        # The connected sessions for which this process has enqueued a window.
        self._begun: set[uuid.UUID] = set()

    def note(self, session_id: uuid.UUID, size_bytes: int) -> None:
        """Count an acknowledged chunk."""
        pending = self._pending.get(session_id)
        if pending is None:
            pending = self._pending[session_id] = _PendingAudio()
        pending.size_bytes += size_bytes

    def forget(self, session_id: uuid.UUID) -> None:
        """Note that a connection of a session has ended. If the session continues, its next window comes early."""
        self._begun.discard(session_id)

    async def keep_enqueueing(self) -> None:
        """Enqueue windows as they become due, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if due := self._take_due():
                await self._executor.run(dispatch.concatenate_live, due)

    def _take_due(self) -> list[uuid.UUID]:
        """Remove and return some sessions whose window is due, beginning with the one that became pending first."""
        now = time.monotonic()
        before = now - settings.WINDOW_SECONDS
        first_before = now - min(settings.WINDOW_SECONDS, FIRST_WINDOW_SECONDS)
        due = [
            key
            for key, pending in self._pending.items()
            if pending.size_bytes >= DUE_BYTES
            or pending.since_seconds <= (before if key in self._begun else first_before)
        ][:SESSIONS_PER_TASK]
        for key in due:
            del self._pending[key]
        self._begun.update(due)
        return due
