"""PostgreSQL behind a real PgBouncer that pools by session, as its own defaults and Debian's have it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.client import Rest, recorder
from tests.debian import program
from tests.server import eventually
from tests.services import free_port
from tests.test_settings import run

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = session
default_pool_size = 50
"""
GUARDS = "tcp_keepalives_idle", "tcp_user_timeout", "idle_in_transaction_session_timeout"
SHOW = (
    "from django.db import connection; cursor = connection.cursor();"
    "[print(cursor.execute('SELECT current_setting(%s)', [name]).fetchone()[0]) for name in {names}]"
)


@contextmanager
def pgbouncer(folder: Path, postgres_url: str, *extra: str) -> Iterator[str]:
    """Run a PgBouncer before the database at the URL, and yield the URL of the same database through it."""
    pooler, port = program("pgbouncer"), free_port()
    configuration = folder / "pgbouncer.ini"
    user = ["user = nobody"] if os.geteuid() == 0 else []  # it does not run as root
    text = CONFIGURATION.format(server_port=urlsplit(postgres_url).port, port=port)
    configuration.write_text(text + "\n".join([*extra, *user]) + "\n")
    url = urlsplit(postgres_url)._replace(netloc=f"postgres@127.0.0.1:{port}").geturl()
    with subprocess.Popen([pooler.path, configuration], env=pooler.environment, cwd=folder) as process:
        try:
            eventually(lambda: answers(url))
            yield url
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("extra", ["", "ignore_startup_parameters = extra_float_digits"])
async def test_it_records_and_its_guards_are_set(run_server, tmp_path, postgres_url, extra):
    with pgbouncer(tmp_path, postgres_url, extra) as url:
        server = run_server(DATABASE_URL=url, HEARTBEAT_SECONDS="4")
        async with recorder(server.ws_url) as client:
            await client.store(bytes(3200))
            await client.close_session()
        assert Rest(server.url).finished(client.session_id)["recording"]["state"] == "ready"
        code, said, complaint = run(server, "manage.py", "shell", "--verbosity", "0", "-c", SHOW.format(names=GUARDS))
        assert (code, said.split()) == (0, ["2", "8000", "8s"]), complaint
        server.stop()


def test_what_the_url_says_goes_first(make_server, postgres_url):
    url = f"{postgres_url}?options=-c%20idle_in_transaction_session_timeout%3D70s"
    code, said, _ = run(make_server(DATABASE_URL=url), "manage.py", "shell", "-v", "0", "-c", SHOW.format(names=GUARDS))
    assert (code, said.split()[2]) == (0, "70s")
