"""The table of errors keeps what it says: stable codes, sentences for people, valid close codes and statuses."""

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from audio import errors
from audio.errors import AudioError

# Sentences that the contract fixes to the letter.
FIXED_SENTENCES = {"Invalid JSON format", "Unknown message type", "Unknown control action"}
# RFC 6455 section 7.4.1: what an endpoint may send. 1005, 1006 and 1015 stand for a code that was not sent.
SENDABLE_CLOSE_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(4000, 5000)}
# Not one of these has to be guessed at: they are what clients are written against.
CODES = {
    "AudioError": "internal_error",
    "FormatMismatchError": "format_mismatch",
    "IdleTimeoutError": "idle_timeout",
    "InvalidJsonError": "invalid_json",
    "InvalidParameterError": "invalid_parameter",
    "InvalidSessionIdError": "invalid_session_id",
    "MessageTooLargeError": "message_too_large",
    "MissingHeaderError": "missing_header",
    "NotAllowedError": "not_allowed",
    "OneSourceOnlyError": "one_source_only",
    "ParameterConflictError": "parameter_conflict",
    "SessionClosedError": "session_closed",
    "SessionNotFoundError": "session_not_found",
    "SessionPausedError": "session_paused",
    "StorageFullError": "storage_full",
    "SupersededError": "superseded",
    "TooManyConnectionsError": "too_many_connections",
    "TooManySessionsError": "too_many_sessions",
    "UnknownActionError": "unknown_action",
    "UnknownMessageTypeError": "unknown_message_type",
}
CLOSE_CODES = {
    "InvalidParameterError": 1008,
    "SessionNotFoundError": 1008,
    "SessionClosedError": 1008,
    "NotAllowedError": 1008,
    "TooManyConnectionsError": 1008,
    "MessageTooLargeError": 1009,
    "JournalFailedError": 1011,
    "OverloadedError": 1013,
    "StorageFullError": 1013,
    "IdleTimeoutError": 4408,
    "SupersededError": 4409,
    "InvalidJsonError": None,
    "UnknownMessageTypeError": None,
    "UnknownActionError": None,
    "SessionPausedError": None,
}


def descendants(parent: type[AudioError]) -> Iterator[type[AudioError]]:
    for child in parent.__subclasses__():
        yield child
        yield from descendants(child)


ALL: list[type[AudioError]] = [AudioError, *descendants(AudioError)]
every_error = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def test_no_two_have_the_same_code():
    codes = [kind.code for kind in ALL]
    assert len(codes) == len(set(codes))
    assert all("code" in vars(kind) for kind in ALL)


def test_the_codes_that_clients_know_stay():
    assert {kind.__name__: kind.code for kind in ALL if kind.__name__ in CODES} == CODES


def test_the_close_codes_of_the_contract():
    assert {name: getattr(errors, name).close_code for name in CLOSE_CODES} == CLOSE_CODES


@every_error
def test_each_has_a_word_for_programs(kind):
    assert re.fullmatch(r"[a-z][a-z0-9_]{1,39}", kind.code)


@every_error
def test_each_has_a_sentence_for_people(kind):
    assert kind.sentence in FIXED_SENTENCES or re.fullmatch(r"[A-Z].*[.!?]", kind.sentence)
    assert "sentence" in vars(kind)


@every_error
def test_each_has_a_close_code_that_may_be_sent(kind):
    assert kind.close_code is None or kind.close_code in SENDABLE_CLOSE_CODES


@every_error
def test_each_has_a_status_of_http(kind):
    status = HTTPStatus(kind.http_status)
    # An answer that asks for patience is the one error that is none to HTTP.
    assert status >= 400 or (status == HTTPStatus.ACCEPTED and kind.retryable)


@every_error
def test_each_says_what_it_is(kind):
    assert kind.__doc__
    assert kind.__module__ == "audio.errors"


@every_error
def test_each_takes_a_sentence_and_details(kind):
    plain, told = kind(), kind("Why.", limit=5)
    assert (plain.detail, str(plain), plain.details) == (kind.sentence, kind.sentence, {})
    assert (told.detail, str(told), told.details) == ("Why.", "Why.", {"limit": 5})


def test_the_tree_in_the_docstring_is_the_tree():
    """Every class once, below the branch that it belongs to."""
    lines = (errors.__doc__ or "").split("\n\n")[1].splitlines()
    drawn: dict[str, str] = {}
    branch = "AudioError"
    assert lines[0] == branch
    for line in lines[1:]:
        is_branch = not line.startswith(("│  ", "   "))
        names = re.findall(r"\b[A-Z]\w+[a-z]\w*", line)
        if is_branch:
            (branch, *names) = re.findall(r"[A-Z]\w+", line)[:1]
            drawn[branch] = "AudioError"
        for name in names:
            assert name not in drawn
            drawn[name] = branch
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in ALL[1:]}
