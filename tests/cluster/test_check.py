"""What `make chaos` compares with: a recording that lacks, doubles or misplaces a chunk is told."""

import itertools

import pytest

from tests.cluster import check
from tests.cluster.takes import Source, Take, chunk


def recorded_take(name: str) -> Take:
    take = Take(7)
    source = Source(take, 0, name, itertools.cycle([]), sent=5, stored=5, last_sent=5, goal=5)
    source.places = {number: number for number in range(1, 6)}
    take.sources.append(source)
    return take


def differences(numbers: list[int], name: str = "mic", recovered: str | None = None) -> list[str]:
    recorded = b"".join(chunk(7, 0, number) for number in numbers)
    return list(
        check._differences(recorded_take(name), recorded, {"total_chunks": len(numbers), "recovered": recovered})
    )


@pytest.mark.parametrize("name", ["mic", ""])
def test_what_was_sent_is_right(name):
    assert differences([1, 2, 3, 4, 5], name) == []


@pytest.mark.parametrize("name", ["mic", ""])
@pytest.mark.parametrize("numbers", [[1, 2, 4, 5], [1, 2, 3, 4], [1, 2, 2, 3, 4, 5], [1, 3, 2, 4, 5]])
def test_a_chunk_that_is_missing_doubled_or_elsewhere_is_told(numbers, name):
    assert differences(numbers, name)


@pytest.mark.parametrize(
    ("numbers", "is_right"), [([1, 2, 3, 3, 4, 5], True), ([1, 2, 4, 5], False), ([2, 1, 3, 4, 5], False)]
)
def test_an_uncertain_session_may_have_more_and_nothing_less(numbers, is_right):
    assert (differences(numbers, recovered="uncertain") == []) is is_right


def test_a_byte_that_differs_is_told():
    recorded = bytearray(b"".join(chunk(7, 0, number) for number in range(1, 6)))
    recorded[2000] ^= 1
    assert list(check._differences(recorded_take("mic"), bytes(recorded), {"total_chunks": 5, "recovered": None}))
