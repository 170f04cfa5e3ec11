"""The log of a real server as programs read it: one JSON object a line, with the session's id where it is about one."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import httpx
import pytest
import redis
import structlog
from structlog.contextvars import bound_contextvars

from sercuescribe import logs
from tests.client import Rest, recorder
from tests.docs.text import table
from tests.server import Server, eventually
from tests.services import REPOSITORY
from tests.sound import speech

# The bundled Redis and Celery's last words are not from a logger; production's Redis is elsewhere.
NOT_OURS = re.compile(r"^(\d+:[\w-]+ .*|worker: \w+ shutdown .*|)$")
SECRET = "sesame-open"
LOGGING_CALL = re.compile(
    r"\b(?:logger\.(?:debug|info|warning|error|critical)\(|logger\.log\(level, |_put_off\()([^,)]+)"
)


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server(LOG_FORMAT="json")


def lines_of(server: Server) -> list[dict[str, Any]]:
    """The log so far; raises ValueError at a line that is no JSON."""
    lines = server.read_log().split("\n")[:-1]  # the last is empty, or not whole yet
    return [json.loads(line) for line in lines if not NOT_OURS.match(line)]


def about(server: Server, session_id: str) -> dict[str, dict[str, Any]]:
    """The events of a session, by name."""
    return {line["event"]: line for line in lines_of(server) if line.get("session_id") == session_id}


async def test_the_life_of_a_session_is_in_the_log(server):
    async with recorder(server.ws_url, source=SECRET) as first:
        await first.store(speech(1).tobytes())
    session_id = first.session_id
    async with recorder(server.ws_url, session_id, source=SECRET) as second:
        await second.store(*[bytes(320)] * 20)
        await second.close_session()
    Rest(server.url).finished(session_id)
    eventually(lambda: "recording_ready" in about(server, session_id))
    events = about(server, session_id)
    assert set(events) >= {
        "session_opened",
        "session_resumed",
        "session_closed",
        "connection_closed",
        "recording_ready",
    }
    assert events["session_opened"]["connection_id"] != events["session_resumed"]["connection_id"]
    assert events["session_closed"]["by"] == "client"
    # Also from the thread that closed it, and from the worker, whoever wrote the line.
    assert events["session_closed"]["connection_id"] == events["session_resumed"]["connection_id"]
    ready = events["recording_ready"]
    assert ready["task"] in ("sercuescribe.concatenate", "sercuescribe.concatenate_live")
    assert (ready["chunks"], ready["duration_seconds"], ready["format"]) == (21, round(19200 / 44100, 3), "wav")
    of_the_session = [line for line in lines_of(server) if line.get("session_id") == session_id]
    assert len(of_the_session) < 15  # not a line a chunk


async def test_a_task_names_itself_and_its_session(server):
    async with recorder(server.ws_url) as client:
        await client.store(speech(1).tobytes())
        await client.close_session()
    rest = Rest(server.url)
    rest.finished(client.session_id)
    asked = rest.http.post("/api/tasks", json={"task": "transcode", "session_id": client.session_id, "format": "mp3"})
    eventually(lambda: "task_ended" in about(server, client.session_id))
    ended = about(server, client.session_id)["task_ended"]
    assert (ended["task_id"], ended["task"]) == (asked.json()["task_id"], "transcode mp3")


def test_a_request_names_itself_and_its_session(server):
    http = Rest(server.url).http
    session_id = http.post("/api/audio/sessions", json={}).json()["session_id"]
    http.post(f"/api/audio/sessions/{session_id}/close")
    http.delete(f"/api/audio/sessions/{session_id}?{SECRET}=1")
    http.delete(f"/api/audio/sessions/{session_id}")
    eventually(lambda: "session_deleted" in about(server, session_id))
    events = about(server, session_id)
    assert events["session_created"]["request"] == "POST /api/audio/sessions"
    assert events["session_closed"]["by"] == "request"
    assert events["session_closed"]["request"] == f"POST /api/audio/sessions/{session_id}/close"


def test_a_static_file_is_not_worth_a_line(server):
    assert Rest(server.url).http.get("/static/console/console.css").is_success
    assert "StreamingHttpResponse" not in server.read_log()


async def test_tickets_and_queries_are_not_written(server):
    answer = Rest(server.url).http.post("/api/audio/sessions", json={}).json()
    ticket = httpx.URL(answer["websocket_url"]).params["ticket"]
    async with recorder(server.ws_url, answer["session_id"], ticket=ticket) as client:
        await client.close_session()
    async with recorder(server.ws_url, answer["session_id"], ticket=f"{SECRET}-ticket") as client:
        assert client.greeting["code"] == "not_allowed"
    eventually(lambda: "connection_rejected" in about(server, answer["session_id"]))
    log = server.read_log()
    assert ticket not in log
    assert f"{SECRET}-ticket" not in log


def test_every_line_says_when_where_and_how_grave(server):
    httpx.post(f"{server.url}/api/audio/sessions", json={})
    lines = eventually(lambda: lines_of(server))
    for line in lines:
        assert line.keys() >= {"event", "level", "logger", "timestamp"}, line


def test_nothing_else_is_written_to_the_end(make_server):
    server = make_server(LOG_FORMAT="json")
    server.start()
    assert server.stop() == 0
    assert lines_of(server)[-1]["event"]


def test_the_table_of_events_is_that_of_the_code():
    """docs/operations.md has the word of each line that structlog writes, and no other."""
    documented = {
        word.strip("`")
        for words, _ in table(REPOSITORY / "docs" / "operations.md", "### Events")
        for word in words.split()
    }
    assert documented == {*events_of_the_code()}


def events_of_the_code() -> Iterator[str]:
    for path in (path for folder in ("audio", "sercuescribe", "tasks") for path in (REPOSITORY / folder).rglob("*.py")):
        text = path.read_text()
        if "structlog.stdlib.get_logger" in text:
            for call in LOGGING_CALL.findall(text):
                yield from re.findall(r'"([^"]+)"', call)


# The two formats, without a server


@pytest.fixture
def written() -> Iterator[Any]:
    """Gives a function that logs through a formatter and returns what was written."""
    logger = logging.getLogger("tests.written")
    logger.propagate = False

    def write(formatter: logging.Formatter, log: Any) -> str:
        stream = StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.handlers = [handler]
        log()
        return stream.getvalue()

    yield write
    logger.handlers = []


def fail(log: Any) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log("it_failed", exc_info=True)


@pytest.mark.parametrize("log", [structlog.stdlib.get_logger("tests.written"), logging.getLogger("tests.written")])
def test_a_traceback_is_a_key_of_its_line(written, log):
    text = written(logs.json(), lambda: fail(log.error))
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["event"], line["level"]) == ("it_failed", "error")
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("lines")


def test_people_read_a_sentence_and_what_it_is_about(written):
    log = structlog.stdlib.get_logger("tests.written")
    with bound_contextvars(session_id="1234"):
        text = written(logs.plain(), lambda: log.warning("it_failed", error="no space", count=3))
    assert re.fullmatch(r"\S+Z WARNING tests\.written: it_failed count=3 error='no space' session_id=1234\n", text), (
        text
    )
    foreign = written(logs.plain(), lambda: logging.getLogger("tests.written").warning("%d tasks", 3))
    assert foreign.endswith("WARNING tests.written: 3 tasks\n")
    assert "\nValueError: two\nlines" in written(logs.plain(), lambda: fail(log.error))


@pytest.mark.parametrize(
    ("arguments", "debug_lines"), [([], False), (["--loglevel", "WARNING"], False), (["--loglevel", "DEBUG"], True)]
)
def test_beat_is_quiet_and_takes_the_level_of_the_command_line(server, tmp_path, arguments, debug_lines):
    """While it asks for sweeps, one after the other; `serve` has nobody who takes them."""
    environment = server.environment | {"SWEEP_INTERVAL_SECONDS": "0.1"}
    schedule = ["--schedule", str(tmp_path / "schedule")]
    command = [sys.executable, "-m", "celery", "-A", "sercuescribe", "--quiet", "beat", *schedule, *arguments]
    log = tmp_path / "log"
    with redis.Redis(unix_socket_path=str(server.folder / "redis" / "redis.sock")) as broker:
        broker.delete("sweeps")
        with log.open("wb") as written:
            beat = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=written, stderr=written)
        try:
            eventually(lambda: broker.llen("sweeps") > 3)
        finally:
            # Asked to end in the middle of a write, its scheduler says so in a traceback of its own.
            beat.kill()
            beat.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert bool(lines) == any(line["level"] == "debug" for line in lines) == debug_lines
