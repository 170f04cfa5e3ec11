"""The AsyncAPI document: against the code, against its own examples, and against what a running server says."""

import ast
import asyncio
import json
import random
from pathlib import Path

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator

from audio import errors
from audio.api import asyncapi
from audio.wire import messages
from audio.wire.connection import Connection
from audio.wire.messages import Action, parse_text
from audio.wire.parameters import _CHOICES, _LABELS
from tests.client import recorder
from tests.conftest import RunServer
from tests.docs.text import table
from tests.services import REPOSITORY
from tests.sound import speech, wav_bytes

PATH = "/api/asyncapi"
SPEAKERS = ("audio/consumers.py", "audio/admission.py", "audio/wire/*.py", "audio/ingest/*.py", "audio/access/*.py")


@pytest.fixture
def document(client):
    return client.get(PATH).json()


def said(document):
    """The schemas of what the server sends, by what tells them apart: the message's sentence, or the error's code."""
    names = [reference["$ref"].rpartition("/")[2] for reference in document["operations"]["sendNewSession"]["messages"]]
    payloads = [document["components"]["messages"][name]["payload"] for name in names]
    return {(p["properties"].get("message") or p["properties"]["code"])["const"]: p for p in payloads}


def references(node):
    if isinstance(node, dict):
        yield from [node["$ref"]] if "$ref" in node else []
        node = list(node.values())
    for each in node if isinstance(node, list) else []:
        yield from references(each)


def resolved(document, reference):
    for key in reference.removeprefix("#/").split("/"):
        document = document[key]
    return document


# The document


def test_it_is_an_asyncapi_document(document):
    assert (document["asyncapi"], document["defaultContentType"]) == ("3.0.0", "application/json")
    assert document["servers"] == {"here": {"host": "testserver", "protocol": "ws"}}
    assert {channel["address"] for channel in document["channels"].values()} == {
        "/api/ws/audio",
        "/api/ws/audio/{session_id}",
    }
    assert {(each["action"], each["channel"]["$ref"]) for each in document["operations"].values()} == {
        (action, f"#/channels/{channel}") for action in ("receive", "send") for channel in document["channels"]
    }


def test_every_reference_leads_somewhere_and_every_message_is_used(document):
    found = set(references(document))
    for reference in found:
        assert resolved(document, reference)
    for name in document["components"]["messages"]:
        assert f"#/components/messages/{name}" in found
        assert any(reference.endswith(f"/messages/{name}") and "/channels/" in reference for reference in found)


def test_every_example_is_valid(document):
    for name, message in document["components"]["messages"].items():
        if message["contentType"] == "application/json":
            Draft202012Validator.check_schema(message["payload"])
            for example in message["examples"]:
                Draft202012Validator(message["payload"]).validate(example["payload"])
        else:
            assert name == "chunk"


def test_what_a_client_sends_is_understood(document):
    examples = [document["components"]["messages"][action]["examples"][0]["payload"] for action in Action]
    assert [parse_text(json.dumps(example)) for example in examples] == list(Action)


def test_it_has_every_message_and_parameter_of_the_code(document):
    sentences = {value for name, value in vars(messages).items() if name.isupper() and isinstance(value, str)}
    assert sentences <= set(said(document))
    for channel in document["channels"].values():
        query = channel["bindings"]["ws"]["query"]["properties"]
        assert {name: tuple(schema["enum"]) for name, schema in query.items() if "enum" in schema} == _CHOICES
        assert set(query) == {*_CHOICES, *_LABELS}


def test_it_has_the_errors_that_a_connection_can_meet_and_no_others():
    """Those are the ones that the modules behind the socket know by name."""
    paths = [path for pattern in SPEAKERS for path in REPOSITORY.glob(pattern)]
    known = {getattr(errors, name) for path in paths for name in imported_errors(path)}
    known -= {
        errors.KeyNotFoundError,
        errors.TokenNotFoundError,
        errors.MemberNotFoundError,
        errors.LastManagerError,
    }  # of REST and of the commands
    assert set(asyncapi.error_classes()) == {each for each in known if not each.__subclasses__()}


def imported_errors(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "audio.errors"
        for alias in node.names
    ]


def test_every_close_code_is_explained(document):
    closing = {message.get("x-close-code") for message in document["components"]["messages"].values()} - {None}
    assert closing <= set(asyncapi.CLOSE_CODES)
    explained = {
        int(code) for codes, *_ in table(REPOSITORY / "docs/protocol.md", "## Close codes") for code in codes.split()
    }
    assert set(asyncapi.CLOSE_CODES) == explained
    assert {int(code) for code in document["x-close-codes"]} == explained


# How it is served


