"""Read README.md, CONTRIBUTING.md, docs/ and examples/README.md: their fenced code, and the rows of their tables."""

import re
from pathlib import Path

from tests.services import REPOSITORY

README = REPOSITORY / "README.md"
EXAMPLES = REPOSITORY / "examples"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md")), EXAMPLES / "README.md"]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)


def fenced(path: Path, language: str) -> list[str]:
    """Return the code blocks of a page in that language, in order."""
    return [code for found, code in _FENCE.findall(path.read_text()) if found == language]


def file(path: Path, name: str) -> str:
    """Return the code block that a page tells its reader to save as `name`."""
    (code,) = [code for found, code in _FILE.findall(path.read_text()) if found == name]
    return code


def table(path: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without the table's head."""
    _, _, behind = path.read_text().partition(f"\n{heading}\n")
    rows = _TABLE.search(behind)
    assert rows, f"no table after {heading!r} in {path}"
    return _cells(rows.group())


def tables(path: Path, first_column: str) -> list[list[str]]:
    """Return the cells of all tables of a page whose first column has that name, without their heads."""
    found = [rows for rows in _TABLE.findall(path.read_text()) if rows.startswith(f"| {first_column} |")]
    return [cells for rows in found for cells in _cells(rows)]


def _cells(rows: str) -> list[list[str]]:
    lines = rows.splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def unquoted(cell: str) -> str:
    """Return a cell that is one piece of code without its backticks."""
    return cell.strip("`")
