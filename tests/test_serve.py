"""`manage.py serve` with real processes: it starts, heals, stops, leaves nothing behind, and says what is wrong."""

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.server import DEADLINE_SECONDS, ROLES, eventually, is_running


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=DEADLINE_SECONDS).status_code == 200
    except httpx.TransportError:
        return False


def rejected(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def one_sentence(server, *arguments: str) -> str:
    """What a server says that can't start: one line, exit code 1."""
    process = server.launch(*arguments)
    assert server.wait() == 1
    assert process.stdout is not None
    assert process.stdout.read() == b""
    lines = server.read_log().strip().splitlines()
    assert len(lines) == 1, lines
    return str(lines[0])


def test_it_serves_with_its_own_redis_and_worker(server):
    assert answers(server.url)
    assert all(server.child(role) for role in ROLES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_clean_and_leaves_no_process(server, number):
    processes = server.processes()
    assert len(processes) >= 5  # supervisor, web, worker, its pool, Redis
    assert server.stop(number) == 0
    assert not any(is_running(process) for process in processes)
    assert rejected(server.url)


def test_ctrl_c_on_the_terminal_stops_in_order(server):
    processes = server.processes()
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait() == 0
    assert not any(is_running(process) for process in processes)
    log = server.read_log()
    assert "Traceback" not in log
    assert log.index("server_stopped") < log.index("Warm shutdown")
    assert "ready to exit" in (server.folder / "redis" / "log").read_text()


def test_nothing_but_the_ready_line_goes_to_standard_output(server):
    server.stop()
    assert server.process.stdout.read() == b""


def test_a_stop_while_it_starts_is_clean(make_server):
    server = make_server()
    server.launch()
    eventually(lambda: server.child("redis"))
    processes = server.processes()
    assert server.stop() == 0
    assert not any(is_running(process) for process in processes)


def test_two_servers_live_side_by_side(run_server):
    first, second = run_server("first"), run_server("second")
    assert first.url != second.url
    assert answers(first.url)
    assert answers(second.url)
    second.stop()
    assert answers(first.url)


def test_a_port_that_is_taken_is_named(make_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = one_sentence(make_server(PORT=str(port)))
    assert f"Can't listen on 127.0.0.1 port {port}: " in sentence
    assert "Set HOST or PORT" in sentence


def test_a_folder_that_can_not_be_written_is_named(make_server, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = one_sentence(make_server(SECRET_KEY="x" * 50, DATA_DIR=str(tmp_path / "file" / "data")))
    assert f"The folder {tmp_path}/file/data can't be written" in sentence


def test_a_folder_that_can_not_hold_the_secret_key_is_named(make_server, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = one_sentence(make_server(DATA_DIR=str(tmp_path / "file" / "data")))
    assert f"The folder {tmp_path}/file/data can't be written" in sentence


def test_a_folder_in_use_is_named(server, make_server):
    assert f"Another server already uses the folder {server.folder}" in one_sentence(
        make_server("second", DATA_DIR=str(server.folder))
    )
    assert answers(server.url)


def test_a_database_that_is_away_is_named(make_server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{unused.getsockname()[1]}/none"
        assert "The database can't be used: " in one_sentence(make_server(DATABASE_URL=url))


def test_a_redis_that_is_away_is_named(make_server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}"
        assert "The Redis at REDIS_URL does not answer" in one_sentence(make_server(REDIS_URL=url))


def test_a_setting_that_can_not_be_used_is_named(make_server):
    assert "PORT must be a whole number, not 'http'" in one_sentence(make_server(PORT="http"))


def test_options_override_the_environment(make_server):
    server = make_server(HOST="127.0.0.2")
    server.launch("--host", "127.0.0.1", "--port", "0")
    assert server.process.stdout.readline().startswith(b"SercueScribe is ready: http://127.0.0.1:")


def test_it_serves_on_ipv6(run_server):
    server = run_server(HOST="::1")
    assert server.url.startswith("http://[::1]:")
    assert answers(server.url)


def test_a_deep_folder_and_a_redis_from_outside(run_server, tmp_path):
    deep = Path(*["a" * 40] * 4)
    (tmp_path / deep).mkdir(parents=True)
    server = run_server(f"{deep}/data")
    assert answers(server.url)
    assert server.stop() == 0


def test_it_runs_on_any_database_with_a_redis_of_yours(run_server, any_database_url):
    server = run_server(DATABASE_URL=any_database_url, REDIS_URL=os.environ["TEST_REDIS_URL"] + "/15")
    assert server.child("redis") is None
    assert answers(server.url)


def test_a_start_says_one_line(server):
    """On standard output, which the fixture has read. On standard error it says that there is no authentication."""
    eventually(lambda: all(server.child(role) for role in ROLES))
    eventually(lambda: server.read_log().endswith("\n"))
    (line,) = server.read_log().splitlines()
    assert "This server runs without authentication" in line


def test_a_killed_supervisor_leaves_no_process(server):
    processes = server.processes()
    server.process.kill()
    eventually(lambda: not any(is_running(process) for process in processes))


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_process_comes_back(server, role):
    before = server.child(role)
    before.kill()
    eventually(lambda: not is_running(before))
    after = eventually(lambda: server.child(role))
    assert after.pid != before.pid
    name = "Redis" if role == "redis" else role
    eventually(lambda: f"process_ready process={name}" in server.read_log())
    assert answers(server.url)
    assert server.stop() == 0


def test_no_connection_is_rejected_while_the_web_process_is_away(server):
    web = server.child("web")
    web.suspend()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)):
        web.kill()
        assert not rejected(server.url)
    assert answers(server.url)


def test_a_killed_worker_takes_its_pool_along(server):
    worker = server.child("worker")
    pool = worker.children(recursive=True)
    assert pool
    worker.kill()
    eventually(lambda: not any(is_running(process) for process in pool))


def test_it_starts_again_after_everything_was_killed(server):
    server.kill_all()
    server.restart()
    assert answers(server.url)
    assert all(server.child(role) for role in ROLES)


def test_it_starts_again_on_the_same_port_right_after_the_supervisor_was_killed(make_server):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = make_server(PORT=port)
    server.start()
    server.process.kill()
    server.wait()
    server.restart()
    assert server.url.endswith(port)
    assert answers(server.url)


def test_a_file_of_an_older_redis_does_not_prevent_a_start(server):
    server.kill_all()
    (server.folder / "redis" / "appendonly.aof").write_bytes(b"\x00" * 4096)
    (server.folder / "redis" / "redis.sock").touch()
    server.restart()
    assert answers(server.url)


def test_a_redis_that_can_not_start_says_why(make_server):
    server = make_server()
    (server.folder / "redis" / "redis.sock").mkdir(parents=True)
    server.launch()
    assert server.wait() == 1
    assert "redis_failed" in server.read_log()
    assert "Failed opening Unix socket" in server.read_log()


def test_no_descriptor_of_the_supervisor_reaches_the_children(server):
    lock = str(server.folder / "serve.lock")
    for role in ROLES:
        assert lock not in [file.path for file in psutil.Process(server.child(role).pid).open_files()]
