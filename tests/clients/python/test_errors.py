"""The errors of the client against those of the server."""

import json
from collections.abc import Iterator

import pytest
from sercuescribe_client import InvalidRequestError, ServiceUnavailableError
from sercuescribe_client.errors import error_of, kind_of

from audio.errors import AudioError, RequestError, SessionError
from audio.wire.messages import rejection

# They happen to connections, so a client knows them without a status.
CONNECTION_KINDS = (RequestError, SessionError)


def classes(base: type[AudioError]) -> Iterator[type[AudioError]]:
    yield base
    for below in base.__subclasses__():
        yield from classes(below)


@pytest.mark.parametrize("kind", [*classes(AudioError)])
def test_an_error_over_http_is_raised_by_its_status(kind):
    error = error_of({"detail": "A sentence.", "code": kind.code}, kind.http_status)
    assert type(error) is kind_of(kind.http_status)
    assert (error.code, str(error)) == (kind.code, f"A sentence. ({kind.code})")


@pytest.mark.parametrize("kind", [kind for base in CONNECTION_KINDS for kind in classes(base)])
def test_an_error_of_a_connection_is_of_the_kind_that_it_is_over_http(kind):
    error = error_of(json.loads(rejection(kind(), None, None, None)))
    assert type(error) is kind_of(kind.http_status), kind.code
    assert error.is_retryable == kind.retryable


def test_a_code_of_a_newer_server_is_kept():
    error = error_of({"error": "No.", "code": "brand_new", "retryable": False, "limit": 3})
    assert type(error) is InvalidRequestError and error.details == {"limit": 3}
    assert type(error_of({"error": "Later.", "code": "brand_new", "retryable": True})) is ServiceUnavailableError


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), (2.5, 2.5), ("Fri, 27 Nov 2026 15:00:00 GMT", None)])
def test_the_time_of_the_next_attempt_is_that_of_the_server(text, seconds):
    message = {"error": "Later.", "code": "limit_reached", "retryable": True, "retry_after_seconds": text}
    assert error_of(message).retry_after_seconds == seconds
