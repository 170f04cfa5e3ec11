"""The delay of openings by clients that are rejected again and again.

A rejection costs queries to the database, to Redis, or to both. Clients that ignore `retry_after_seconds` could use
most of the time of a process, and so slow down other projects. If a few openings with one secret are rejected within a
second, the server does not check the others of that second. They get the same error later, one after the other, so
that they do not come again all at once.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from audio.errors import AudioError, LimitReachedError, NotAuthenticatedError, TooManySessionsError

# The number of openings of one kind that may be rejected within a second before others are delayed.
REJECTIONS_PER_SECOND = 10
# The delay: at least MIN_HOLD_SECONDS, and until SPACING_SECONDS after the one before.
MIN_HOLD_SECONDS = 1.0
MAX_HOLD_SECONDS = 5.0
SPACING_SECONDS = 0.01
# Rejections that depend only on the client and the target of the opening.
HELD = (LimitReachedError, NotAuthenticatedError, TooManySessionsError)


@dataclass(frozen=True, slots=True)
class Held:
    """A client that gets an error without being checked.

    Attributes:
        error: The error.
        until_seconds: When it gets the error, on the clock that the caller uses.
    """

    error: AudioError
    until_seconds: float


class Holds:
    """The rejected openings of the current second, and the times at which others are rejected."""

    def __init__(self) -> None:
        self._second = 0
        self._last_turns: dict[Hashable, float] = {}
        self._counts: Counter[Hashable] = Counter()
        self._errors: dict[Hashable, AudioError] = {}

    def note(self, opener: Hashable, target: Hashable, error: AudioError, now_seconds: float) -> None:
        """Note that an opening was rejected.

        Args:
            opener: The identification of the client, such as its secret.
            target: The session or project to open.
            error: The rejection.
            now_seconds: The time of a monotonic clock.
        """
        self._begin(int(now_seconds))
        # The limit of requests applies to all openings of a client together.
        key = (opener, None) if error.details.get("limited") == "max_requests_per_second" else (opener, target)
        self._counts[key] += 1
        if self._counts[key] >= REJECTIONS_PER_SECOND:
            self._errors[key] = error

    def held(self, opener: Hashable, target: Hashable, now_seconds: float) -> Held | None:
        """Return the error and the delay of an opening; None if it has to be checked."""
        self._begin(int(now_seconds))
        error = self._errors.get((opener, None)) or self._errors.get((opener, target))
        if error is None:
            return None
        turn = max(now_seconds + MIN_HOLD_SECONDS, self._last_turns.get(opener, 0.0) + SPACING_SECONDS)
        self._last_turns[opener] = turn = min(turn, now_seconds + MAX_HOLD_SECONDS)
        return Held(type(error)(error.detail, **error.details), turn)

    def _begin(self, second: int) -> None:
        if second != self._second:
            # One more rejection holds those again who were held until now.
            known = self._errors if second == self._second + 1 else ()
            self._counts = Counter(dict.fromkeys(known, REJECTIONS_PER_SECOND - 1))
            self._second, self._errors = second, {}
            self._last_turns = {opener: turn for opener, turn in self._last_turns.items() if turn > second}
