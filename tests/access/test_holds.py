"""Clients that are rejected again and again."""

import pytest

from audio.access.holds import (
    MAX_HOLD_SECONDS,
    MIN_HOLD_SECONDS,
    REJECTIONS_PER_SECOND,
    SPACING_SECONDS,
    Holds,
)
from audio.errors import AudioError, LimitReachedError, NotAuthenticatedError, TooManySessionsError


def full(limited: str = "max_open_sessions") -> LimitReachedError:
    return LimitReachedError("The project has 3 open sessions.", limited=limited, limit=3, retry_after_seconds=5)


def rejected(holds: Holds, error: AudioError, count: int = REJECTIONS_PER_SECOND, at: float = 100.2) -> None:
    for _ in range(count):
        holds.note("key", "new", error, at)


@pytest.mark.parametrize("error", [full(), NotAuthenticatedError(), TooManySessionsError(limit=3)])
def test_after_some_rejections_the_rest_of_a_second_hears_the_same(error):
    holds = Holds()
    rejected(holds, error)
    held = holds.held("key", "new", 100.9)
    assert (type(held.error), held.error.detail, held.error.details) == (type(error), error.detail, error.details)
    assert held.error is not error, "an error that is raised twice has the tracebacks of both"


def test_a_few_rejections_hold_nobody():
    holds = Holds()
    rejected(holds, full(), REJECTIONS_PER_SECOND - 1)
    assert holds.held("key", "new", 100.9) is None


def test_in_the_next_second_one_is_checked_again():
    holds = Holds()
    rejected(holds, full())
    assert holds.held("key", "new", 101.0) is None
    rejected(holds, full(), 1, at=101.1)
    assert holds.held("key", "new", 101.2)
    assert holds.held("key", "new", 102.0) is None
    rejected(holds, full(), 1, at=104.0)
    assert holds.held("key", "new", 104.1) is None, "it was not held in the second before"


def test_others_and_other_sessions_are_not_held():
    holds = Holds()
    rejected(holds, full())
    assert holds.held("other", "new", 100.9) is None
    assert holds.held("key", "a session", 100.9) is None


def test_the_limit_of_requests_is_one_for_all_sessions():
    holds = Holds()
    for number in range(REJECTIONS_PER_SECOND):
        holds.note("key", f"session {number}", full("max_requests_per_second"), 100.2)
    assert holds.held("key", "another session", 100.9).error.details["limited"] == "max_requests_per_second"


def test_those_who_are_held_are_rejected_one_after_the_other():
    holds = Holds()
    rejected(holds, full())
    turns = [holds.held("key", "new", 100.5).until_seconds for _ in range(1000)]
    assert turns[0] == 100.5 + MIN_HOLD_SECONDS
    assert turns[100] == pytest.approx(turns[0] + 100 * SPACING_SECONDS)
    assert turns[-1] == 100.5 + MAX_HOLD_SECONDS
    rejected(holds, full(), at=101.0)
    assert holds.held("key", "new", 101.5).until_seconds > turns[-1]
    rejected(holds, full(), at=200.0)
    assert holds.held("key", "new", 200.5).until_seconds == 200.5 + MIN_HOLD_SECONDS
