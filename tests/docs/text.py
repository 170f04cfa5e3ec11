"""Reads README.md and docs/: their fenced code, and the rows of their tables."""

import re
from pathlib import Path

from tests.services import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(path: Path, language: str) -> list[str]:
    """The code blocks of a page in that language, in order."""
    return [code for found, code in _FENCE.findall(path.read_text()) if found == language]


def file(path: Path, name: str) -> str:
    """The code block that a page tells to save as `name`."""
    (code,) = [code for found, code in _FILE.findall(path.read_text()) if found == name]
    return code


def table(path: Path, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    _, _, behind = path.read_text().partition(f"\n{heading}\n")
    rows = re.search(r"(?:^\|.*\|\n)+", behind, re.MULTILINE)
    assert rows, f"no table behind {heading!r} in {path}"
    lines = rows.group().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def unquoted(cell: str) -> str:
    """A cell that is one piece of code, without its backticks."""
    return cell.strip("`")
