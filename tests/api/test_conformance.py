"""The OpenAPI document against a running server: schemathesis asks what the document allows, and what it forbids.

Always the same requests, because a test that finds something else each time is a test of nobody's change. There is a
session of each kind to be asked about, so that the answers are not all that there is none.
"""

import asyncio
import contextlib
import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.client import Rest, recorder
from tests.server import Server
from tests.sound import speech

EXAMPLES = 12
# For those whom a server asks who they are.
FEW_EXAMPLES = 3
UNKNOWN_IDS = r"\{(key|token|marker|webhook|delivery|member)_id\}|^POST /api/(webhooks|projects/.*/members)$"
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# What ends a session comes last, and is done to others than those that the rest is asked about.
ENDING = ("close", "delete")


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server(DISCONNECT_GRACE_SECONDS="3600", LOG_LEVEL="error")


async def _record(server: Server, payload: bytes, close: bool, **query: Any) -> str:
    async with recorder(server.ws_url, **query) as connection:
        await connection.store(payload)
        if close:
            await connection.close_session()
    return connection.session_id


def seed(server: Server) -> list[str]:
    """Records a session that becomes ready, one that stays open, and one whose recording fails; returns their ids."""
    sound = speech(1).tobytes()
    ready = asyncio.run(_record(server, sound, close=True, user_id="Ana"))
    live = asyncio.run(_record(server, sound, close=False))
    failed = asyncio.run(_record(server, b"fLaC" + bytes(2000), close=True, format="flac", chunks="files"))
    rest = Rest(server.url)
    assert [rest.finished(each)["recording"]["state"] for each in (ready, failed)] == ["ready", "failed"]
    return [ready, live, failed]


def operations(schema: OpenApiSchema) -> list[APIOperation]:
    """All that the document names and that has an end, in the order in which they can be asked for."""
    found = [result.ok() for result in schema.exclude(path="/api/events").get_all_operations()]
    return sorted(found, key=lambda each: (ends_a_session(each), each.label))


def ends_a_session(operation: APIOperation) -> bool:
    return operation.method in ENDING or operation.path.endswith("close")


def ids_for(operation: APIOperation, http: httpx.Client, kept: list[str]) -> list[str]:
    """What can stand in the operation's path and names something."""
    if "task_id" in operation.path:
        asked = {"task": "transcode", "session_id": kept[0], "format": "mp3"}
        return [http.post("/api/tasks", json=asked).json()["task_id"]]
    if ends_a_session(operation):
        return [http.post("/api/audio/sessions").json()["session_id"] for _ in kept]
    return kept


def name_what_is_there(case: schemathesis.Case, key: str) -> None:
    """Puts an id wherever one is asked for; of a task, leaves a format to that which takes one."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: key for name in ("session_id", "task_id") if name in part})
            if "task" in part and part["task"] != "transcode":
                part.pop("format", None)


def ask(
    operation: APIOperation,
    mode: GenerationMode,
    ids: list[str],
    examples: int = EXAMPLES,
    headers: dict[str, str] | None = None,
) -> set[int]:
    """Asks in so many ways, and checks the answers; returns their statuses."""
    statuses = set()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode), key=st.sampled_from([*ids, None]))
    def run(case: schemathesis.Case, key: str | None) -> None:
        if key:
            name_what_is_there(case, key)
        answer = case.call(timeout=60, headers=headers)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    # There is nothing to get wrong about an operation without parameters.
    with contextlib.suppress(Unsatisfiable):
        run()
    return statuses


def test_every_answer_is_as_the_document_says(server):
    kept = seed(server)
    http = Rest(server.url).http
    asked: dict[str, set[int]] = {}
    wrong = []
    for operation in operations(schemathesis.openapi.from_url(f"{server.url}/api/schema", timeout=60)):
        ids = ids_for(operation, http, kept)
        for mode in MODES:
            try:
                asked.setdefault(operation.label, set()).update(ask(operation, mode, ids))
            except FailureGroup as failures:
                wrong += [f"{operation.label}: {failure}" for failure in failures.exceptions]
    assert wrong == [], "\n\n".join(wrong)
    assert len(asked) >= 13
    # A task may have ended before it is revoked. Nothing has the ids of keys, tokens, markers, members and
    # webhooks, and no example of a text is the URL of a receiver or the name of a person.
    only_rejected = {label for label, statuses in asked.items() if min(statuses) >= 400}
    assert {label for label in only_rejected if not re.search(UNKNOWN_IDS, label)} <= {"DELETE /api/tasks/{task_id}"}


@pytest.fixture(scope="module")
def asking(run_module_server):
    """A server that asks who is there."""
    return run_module_server(REQUIRE_AUTH="true", DISCONNECT_GRACE_SECONDS="3600", LOG_LEVEL="error")


@pytest.fixture(scope="module")
def rest_with_key(asking):
    scopes = [option for scope in ("read", "record", "manage") for option in ("--scope", scope)]
    rest = Rest(asking.url)
    key = asking.manage("apikey", "create", "program", *scopes).strip()
    rest.http.headers["Authorization"] = f"Bearer {key}"
    return rest


@pytest.mark.parametrize("is_stranger", [False, True])
def test_every_answer_to_who_is_asked_is_as_the_document_says(asking, rest_with_key, is_stranger):
    http = rest_with_key.http
    known = {"Authorization": http.headers["Authorization"]}
    schema = schemathesis.openapi.from_url(f"{asking.url}/api/schema", timeout=60, headers=known)
    ids = [http.post("/api/audio/sessions").json()["session_id"]]
    headers = {"Authorization": "Bearer of nothing"} if is_stranger else known
    asked: dict[str, set[int]] = {}
    wrong = []
    for operation in operations(schema):
        for mode in MODES:
            try:
                statuses = ask(operation, mode, ids, FEW_EXAMPLES, headers)
                asked.setdefault(operation.label, set()).update(statuses)
            except FailureGroup as failures:
                wrong += [f"{operation.label}: {failure}" for failure in failures.exceptions]
    assert wrong == [], "\n\n".join(wrong)
    asked_who = {label for label, statuses in asked.items() if 401 in statuses}
    if is_stranger:
        assert set(asked) - asked_who == {"GET /health", "GET /health/ready"}
    else:
        assert asked_who == set()
