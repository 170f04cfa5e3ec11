"""Background tasks on a running server: other formats, the waveform, progress, revoking, errors."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest

from tests.client import Rest, recorder
from tests.server import eventually, is_running
from tests.sound import cut, decoded, speech

RATE = 16000
SECONDS = 4
# Long enough to be seen at work, by its own process, on any machine.
LONG_SECONDS = 1200
FORMATS = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "aac": "audio/aac",
    "m4a": "audio/mp4",
    "opus": "audio/ogg",
}


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


def record(server, data, **query):
    """Records the data as one session and closes it; returns its id."""

    async def send():
        async with recorder(server.ws_url, **{"sample_rate": RATE, **query}) as connection:
            await connection.store(*cut(data, 1 << 20))
            await connection.close_session()
        return connection.session_id

    return asyncio.run(send())


def recorded(server, rest, data, **query):
    session_id = record(server, data, **query)
    assert rest.finished(session_id)["recording"]["state"] == "ready"
    return session_id


@pytest.fixture(scope="module")
def session_id(server, rest):
    return recorded(server, rest, speech(SECONDS).tobytes())


@pytest.fixture
def long_session_id(server, rest):
    """Twenty minutes of noise, which takes an encoder a while."""
    noise = np.random.default_rng(1).integers(-8000, 8000, LONG_SECONDS * RATE, dtype="<i2")
    return recorded(server, rest, noise.tobytes())


def audio(rest, session_id, audio_format, **headers):
    return rest.http.get(f"/api/audio/sessions/{session_id}/audio", params={"format": audio_format}, headers=headers)


def fetched(rest, session_id, audio_format):
    """Asks until the file is there."""
    return eventually(lambda: (answer := audio(rest, session_id, audio_format)).status_code == 200 and answer)


def post(rest, **fields):
    return rest.http.post("/api/tasks", json=fields)


def show(rest, task_id):
    answer = rest.http.get(f"/api/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(rest, task_id):
    return eventually(lambda: (task := show(rest, task_id))["ended_at"] and task)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_each_format_holds_the_recording(rest, session_id, audio_format, tmp_path):
    answer = fetched(rest, session_id, audio_format)
    path = tmp_path / f"recording.{audio_format}"
    path.write_bytes(answer.content)
    samples = np.frombuffer(decoded(path, "s16le", *(("-f", "aac") if audio_format == "aac" else ())), dtype="<i2")
    if audio_format in ("wav", "flac"):
        assert samples.tobytes() == speech(SECONDS).tobytes()
    seconds = len(samples) / (48000 if audio_format == "opus" else RATE)
    # ADTS can't say that its encoder began early and ended late: up to three of its frames of 1024.
    assert SECONDS <= seconds <= SECONDS + (3 * 1024 / RATE if audio_format == "aac" else 0)
    assert 0.9 < np.std(samples.astype(float)) / np.std(speech(SECONDS).astype(float)) < 1.1
    assert answer.headers["Content-Type"] == FORMATS[audio_format]
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{session_id}.{audio_format}"'
    part = audio(rest, session_id, audio_format, Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, answer.content[10:20])
    assert audio(rest, session_id, audio_format, **{"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_many_that_ask_at_once_get_one_task(server, rest):
    session_id = recorded(server, rest, speech(1).tobytes())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: audio(Rest(server.url), session_id, "mp3"), range(8)))
    # One that asked late may have got the file.
    waiting = [answer for answer in answers if answer.status_code == 202]
    tasks = {answer.json()["task_id"] for answer in waiting}
    assert len(tasks) == 1
    assert waiting[0].json()["code"] == "task_running"
    assert int(waiting[0].headers["Retry-After"]) > 0
    fetched(rest, session_id, "mp3")
    listed = rest.http.get("/api/tasks", params={"session_id": session_id}).json()["results"]
    (task,) = [task for task in listed if task["task"] == "transcode"]
    assert task["task_id"] in tasks
    again = post(rest, task="transcode", session_id=session_id, format="mp3")
    assert (again.status_code, again.json()) == (202, show(rest, task["task_id"]))


def test_a_session_is_verified_as_often_as_one_asks(server, rest):
    session_id = recorded(server, rest, speech(1).tobytes())
    found = ended(rest, post(rest, task="verify", session_id=session_id).json()["task_id"])
    assert (found["status"], found["percent"], found["error"]) == ("completed", 100.0, None)
    assert found["result"] == {
        "session_id": session_id,
        "chunks": 1,
        "bytes": 32000,
        "recording": "compared",
        "warnings": [],
        "problem_count": 0,
        "problems": [],
    }
    path = server.folder / "audio" / rest.session(session_id)["file_path"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = ended(rest, post(rest, task="verify", session_id=session_id).json()["task_id"])
    assert again["task_id"] != found["task_id"]
    assert [problem["code"] for problem in again["result"]["problems"]] == ["recording_damaged"]
    assert show(rest, found["task_id"]) == found


def test_an_open_session_can_be_verified(server, rest):
    async def send():
        async with recorder(server.ws_url) as connection:
            await connection.store(b"12", b"34")
            task_id = post(rest, task="verify", session_id=connection.session_id).json()["task_id"]
            return await asyncio.to_thread(ended, rest, task_id)

    assert asyncio.run(send())["result"]["chunks"] == 2


def encoders(server):
    """The FFmpeg processes under the server."""
    return server.commands("ffmpeg")


def test_a_long_one_tells_how_far_it_is_and_delays_no_closing_and_is_revoked(server, rest, long_session_id):
    asked = post(rest, task="transcode", session_id=long_session_id, format="opus")
    task_id = asked.json()["task_id"]
    assert (asked.status_code, asked.headers["Location"]) == (202, f"{server.url}/api/tasks/{task_id}")
    seen = [eventually(lambda: (task := show(rest, task_id))["percent"] and task)]
    seen.append(eventually(lambda: (task := show(rest, task_id))["percent"] > seen[0]["percent"] and task))
    assert [task["status"] for task in seen] == ["running"] * 2
    assert all(task["seconds_done"] == pytest.approx(task["progress"] * LONG_SECONDS, rel=0.05) for task in seen)
    (encoder,) = encoders(server)
    encoder.suspend()  # so that it can't end meanwhile
    recorded(server, rest, speech(1).tobytes())
    assert show(rest, task_id)["status"] == "running"
    encoder.resume()

    revoked = rest.http.delete(f"/api/tasks/{task_id}")
    assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
    eventually(lambda: not encoders(server))
    folder = next((server.folder / "audio" / "sessions").glob(f"*/{long_session_id}"))
    eventually(lambda: {path.suffix for path in (folder / "derived").iterdir()} <= {".peaks"})
    assert rest.http.delete(f"/api/tasks/{task_id}").status_code == 200
    assert show(rest, task_id)["result"] is None

    anew = audio(rest, long_session_id, "opus")
    assert anew.status_code == 202
    assert anew.json()["task_id"] != task_id
    rest.http.delete(f"/api/tasks/{anew.json()['task_id']}")


def test_a_killed_job_worker_is_replaced_by_one_that_begins_anew(server, rest, long_session_id):
    task_id = post(rest, task="transcode", session_id=long_session_id, format="mp3").json()["task_id"]
    running: list[psutil.Process] = eventually(lambda: encoders(server))
    server.child("jobs").kill()
    eventually(lambda: not any(is_running(process) for process in running))
    task = ended(rest, task_id)
    assert (task["status"], round(task["seconds_done"])) == ("completed", LONG_SECONDS)
    (made,) = (server.folder / "audio" / "sessions").glob(f"*/{long_session_id}/derived/*.mp3")
    assert made.stat().st_size == task["result"]["size_bytes"]


def test_deleting_the_session_ends_what_runs(server, rest, long_session_id):
    task_id = post(rest, task="transcode", session_id=long_session_id, format="opus").json()["task_id"]
    running: list[psutil.Process] = eventually(lambda: encoders(server))
    assert rest.http.delete(f"/api/audio/sessions/{long_session_id}").status_code == 204
    eventually(lambda: not any(is_running(process) for process in running))
    assert rest.http.get(f"/api/tasks/{task_id}").json()["code"] == "task_not_found"
    eventually(lambda: not list((server.folder / "audio" / "sessions").glob(f"*/{long_session_id}")))


def test_the_waveform_as_numbers_and_as_a_picture(rest, session_id):
    path = f"/api/audio/sessions/{session_id}/waveform"
    task = ended(rest, post(rest, task="waveform", session_id=session_id).json()["task_id"])
    assert task["result"]["url"].endswith(path)
    shown = rest.http.get(path, params={"points": 100, "start": 1, "end": 3}).json()
    samples = speech(SECONDS)[RATE : 3 * RATE, 0] / 32767
    assert (shown["start_seconds"], shown["end_seconds"], shown["duration_seconds"]) == (1, 3, SECONDS)
    assert len(shown["minimum"]) == len(shown["maximum"]) == 100
    assert min(shown["minimum"]) == pytest.approx(samples.min(), abs=1e-3)
    assert max(shown["maximum"]) == pytest.approx(samples.max(), abs=1e-3)
    picture = rest.http.get(path, params={"format": "svg"}, headers={"Accept": "image/*"})
    assert picture.headers["Content-Type"] == "image/svg+xml"
    assert picture.text.startswith("<svg")


def test_the_waveform_of_a_live_session(server, rest):
    async def live():
        async with recorder(server.ws_url, sample_rate=RATE) as connection:
            await connection.store(speech(1).tobytes())
            path = f"/api/audio/sessions/{connection.session_id}"
            first = await asyncio.to_thread(
                eventually, lambda: (answer := rest.http.get(f"{path}/waveform")).status_code == 200 and answer
            )
            other = await asyncio.to_thread(rest.http.get, f"{path}/audio?format=mp3")
            await connection.close_session()
        return first.json(), other

    shown, other = asyncio.run(live())
    assert shown["duration_seconds"] == 1
    assert (other.status_code, other.json()["code"]) == (409, "recording_not_ready")


def test_a_concatenation_on_request(rest, session_id):
    task = ended(rest, post(rest, task="concatenate", session_id=session_id).json()["task_id"])
    assert task["status"] == "completed"
    assert httpx.get(task["result"]["url"]).status_code == 200
    rejected = rest.http.delete(f"/api/tasks/{task['task_id']}")
    assert (rejected.status_code, rejected.json()["code"]) == (409, "task_ended")


def test_tasks_are_listed_newest_first_by_pages(rest, session_id):
    for audio_format in ("mp3", "flac"):
        fetched(rest, session_id, audio_format)
    post(rest, task="concatenate", session_id=session_id)
    page = rest.http.get("/api/tasks", params={"session_id": session_id, "page_size": 1}).json()
    found = page["results"]
    while page["next"]:
        page = httpx.get(page["next"]).json()
        assert len(page["results"]) == 1
        found += page["results"]
    assert found[0]["task"] == "concatenate"
    assert [task["created_at"] for task in found] == sorted((task["created_at"] for task in found), reverse=True)
    assert len({task["task_id"] for task in found}) == len(found) >= 3
    assert "<html" in rest.http.get("/api/tasks/", headers={"Accept": "text/html"}).text


@pytest.mark.parametrize(
    ("fields", "status", "code", "parameter"),
    [
        ({"task": "erase"}, 400, "invalid_parameter", "task"),
        ({"task": ["transcode"]}, 400, "invalid_parameter", "task"),
        ({"task": "transcode"}, 400, "invalid_parameter", "format"),
        ({"task": "transcode", "format": "webm"}, 400, "invalid_parameter", "format"),
        ({"task": "waveform", "format": "wav"}, 400, "invalid_parameter", "format"),
        ({"task": "waveform", "formt": "wav"}, 400, "invalid_parameter", "formt"),
        ({"task": "waveform", "session_id": "1"}, 400, "invalid_session_id", None),
        ({"task": "waveform", "session_id": str(uuid4())}, 404, "session_not_found", None),
        ({}, 400, "invalid_parameter", "task"),
    ],
)
def test_what_can_not_be_asked_for(rest, session_id, fields, status, code, parameter):
    answer = post(rest, **{"session_id": session_id, **fields})
    assert (answer.status_code, answer.json()["code"], answer.json().get("parameter")) == (status, code, parameter)
    if fields.get("task") == "erase":
        assert answer.json()["valid_values"] == ["concatenate", "transcode", "waveform", "verify"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("task_id", ["123e4567-e89b-42d3-a456-426614174000", "none"])
def test_an_unknown_task(rest, method, task_id):
    answer = rest.http.request(method, f"/api/tasks/{task_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "task_not_found")


@pytest.mark.parametrize(
    "query",
    ["points=0", "points=10001", "points=x", "start=-1", "start=nan", "end=0", "start=2&end=1", "format=png", "zoom=1"],
)
def test_a_waveform_that_can_not_be_asked_for(rest, session_id, query):
    answer = rest.http.get(f"/api/audio/sessions/{session_id}/waveform?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
