"""Clients that are rejected again and again: they wait, and cost next to nothing.

A rejection costs queries to the database, to Redis, or to both. Clients that ignore `retry_after_seconds` could so take
most of the time of a process, and the clients of other projects would notice it. Therefore the server checks only a few
openings in a second that come with one secret and fail. The others of that second wait, and get the same error.
"""

from collections import Counter
from collections.abc import Hashable

from audio.errors import AudioError, LimitReachedError, NotAuthenticatedError, TooManySessionsError

# How many openings of one kind may be rejected in a second before the others are held.
REJECTIONS_PER_SECOND = 10
HOLD_SECONDS = 1.0
# Rejections that depend on nothing but who wants to open what.
HELD = (LimitReachedError, NotAuthenticatedError, TooManySessionsError)


class Holds:
    """The rejected openings of the current second."""

    def __init__(self) -> None:
        self._second = 0
        self._counts: Counter[Hashable] = Counter()
        self._errors: dict[Hashable, AudioError] = {}

    def note(self, opener: Hashable, target: Hashable, error: AudioError, now_seconds: float) -> None:
        """Note that an opening was rejected.

        Args:
            opener: What the client has shown, such as its secret.
            target: What it wanted to open.
            error: The rejection.
            now_seconds: The time of a monotonic clock.
        """
        self._begin(int(now_seconds))
        # The limit of requests is one for all that a client opens.
        key = (opener, None) if error.details.get("limited") == "max_requests_per_second" else (opener, target)
        self._counts[key] += 1
        if self._counts[key] >= REJECTIONS_PER_SECOND:
            self._errors[key] = error

    def held(self, opener: Hashable, target: Hashable, now_seconds: float) -> AudioError | None:
        """Return the error for a client that has to wait for HOLD_SECONDS, None for any other client."""
        self._begin(int(now_seconds))
        error = self._errors.get((opener, None)) or self._errors.get((opener, target))
        return None if error is None else type(error)(error.detail, **error.details)

    def _begin(self, second: int) -> None:
        if second != self._second:
            self._second = second
            self._counts.clear()
            self._errors.clear()
