"""Settings as an operator gives them: what is empty, what can't be used, and commands that make nothing."""

import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from tests.client import Rest, recorder
from tests.server import Server, eventually
from tests.services import REPOSITORY, free_port, redis_command
from tests.test_serve import one_sentence

ODD_NAME = "a;b,c+ %41#1?[x]* 'ü'"


def run(server: Server, *command: str) -> tuple[int, str, str]:
    """Run a program with the environment of a server; return its exit code and what it wrote."""
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=server.environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


async def test_a_folder_of_any_name_holds_everything(run_server, tmp_path):
    server = run_server(ODD_NAME)
    async with recorder(server.ws_url) as client:
        await client.store(bytes(3200))
        await client.close_session()
    rest = Rest(server.url)
    assert rest.finished(client.session_id)["recording"]["state"] == "ready"
    assert rest.http.post("/api/tasks", json={"task": "transcode", "session_id": client.session_id, "format": "mp3"})
    eventually(lambda: rest.http.get(f"/api/audio/sessions/{client.session_id}/audio?format=mp3").status_code == 200)
    assert "sercuescribe_chunks_total 1.0" in rest.http.get("/metrics").text
    assert (server.folder / "db.sqlite3").stat().st_size > 0
    assert {path.name for path in tmp_path.iterdir()} == {ODD_NAME, server.log.name}


@pytest.mark.parametrize("host", ["", " "])
def test_what_is_empty_counts_as_unset(run_server, host):
    server = run_server(HOST=host, ALLOWED_HOSTS="", AUDIO_STORAGE_PATH="", METRICS_DIR="", REDIS_URL="")
    assert server.url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{server.url}/api/audio/sessions", headers={"Host": "elsewhere"}).status_code == 400
    assert (server.folder / "db.sqlite3").is_file()


def test_an_empty_data_dir_is_the_default(make_server, tmp_path):
    server = make_server(DATA_DIR="")
    program = "from sercuescribe import settings; print(settings.DATA_DIR)"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=server.environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    ).stdout
    assert Path(printed.strip()) == tmp_path / "var"


def test_all_addresses_are_those_of_both_families(run_server):
    server = run_server(HOST="::")
    port = server.url.rpartition(":")[2]
    for address in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{address}:{port}/health").is_success
    server.environment["PORT"] = port
    for host in ("::", "[::]", "0.0.0.0", "::1", "127.0.0.1", "localhost"):
        server.environment["HOST"] = host
        assert run(server, "-m", "sercuescribe.probe")[0] == 0
    server.stop()
    code, _, said = run(server, "-m", "sercuescribe.probe")
    assert (code, len(said.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    "program", [["manage.py", "check"], ["-m", "sercuescribe.server"], ["-m", "celery", "-A", "sercuescribe", "report"]]
)
def test_every_program_says_what_is_wrong_with_a_setting(make_server, program):
    code, _, said = run(make_server(PORT="http"), *program)
    assert (code, said) == (1, "SercueScribe can't start: PORT must be a whole number, not 'http'.\n")


@pytest.mark.parametrize(
    "command", [["sessions", "list"], ["stats"], ["verify", "--all"], ["sessions", "close", "1" * 32]]
)
def test_a_command_that_finds_no_database_makes_none(make_server, tmp_path, command):
    code, said, complaint = run(make_server("wrong"), "manage.py", *command)
    assert (code, said) == (1, "")
    assert f"There is no database at {tmp_path}/wrong/db.sqlite3. Set DATA_DIR" in complaint
    assert len(complaint.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_is_named(make_server, postgres_url):
    code, _, complaint = run(make_server(DATABASE_URL=postgres_url), "manage.py", "stats")
    assert code == 1
    assert complaint.startswith("The tables of the database are missing or old (relation")
    assert "Run `manage.py migrate`." in complaint
    assert len(complaint.splitlines()) == 1


def test_a_role_that_may_not_create_is_named(make_server, postgres_url):
    role = f"role_{free_port()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
        try:
            sentence = one_sentence(make_server(DATABASE_URL=postgres_url.replace("postgres@", f"{role}@")))
        finally:
            connection.execute(f"DROP ROLE {role}")
    assert "permission denied for schema public" in sentence


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:{port}/0", "authentication failed"),
        ("redis://:wrong@127.0.0.1:{port}/0", "authentication failed (invalid username-password pair"),
        ("redis://:right@127.0.0.1:{port}/99", "DB index is out of range"),
    ],
)
def test_the_reason_of_a_redis_is_told(make_server, tmp_path, url, reason):
    port = free_port()
    command = redis_command(tmp_path, port, "--requirepass", "right")
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,
        redis.Redis(port=port, password="right") as own,
    ):
        try:
            eventually(lambda: is_there(own))
            sentence = one_sentence(make_server(REDIS_URL=url.format(port=port)))
        finally:
            process.terminate()
    assert f"The Redis at REDIS_URL does not answer: {reason}" in sentence


def is_there(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
