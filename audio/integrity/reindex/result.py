"""The result of a reindexing."""

from dataclasses import dataclass, field
from typing import Any

from audio.integrity.verify import Problems


@dataclass(slots=True)
class Reindexed:
    """The result of a reindexing.

    Attributes:
        journals: Journals that were read.
        sessions: Sessions that were restored.
        uncertain_sessions: Sessions of which some chunks may be missing, misplaced, or were never acknowledged.
        known_sessions: Sessions that have rows and were not changed.
        extended_sessions: Sessions that have rows and got more chunks.
        deleted_sessions: Sessions that do not come back.
        chunks: Chunks that were restored.
        in_flight_chunks: Restored chunks that no commit record names.
        rejected_chunks: Chunks that were in flight and certainly not accepted.
        problems: The problems of the journals.
    """

    journals: int = 0
    sessions: int = 0
    uncertain_sessions: int = 0
    known_sessions: int = 0
    extended_sessions: int = 0
    deleted_sessions: int = 0
    chunks: int = 0
    in_flight_chunks: int = 0
    rejected_chunks: int = 0
    problems: Problems = field(default_factory=Problems)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "problems"}
        problems = [problem.as_dict() for problem in self.problems.first]
        return {**counts, "problem_count": self.problems.count, "problems": problems}