@pytest.mark.parametrize(
    ("path", "accept", "content_type"),
    [
        (PATH, "*/*", "application/vnd.aai.asyncapi+json"),
        (PATH, "application/json", "application/json"),
        (PATH, "application/vnd.aai.asyncapi+yaml", "application/vnd.aai.asyncapi+yaml"),
        (f"{PATH}.json", "text/html", "application/vnd.aai.asyncapi+json"),
        (f"{PATH}.json/", "*/*", "application/vnd.aai.asyncapi+json"),
        (f"{PATH}.yaml", "*/*", "application/vnd.aai.asyncapi+yaml"),
    ],
)
def test_json_and_yaml_by_accept_or_by_suffix(client, document, path, accept, content_type):
    answer = client.get(path, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer["Content-Type"].split(";")[0] == content_type
    assert yaml.safe_load(answer.content) == document


@pytest.mark.parametrize("path", [f"{PATH}.xml", f"{PATH}.html.json"])
def test_there_is_no_other_suffix(client, path):
    assert client.get(path).status_code == 404


def test_over_tls_the_protocol_is_wss(client):
    assert client.get(PATH, secure=True).json()["servers"]["here"]["protocol"] == "wss"


def test_the_page_shows_all_of_it(client, document):
    page = client.get(PATH, headers={"accept": "text/html,*/*;q=0.8"}).content.decode()
    for name in document["components"]["messages"]:
        assert f'id="{name.removeprefix(asyncapi.ERROR_PREFIX)}"' in page
    for text in ("ws://testserver/api/ws/audio/{session_id}", "sample_rate", "22050", "4409", "session_closed"):
        assert text in page


# What a server really says


def test_what_a_running_server_says_is_as_the_document_says(run_server: RunServer):
    server = run_server(CONNECTION_TIMEOUT_SECONDS="2", MAX_CONNECTIONS_PER_SESSION="1")
    document = httpx.get(f"{server.url}{PATH}").json()
    schemas = said(document)
    heard = asyncio.run(conversations(server.ws_url))
    for message in heard:
        schema = schemas[message.get("message") or message["code"]]
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(message)
        assert set(message) <= set(schema["properties"]), message
    assert {message["message"] for message in heard if "message" in message} == {
        value for name, value in vars(messages).items() if name.isupper() and isinstance(value, str)
    } - {messages.PART_NOT_MADE}  # said when a worker finds it, see test_a_warning_is_a_notice_as_the_document_says
    assert {message["code"] for message in heard if "code" in message} >= {
        *("invalid_parameter", "parameter_conflict", "invalid_session_id", "session_not_found", "not_allowed"),
        *("invalid_json", "unknown_message_type", "unknown_action", "format_mismatch", "missing_header"),
        *("session_paused", "session_closed", "too_many_connections", "superseded", "idle_timeout"),
    }


def test_a_warning_is_a_notice_as_the_document_says(document):
    connection = Connection("00000000-0000-4000-8000-000000000000", 3)
    warning = {"code": "undecodable_chunk", "detail": "why", "first_sequence": 2, "last_sequence": 3}
    connection.warn(warning | {"start_seconds": 0.5, "end_seconds": None})
    (notice,) = [json.loads(text) for text in connection.outgoing() if isinstance(text, str)]
    schema = said(document)[messages.PART_NOT_MADE]
    Draft202012Validator(schema).validate(notice)
    assert set(notice) == set(schema["properties"])


async def conversations(ws_url):
    """Says everything that a client can say, and returns all that the server answers."""
    heard = []
    for query in ({"format": "exe"}, {"colour": "red"}, {"ticket": "none"}):
        heard.append(await greeting(ws_url, **query))
    heard.append(await greeting(ws_url, "none"))
    heard.append(await greeting(ws_url, "00000000-0000-4000-8000-000000000000"))
    for audio_format, payload in (("flac", random.Random(1).randbytes(400)), ("mp3", wav_bytes(speech(0.1), 16000))):
        async with recorder(ws_url, format=audio_format) as connection:
            await connection.send(payload)
            heard += [connection.greeting, await connection.answer(), await connection.close_session()]
    heard += await a_session(ws_url)
    return heard


async def greeting(ws_url, *path, **query):
    async with recorder(ws_url, *path, **query) as connection:
        return connection.greeting


async def a_session(ws_url):
    heard = []
    async with recorder(ws_url, source="left", user_id="Ana", format="wav") as older:
        session_id = older.session_id
        await older.send(bytes(320), b"")
        heard += [older.greeting, *await older.answers(2)]
        heard.append(await greeting(ws_url, session_id, format="mp3"))
        heard.append(await greeting(ws_url, session_id))
        async with recorder(ws_url, session_id, source="left") as newer:
            heard += [newer.greeting, await older.answer()]
            heard += [await newer.control(action) for action in ("pause", "ping")]
            await newer.send(bytes(320))
            heard.append(await newer.answer())
            heard.append(await newer.control("resume"))
            for text in (
                *("{", '{"type": "song"}', '{"type": "control", "action": "dance"}'),
                *('{"type": "marker"}', '{"type": "marker", "label": "Question 2"}'),
            ):
                await newer.socket.send(text)
            heard += await newer.answers(5)
            heard.append(await newer.answer())
    async with recorder(ws_url, session_id) as last:
        heard += [last.greeting, await last.close_session()]
    heard.append(await greeting(ws_url, session_id))
    return heard
