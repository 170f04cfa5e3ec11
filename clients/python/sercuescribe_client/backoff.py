"""The delay before the next attempt."""

import random

from sercuescribe_client.errors import ServerError

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 15.0


class Backoff:
    """Growing delays with jitter, so that many clients do not reconnect at the same moment."""

    def __init__(self) -> None:
        self._attempts = 0

    def reset(self) -> None:
        """Begin again with the shortest delay, because an attempt has succeeded."""
        self._attempts = 0

    def next_seconds(self, error: Exception | None = None) -> float:
        """Return the next delay. It is at least the one that the server asked for with an error."""
        ceiling = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self._attempts, 16))
        self._attempts += 1
        # A retry of many clients must be spread; it needs no cryptography.
        jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311
        asked = error.retry_after_seconds if isinstance(error, ServerError) else None
        return jittered if asked is None else asked + jittered / 2
