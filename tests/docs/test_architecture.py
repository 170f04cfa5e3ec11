"""docs/architecture.md against the code: each edge is a function, each layer is the contract's, each state drawn."""

import importlib
import re
import tomllib
from types import ModuleType

from audio.models import RecordingState, SessionStatus
from tests.docs.text import fenced
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "architecture.md"
FLOW = re.compile(r"-->\|([\w.]+)\|")
TRANSITION = re.compile(r"^\s*(\S+) --> (\S+): ([\w.]+)$", re.MULTILINE)
ROOMS = "ingest|upkeep|webhooks|streams|assembly|storage|jobs|integrity|dispatch|wire|journal|media"
IN_TEXT = re.compile(rf"`((?:{ROOMS})\.[\w.]+)`")


def resolve(dotted: str) -> object:
    """What `audio.` and this name stand for; raises AttributeError if there is nothing."""
    found: object = importlib.import_module("audio")
    for name in dotted.split("."):
        if isinstance(found, ModuleType) and not hasattr(found, name):
            found = importlib.import_module(f"{found.__name__}.{name}")
        else:
            found = getattr(found, name)
    return found


def drawings() -> tuple[str, str, str, str, str]:
    path, session, recording, events, journal = fenced(PAGE, "mermaid")
    return path, events, session, recording, journal


def test_every_edge_is_named_after_a_function():
    path, events, *states = drawings()
    edges = FLOW.findall(path + events) + [name for drawing in states for *_, name in TRANSITION.findall(drawing)]
    assert len(edges) == sum(drawing.count("-->") for drawing in (path, events, *states))
    for edge in edges:
        assert callable(resolve(edge)), edge


def test_every_name_in_the_text_exists():
    names = IN_TEXT.findall(PAGE.read_text())
    assert names
    for name in names:
        resolve(name)


def test_every_state_is_drawn():
    _, _, session, recording, _ = drawings()
    for drawing, states in ((session, SessionStatus), (recording, RecordingState)):
        drawn = {end for start, stop, _ in TRANSITION.findall(drawing) for end in (start, stop)} - {"[*]"}
        assert drawn == {state.value for state in states}


def test_the_layers_are_those_of_the_contract():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["audio"]]
    assert layers in [block.splitlines() for block in fenced(PAGE, "")]
