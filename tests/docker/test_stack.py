"""The services of docker-compose.yml work together: every command and health check of theirs is run, and used through
the proxy. One stack, one test: it takes some seconds to start.
"""

import contextlib
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg

from tests.client import Recorder, Rest, recorder
from tests.docker.stack import CREDENTIALS, METRICS_TOKEN, Stack, running
from tests.server import eventually, is_running
from tests.sound import cut

RATE = 16000
# Long enough to be stopped at work.
SECONDS = 1200
MEGABYTE = 1 << 20


async def test_the_services_record_derive_sweep_show_and_stop(tmp_path, postgres_url):
    with running(tmp_path, postgres_url, DISCONNECT_GRACE_SECONDS="1", SWEEP_INTERVAL_SECONDS="1") as stack:
        stack.up()
        assert {name for name, each in stack.services.items() if each.health_check} == {
            *("database", "redis", "web", "worker", "jobs", "flower")
        }
        rest = Rest(stack.url)
        the_services_ask_who_is_there(stack, rest)
        session_id = await a_session_is_recorded_through_the_proxy(stack, rest)
        the_proxy_keeps_some_things_out(stack, rest)
        task_id = a_stopping_job_worker_gives_back_what_it_has_begun(stack, rest, session_id)
        flower_shows_who_knows_the_password_what_was_done(stack, session_id)
        the_result_is_in_the_database(stack, session_id, task_id)
        await beat_has_what_is_left_closed(stack, rest)
        await a_new_web_server_takes_over(stack, rest)
        everything_stops_in_its_time(stack)


def the_services_ask_who_is_there(stack: Stack, rest: Rest) -> None:
    assert rest.http.get("/api/audio/sessions").status_code == 401
    assert "manage.py createsuperuser" in stack.read_log()
    key = stack.manage("apikey", "create", "app", "--scope", "record", "--scope", "read").strip()
    rest.http.headers["Authorization"] = f"Bearer {key}"
    metrics = f"http://127.0.0.1:{stack.ports['web']}/metrics"
    assert httpx.get(metrics).status_code == 401
    assert httpx.get(metrics, headers={"Authorization": f"Bearer {METRICS_TOKEN}"}).status_code == 200


def opened(stack: Stack, rest: Rest, **query: Any) -> AbstractAsyncContextManager[Recorder]:
    """A connection through the proxy, with the key in its query."""
    key = rest.http.headers["Authorization"].removeprefix("Bearer ")
    return recorder(stack.url.replace("http", "ws"), token=key, **query)


async def a_session_is_recorded_through_the_proxy(stack: Stack, rest: Rest) -> str:
    noise = np.random.default_rng(1).integers(-8000, 8000, SECONDS * RATE, dtype="<i2").tobytes()
    # Messages larger than what the proxy lets an HTTP request be.
    async with opened(stack, rest, source="file", sample_rate=RATE) as client:
        chunks = cut(noise, 4 * MEGABYTE)
        assert await client.store(*chunks) == list(range(1, len(chunks) + 1))
        await client.close_session()
    url = rest.finished(client.session_id)["recording"]["url"]
    assert url.startswith(stack.url)
    assert rest.download(client.session_id)[-len(noise) :] == noise
    return client.session_id


def the_proxy_keeps_some_things_out(stack: Stack, rest: Rest) -> None:
    assert rest.http.get("/health").json()["status"] == "healthy"
    assert rest.http.get("/metrics").status_code == 404
    assert rest.http.post("/api/tasks", content=bytes(MEGABYTE + 1)).status_code == 413


def encoders(stack: Stack) -> list[psutil.Process]:
    """The FFmpeg processes of the job worker."""
    found = []
    for process in stack.processes["jobs"].children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_running(process) and "ffmpeg" in process.name():
                found.append(process)
    return found


def a_stopping_job_worker_gives_back_what_it_has_begun(stack: Stack, rest: Rest, session_id: str) -> str:
    asked = rest.http.post("/api/tasks", json={"task": "transcode", "session_id": session_id, "format": "mp3"}).json()
    address = f"/api/tasks/{asked['task_id']}"
    (lost,) = eventually(lambda: encoders(stack))
    lost.parent().kill()  # a process of the pool: what it had is handed out again
    eventually(lambda: encoders(stack) not in ([], [lost]))
    _, seconds = stack.stop("jobs")
    assert seconds < stack.services["jobs"].stop_grace_seconds
    assert rest.http.get(address).json()["status"] == "running"
    stack.up("jobs")
    # By then the sweep has not asked again.
    assert eventually(lambda: (task := rest.http.get(address).json())["status"] == "completed" and task)["result"]
    return str(asked["task_id"])


def flower_shows_who_knows_the_password_what_was_done(stack: Stack, session_id: str) -> None:
    url = f"http://127.0.0.1:{stack.ports['flower']}"
    for path in ("/", "/workers", "/api/tasks"):
        assert httpx.get(url + path).status_code == 401
        assert httpx.get(url + path, auth=("operator", "change-me")).status_code == 401
    assert httpx.get(f"{url}/tasks", auth=CREDENTIALS).status_code == 200
    shown = httpx.get(f"{url}/api/tasks", auth=CREDENTIALS).json().values()
    arguments = {(task["name"], task["args"]) for task in shown}
    assert ("sercuescribe.transcode", f"['{session_id}', 'mp3']") in arguments
    assert ("sercuescribe.concatenate", f"['{session_id}']") in arguments
    # Beat asks for one now and then.
    eventually(lambda: "sercuescribe.sweep" in httpx.get(f"{url}/api/tasks", auth=CREDENTIALS).text)


def the_result_is_in_the_database(stack: Stack, session_id: str, task_id: str) -> None:
    query = "SELECT task_name, task_args, status FROM django_celery_results_taskresult WHERE task_id = %s"
    with psycopg.connect(stack.postgres_url) as database:
        database.autocommit = True
        eventually(lambda: database.execute(query, [task_id]).fetchone()[2] == "SUCCESS")
        name, arguments, _ = database.execute(query, [task_id]).fetchone()
        assert (name, session_id in arguments, "mp3" in arguments) == ("sercuescribe.transcode", True, True)
        # Of what nobody asked for there is none.
        others = "SELECT count(*) FROM django_celery_results_taskresult WHERE task_id != %s"
        assert database.execute(others, [task_id]).fetchone() == (0,)


async def beat_has_what_is_left_closed(stack: Stack, rest: Rest) -> None:
    async with opened(stack, rest) as client:
        await client.store(bytes(3200))
    assert rest.finished(client.session_id)["status"] == "completed"


async def a_new_web_server_takes_over(stack: Stack, rest: Rest) -> None:
    """Behind the same proxy, which goes on."""
    async with opened(stack, rest) as client:
        await client.store(bytes(3200))
        code, seconds = stack.stop("web")
        assert (code, await client.close_code()) == (0, 1012)
        assert seconds < stack.services["web"].stop_grace_seconds
    stack.up("web")
    assert rest.finished(client.session_id)["total_chunks"] == 1
    async with opened(stack, rest) as another:
        assert await another.store(bytes(3200)) == [1]


def everything_stops_in_its_time(stack: Stack) -> None:
    for name in reversed(list(stack.processes)):
        if name not in ("check", "migrate"):
            code, seconds = stack.stop(name)
            assert seconds < stack.services[name].stop_grace_seconds, name
            assert code == 0, name
