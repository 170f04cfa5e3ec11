"""Losses and warnings of a recording: chunks that are not in it as they were sent, with the reason and the position.

A loss makes the recording `failed`, and the rest of it is kept. With a warning it can still become `ready`. Both are
listed in `Recording.warnings`, and connected clients get a message about each. The list is limited, the count is not.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from audio.errors import MediaError

_MOST_ENTRIES = 100
_DETAIL_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Chunks, and the seconds of the recording at which their audio is missing or in doubt.

    `end_seconds` equals `start_seconds` if the audio is missing.
    """

    first_sequence: int
    last_sequence: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason of a failed recording: the code of the error, a sentence, and the first chunk that caused it."""

    code: str
    detail: str
    sequence: int | None = None


@dataclass(slots=True)
class Losses:
    """The losses and warnings of one recording, in the order in which they were found.

    Attributes:
        entries: The first losses and warnings, as the API shows them.
        count: The number of losses and warnings.
        lost: The number of losses, which make the recording `failed`.
        first: The code, the sentence and the sequence of the first loss.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    lost: int = 0
    first: list[Any] = field(default_factory=list)

    def lose(self, error: MediaError, place: Place) -> None:
        """Note audio that could not be recorded: the recording will be `failed`."""
        if not self.lost:
            self.first = [error.code, error.detail, error.details.get("sequence", place.first_sequence)]
        self.lost += 1
        self.warn(error.code, error.detail, place)

    def warn(self, code: str, detail: str, place: Place) -> None:
        """Note a warning. The recording can become `ready` nevertheless."""
        self.count += 1
        if len(self.entries) < _MOST_ENTRIES:
            where = {name: round(value, 3) for name, value in asdict(place).items()}
            self.entries.append({"code": code, "detail": detail[:_DETAIL_CHARACTERS], **where})

    def extend(self, code: str, first_sequence: int, last_sequence: int) -> None:
        """Extend the entry that began with `first_sequence` to `last_sequence`."""
        for entry in reversed(self.entries):
            if (entry["code"], entry["first_sequence"]) == (code, first_sequence):
                entry["last_sequence"] = max(entry["last_sequence"], last_sequence)
                return

    @property
    def failure(self) -> "Failure | None":
        """The reason why the recording is failed; None if nothing is lost."""
        if not self.lost:
            return None
        code, detail, sequence = self.first
        others = f" ({self.lost} parts could not be recorded; this is the first.)" if self.lost > 1 else ""
        return Failure(code, detail[:_DETAIL_CHARACTERS] + others, sequence)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON; `Losses(**state)` is the inverse."""
        return asdict(self)
