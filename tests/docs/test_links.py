"""The links within the documents: each file exists, and each heading."""

import re
from pathlib import Path

from tests.docs.text import PAGES
from tests.services import REPOSITORY

LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
RUNBOOK = re.compile(r"runbook: (\S+)#(\S+)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    for page in [*PAGES, REPOSITORY / "CHANGELOG.md"]:
        for target, anchor in LINK.findall(page.read_text()):
            path = (page.parent / target) if target else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_every_runbook_is_a_heading():
    found = RUNBOOK.findall((REPOSITORY / "docker" / "prometheus" / "alerts.yml").read_text())
    assert found
    for page, anchor in found:
        assert anchor in anchors(REPOSITORY / page), anchor
