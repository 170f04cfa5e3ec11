"""The table of a benchmark: our figure, the reference beside it in the same run, the ratio, and the target."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("django", "channels", "uvicorn", "uvloop", "websockets", "celery", "psycopg")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        unit: The unit of the figures.
        ours: Our figure in each round.
        reference: What it is compared with; empty if there is nothing to compare it with.
        theirs: The figure of the reference in each round.
        most: The largest right value: of the ratio if `is_ratio`, otherwise of our figure.
        least: The smallest right value, where more is better.
        is_ratio: Whether the target is about the ratio.
    """

    name: str
    unit: str
    ours: Sequence[float]
    reference: str = ""
    theirs: Sequence[float] = ()
    most: float | None = None
    least: float | None = None
    is_ratio: bool = False

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of the rounds."""
        pairs = [own / other for own, other in zip(self.ours, self.theirs, strict=False) if other]
        return statistics.median(pairs) if pairs else None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        judged = self.ratio if self.is_ratio else statistics.median(self.ours)
        if judged is None or (self.most is None and self.least is None):
            return None
        return judged <= self.most if self.most is not None else judged >= (self.least or 0.0)

    @property
    def target(self) -> str:
        """The target as text."""
        if self.most is None and self.least is None:
            return ""
        bound = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        return f"ratio {bound}" if self.is_ratio else bound

    def as_json(self) -> dict[str, Any]:
        """Return the row for the file."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "reference": self.reference or None,
            "theirs": list(self.theirs),
            "ratio": self.ratio,
            "target": self.target or None,
            "is_met": self.is_met,
        }


@dataclass
class Report:
    """The rows of a run, on one machine."""

    rows: list[Row] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        """Add rows, and print them, because a run takes a while."""
        for row in rows:
            self.rows.append(row)
            say(_line(row))

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head = ["| figure | unit | ours | reference | | ratio | target | met |", "|" + " --- |" * 8]
        return "\n".join([_machine_line(), "", *head, *map(_line, self.rows), ""])

    def write(self, folder: Path) -> None:
        """Write the table as `bench.md` and `bench.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bench.md").write_text(self.markdown())
        found = {"machine": machine(), "rows": [row.as_json() for row in self.rows]}
        (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")


def _line(row: Row) -> str:
    ratio = "" if row.ratio is None else _short(row.ratio)
    met = {True: "yes", False: "no", None: ""}[row.is_met]
    theirs = _spread(row.theirs)
    cells = [row.name, row.unit, _spread(row.ours), row.reference, theirs, ratio, row.target, met]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    """Return the median, with the lowest and the highest value if there are several."""
    if not values:
        return ""
    middle = _short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on: the processor, its load, and versions."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[2], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _machine_line() -> str:
    found = machine()
    versions = ", ".join(f"{name} {found[name]}" for name in _PACKAGES)
    return (
        f"{found['processor']}, {found['cores']} cores, load {found['load_before']:g} over the last quarter of an hour;"
        f" {found['system']}; Python {found['python']}, {versions}."
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
