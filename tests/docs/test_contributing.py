"""CONTRIBUTING.md: its paths exist, the names in its list of places are there, and the places name the same formats."""

import re

import pytest

from audio import sniff
from audio.assembly.families import ASSEMBLERS
from audio.media import plan
from audio.media.parts import part_finder
from audio.wire.parameters import FORMATS
from tests.docs.text import table, unquoted
from tests.services import REPOSITORY

PAGE = REPOSITORY / "CONTRIBUTING.md"
# A name without a slash is one of a module, unless it is a file.
PATH = re.compile(r"`([\w./*]*(?:/|\.(?:py|md|in|toml)))`")
NAME = re.compile(r"`([A-Za-z_]+)`")


def test_every_path_exists():
    paths = PATH.findall(PAGE.read_text())
    assert len(paths) > 20
    for path in paths:
        assert list(REPOSITORY.glob(path)), path


def test_every_name_in_the_list_of_places_is_there():
    for place, what in table(PAGE, "## Adding a format"):
        files = [path for path in [unquoted(place), *PATH.findall(what)] if path.endswith(".py")]
        sources = "".join((REPOSITORY / path).read_text() for path in files)
        for name in NAME.findall(what):
            assert re.search(rf"^(?:def |class |    )?{name}\b", sources, re.MULTILINE), f"{place}: {name}"


def test_every_place_has_every_format():
    formats = set(FORMATS)
    assert formats == set(plan.FORMATS) == set(sniff.FORMATS.values()) == set(sniff._ACCEPTED)
    assert {*plan.CONTAINERS, *plan.LOSSLESS} <= formats
    for audio_format in formats - {"wav"}:
        assert part_finder(audio_format, "auto", None).feed(b"") == []


@pytest.mark.parametrize("family", plan.Family)
def test_every_family_is_in_the_table_and_on_the_page(family):
    rows = table(PAGE, "`audio/assembly/` stays as it is if one of its families fits:")
    modules = [unquoted(module) for name, _, module in rows if name.lower() == family]
    assert [f"{ASSEMBLERS[family].__module__.replace('.', '/')}.py"] == modules
