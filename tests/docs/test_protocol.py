"""docs/protocol.md against the code: parameters, messages, errors and close codes."""

import inspect
import json

from audio import errors
from audio.errors import AudioError
from audio.models import RecordingState
from audio.wire import messages
from audio.wire.messages import Action, MarkerRequest, parse_text
from audio.wire.parameters import CHANNELS, CHUNK_MODES, ENCODINGS, FORMATS, SAMPLE_RATES_HZ
from tests.docs.text import fenced, table, unquoted
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "protocol.md"


def error_classes() -> list[type[AudioError]]:
    return [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, AudioError)]


def error_rows() -> list[str]:
    """The table of errors as it has to be, sorted by code."""
    return sorted(
        f"| `{each.code}` | {each.close_code or 'stays open'} | {each.http_status} |"
        f" {'yes' if each.retryable else 'no'} | {each.sentence} |"
        for each in error_classes()
    )


def test_the_table_of_errors_is_that_of_the_classes():
    documented = [f"| {' | '.join(cells)} |" for cells in table(PAGE, "### Error codes")]
    assert documented == error_rows(), "the rows have to be\n" + "\n".join(error_rows())


def test_every_close_code_of_an_error_is_explained():
    explained = {int(code) for codes, *_ in table(PAGE, "## Close codes") for code in codes.split()}
    assert {each.close_code for each in error_classes() if each.close_code} <= explained


def test_the_parameters_have_their_values():
    documented = {unquoted(name): values for name, values, _ in table(PAGE, "## Opening")}
    for name, values in {
        "sample_rate": SAMPLE_RATES_HZ,
        "channels": CHANNELS,
        "format": FORMATS,
        "encoding": ENCODINGS,
        "chunks": CHUNK_MODES,
    }.items():
        assert documented[name].split(",")[0] == " ".join(f"`{value}`" for value in values)
    assert set(documented) - {"sample_rate", "channels", "format", "encoding", "chunks"} == {
        "user_id",
        "source",
        "name",
        "metadata.KEY",
        "ticket",
        "token",
        "project",
    }


def test_the_messages_are_those_that_the_server_sends():
    sent = {value for name, value in vars(messages).items() if name.isupper() and isinstance(value, str)}
    assert {unquoted(message) for message, *_ in table(PAGE, "## Messages from the server")} == sent


def test_the_examples_of_messages_are_understood():
    lines = [line for example in fenced(PAGE, "json") for line in example.splitlines() if json.loads(line)]
    assert {parse_text(line) for line in lines} == {*Action, MarkerRequest("Question 2")}


def test_every_state_of_a_recording_is_explained():
    states = {unquoted(state) for state, *_ in table(PAGE, "## Messages from the client")}
    assert states == {state.value for state in RecordingState}
