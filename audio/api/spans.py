"""The span of a waveform that a request selects, and its resolution."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from audio.errors import InvalidParameterError

POINTS = 1000
MAX_POINTS = 10_000
WAVEFORM_FORMATS = ("json", "svg")
_RECEIVED_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class WaveformSpan:
    """A span of a recording, its number of points, and the format of the response."""

    points: int
    start_seconds: float
    end_seconds: float | None
    format: str

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Self:
        """Parse the query parameters of a request.

        Raises:
            InvalidParameterError: One of them is invalid.
        """
        start = _seconds(query, "start") or 0.0
        end = _seconds(query, "end")
        if end is not None and end <= start:
            raise _invalid(query, "end", "must be later than the start")
        shown = query.get("format", WAVEFORM_FORMATS[0])
        if shown not in WAVEFORM_FORMATS:
            raise _invalid(query, "format", "must be json or svg", valid_values=list(WAVEFORM_FORMATS))
        return cls(_points(query), start, end, shown)


def _points(query: Mapping[str, str]) -> int:
    text = query.get("points", str(POINTS))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_POINTS):
        raise _invalid(query, "points", f"must be a whole number from 1 to {MAX_POINTS}", limit=MAX_POINTS)
    return int(text)


def _seconds(query: Mapping[str, str], name: str) -> float | None:
    if name not in query:
        return None
    try:
        seconds = float(query[name])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise _invalid(query, name, "must be a number of seconds, 0 or more")
    return seconds


def _invalid(query: Mapping[str, str], name: str, rule: str, **details: object) -> InvalidParameterError:
    received = query.get(name, "")[:_RECEIVED_CHARACTERS]
    return InvalidParameterError(f"{name} {rule}.", parameter=name, received=received, **details)
