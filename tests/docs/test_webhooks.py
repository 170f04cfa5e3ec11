"""docs/webhooks.md against the code: every event, with an example that has the form of a real one."""

import json
from typing import Any

import pytest

from audio import upkeep
from audio.jobs import rows, run
from audio.models import AudioSession, EventType, TaskKind, WebhookEvent
from audio.webhooks import events
from audio.webhooks.delivery import RETRY_DELAYS
from audio.webhooks.http import TIMEOUT_SECONDS
from tests.docs.text import fenced, tables, unquoted
from tests.services import REPOSITORY
from tests.sound import speech, wav_bytes

PAGE = REPOSITORY / "docs" / "webhooks.md"


def form_of(value: Any) -> Any:
    """The keys of JSON, with the types of their values; null is of any type."""
    if isinstance(value, dict):
        return {name: form_of(below) for name, below in value.items()}
    return type(value).__name__


def differences(shown: Any, real: Any, place: str = "") -> list[str]:
    if isinstance(shown, dict) and isinstance(real, dict):
        if list(shown) != list(real):
            return [f"{place}: {list(shown)} instead of {list(real)}"]
        return [found for name in shown for found in differences(shown[name], real[name], f"{place}.{name}")]
    if shown is None or real is None or form_of(shown) == form_of(real):
        return []
    return [f"{place}: {shown!r} instead of {real!r}"]


@pytest.fixture
def real(recorded) -> dict[str, dict[str, Any]]:
    """One payload of each type."""
    session_id = recorded.session(wav_bytes(speech(1), 16000))
    recorded.session(b"no audio at all" * 100, format="mp3")
    session = AudioSession.objects.get(pk=session_id)
    run.run(rows.enqueue(session, TaskKind.TRANSCODE, "mp3").pk)
    recorded.path(session_id).unlink()
    run.run(rows.enqueue(session, TaskKind.TRANSCODE, "flac").pk)
    upkeep.delete_session(session_id)
    found = WebhookEvent.objects.select_related("project")
    return {event.type: events.payload(event) for event in found}


def test_each_example_has_the_form_of_a_real_event(real):
    shown = {example["type"]: example for example in map(json.loads, fenced(PAGE, "json"))}
    assert set(shown) == set(real) == set(EventType.values)
    assert [found for name in shown for found in differences(shown[name], real[name], name)] == []


def test_the_table_lists_every_event():
    assert {unquoted(name) for name, _ in tables(PAGE, "type")} == set(EventType.values)


def test_the_times_are_those_of_the_code():
    text = " ".join(PAGE.read_text().split())
    hours = [f"{delay.total_seconds() / 3600:g}" for delay in RETRY_DELAYS[3:]]
    assert [delay.total_seconds() for delay in RETRY_DELAYS[:3]] == [5, 300, 1800]
    assert f"after 5 seconds, 5 minutes, 30 minutes, and {', '.join(hours[:-1])} and {hours[-1]} hours" in text
    assert f"within {TIMEOUT_SECONDS:g} seconds" in text
