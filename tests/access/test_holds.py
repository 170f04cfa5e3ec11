"""Clients that are rejected again and again."""

import pytest

from audio.access.holds import REJECTIONS_PER_SECOND, Holds
from audio.errors import AudioError, LimitReachedError, NotAuthenticatedError, TooManySessionsError


def full(limited: str = "max_open_sessions") -> LimitReachedError:
    return LimitReachedError("The project has 3 open sessions.", limited=limited, limit=3, retry_after_seconds=5)


def rejected(holds: Holds, error: AudioError, count: int = REJECTIONS_PER_SECOND, target: str = "new") -> None:
    for _ in range(count):
        holds.note("key", target, error, 100.2)


@pytest.mark.parametrize("error", [full(), NotAuthenticatedError(), TooManySessionsError(limit=3)])
def test_after_some_rejections_the_rest_of_a_second_hears_the_same(error):
    holds = Holds()
    rejected(holds, error)
    held = holds.held("key", "new", 100.9)
    assert (type(held), held.detail, held.details) == (type(error), error.detail, error.details)
    assert held is not error, "an error that is raised twice has the tracebacks of both"


def test_a_few_rejections_hold_nobody():
    holds = Holds()
    rejected(holds, full(), REJECTIONS_PER_SECOND - 1)
    assert holds.held("key", "new", 100.9) is None


def test_the_next_second_begins_anew():
    holds = Holds()
    rejected(holds, full())
    assert holds.held("key", "new", 101.0) is None


def test_others_and_other_sessions_are_not_held():
    holds = Holds()
    rejected(holds, full())
    assert holds.held("other", "new", 100.9) is None
    assert holds.held("key", "a session", 100.9) is None


def test_the_limit_of_requests_is_one_for_all_sessions():
    holds = Holds()
    for number in range(REJECTIONS_PER_SECOND):
        holds.note("key", f"session {number}", full("max_requests_per_second"), 100.2)
    assert holds.held("key", "another session", 100.9).details["limited"] == "max_requests_per_second"
