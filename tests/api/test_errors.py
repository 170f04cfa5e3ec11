"""The shape of errors that no view raises on purpose."""

import pytest
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.test import Client, RequestFactory
from rest_framework import exceptions
from rest_framework.response import Response

from audio.api.errors import handle_exception, server_error
from audio.errors import RangeNotSatisfiableError, StorageFullError, UndecodableChunkError


def handled(error):
    response = handle_exception(error, {"request": RequestFactory().get("/api/audio/sessions")})
    assert isinstance(response, Response)
    return response


def test_an_error_of_the_product_carries_its_code_status_and_details():
    response = handled(UndecodableChunkError(sequence=7))
    assert response.status_code == 409
    assert response.data == {
        "detail": "A chunk could not be decoded.",
        "code": "undecodable_chunk",
        "sequence": 7,
    }
    assert "Retry-After" not in response


def test_an_error_that_may_pass_says_when_to_come_back():
    assert handled(StorageFullError())["Retry-After"] == "2"
    assert handled(StorageFullError(retry_after_seconds=9))["Retry-After"] == "9"


def test_a_range_that_is_not_there_tells_the_length():
    response = handled(RangeNotSatisfiableError(size_bytes=80))
    assert response.status_code == 416
    assert response["Content-Range"] == "bytes */80"


def test_a_database_that_is_away_is_no_fault_of_the_request():
    response = handled(OperationalError("could not connect to host 10.0.0.7"))
    assert response.status_code == 503
    assert response.data["code"] == "database_unavailable"
    assert "10.0.0.7" not in response.data["detail"]
    assert "Retry-After" in response


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PermissionDenied(), 403, "permission_denied"),
        (exceptions.NotFound(), 404, "not_found"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (exceptions.ParseError("no JSON"), 400, "parse_error"),
    ],
)
def test_an_error_of_the_framework_has_the_same_shape(error, status, code):
    response = handled(error)
    assert response.status_code == status
    assert set(response.data) == {"detail", "code"}
    assert response.data["code"] == code
    assert isinstance(response.data["detail"], str)


@pytest.mark.parametrize(
    ("detail", "parameter", "sentence"),
    [
        ({"user_id": ["Too long."]}, "user_id", "user_id: Too long."),
        ({"options": {"rate": ["No.", "Never."]}}, "options.rate", "options.rate: No."),
        ({"non_field_errors": ["Not an object."]}, None, "Not an object."),
        (["Wrong."], None, "Wrong."),
    ],
)
def test_a_validation_error_names_its_field(detail, parameter, sentence):
    response = handled(exceptions.ValidationError(detail))
    assert response.status_code == 400
    assert response.data["code"] == "invalid_parameter"
    assert response.data["detail"] == sentence
    assert response.data.get("parameter") == parameter


def test_a_fault_of_ours_is_left_to_the_log():
    assert handle_exception(ZeroDivisionError(), {"request": RequestFactory().get("/api/audio/sessions")}) is None
    answer = server_error(RequestFactory().get("/api/audio/sessions"))
    assert answer.status_code == 500
    assert answer.content.startswith(b'{"detail": "The server failed')
    assert server_error(RequestFactory().get("/")).content.startswith(b"\n<!doctype html>")


def test_a_host_that_is_not_ours(client, settings):
    settings.ALLOWED_HOSTS = ["scribe.example"]
    answer = client.get("/api/audio/sessions")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert client.get("/")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/api", "/api/nothing", "/api/audio/sessions/a/b/c", "/health/nothing"])
def test_an_unknown_path_of_the_api_is_answered_in_json(path):
    answer = Client().get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize("path", ["", "/", "/123e4567-e89b-42d3-a456-426614174000", "/anything/"])
def test_a_plain_request_for_the_websocket_is_told_to_upgrade(client, path):
    answer = client.get(f"/api/ws/audio{path}?format=wav")
    assert (answer.status_code, answer["Upgrade"], answer["Connection"]) == (426, "websocket", "Upgrade")
    assert answer.json()["code"] == "upgrade_required"
    assert "ws://" in answer.json()["detail"]
    assert client.post(f"/api/ws/audio{path}").status_code == 405


def test_an_unknown_path_elsewhere_is_answered_with_a_page(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")
