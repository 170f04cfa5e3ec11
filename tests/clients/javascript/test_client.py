"""The HTTP API through the client, in Node."""

import base64
import json
import re

import pytest

from tests.client import Rest
from tests.clients.gate import gate
from tests.clients.javascript.node import finish, run, start
from tests.server import eventually
from tests.sound import samples_of, speech

RECORD = """
const client = new Client({ server: given.server });
const sound = Buffer.from(given.sound ?? "", "base64");
const parameters = { sample_rate: 16000, channels: 1, encoding: "s16le", format: "wav" };
const recorded = (more = {}) =>
  upload(new Blob([sound]), { server: given.server, parameters: { ...parameters, ...more }, chunkSizeBytes: 16000 });
"""


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


def encoded(sound):
    return base64.b64encode(sound.tobytes()).decode()


def test_sessions_are_created_changed_listed_closed_and_deleted(server):
    module = (
        RECORD
        + """
    const metadata = { room: given.room };
    const ids = [];
    for (let n = 0; n < 5; n += 1)
      ids.push((await client.sessions.create({ name: `Talk ${n}`, metadata })).session_id);
    const listed = [];
    for await (const session of client.sessions.list({ metadata, page_size: 2 })) listed.push(session.session_id);
    const { results, next } = await client.sessions.page({ metadata, page_size: 2 });
    const second = await client.sessions.page({ metadata, page_size: 2, cursor: next });
    const changed = await client.sessions.update(ids[0], { name: "Other", metadata: { room: null, floor: "2" } });
    const closed = await client.sessions.close(ids[1]);
    await client.sessions.delete(ids[1]);
    const gone = await client.sessions.get(ids[1]).catch(({ code, status }) => [code, status]);
    says({
      ids, listed, gone, name: changed.name, metadata: changed.metadata, closed: closed.status,
      pages: [...results, ...second.results].map(({ session_id }) => session_id),
    });
    """
    )
    (said,) = run(module, server=server.url, room="list")
    assert said["listed"] == said["ids"][::-1]
    assert said["pages"] == said["listed"][:4]
    assert (said["name"], said["metadata"], said["closed"]) == ("Other", {"floor": "2"}, "completed")
    assert said["gone"] == ["session_not_found", 404]


def test_a_transcode_and_a_waveform_are_waited_for(server, rest):
    sound = speech(20)
    module = (
        RECORD
        + """
    const { session_id: id } = await recorded();
    const progress = [];
    const url = await client.prepare(id, "flac", { onProgress: (part) => progress.push(part) });
    const { minimum, maximum, duration_seconds } = await client.waveform(id, { points: 50 });
    const bad = await client.prepare(id, "wma").catch(({ code, details }) => [code, details.valid_values]);
    says({ id, url, progress, points: [minimum.length, maximum.length], duration_seconds, bad });
    """
    )
    (said,) = run(module, server=server.url, sound=encoded(sound))
    assert said["url"] == f"{server.url}/api/audio/sessions/{said['id']}/audio?format=flac"
    assert rest.http.get(said["url"]).headers["content-type"] == "audio/flac"
    assert all(0 <= part <= 1 for part in said["progress"])
    assert (said["points"], said["duration_seconds"]) == ([50, 50], 20)
    assert said["bad"][0] == "invalid_parameter" and "mp3" in said["bad"][1]
    assert samples_of(rest.download(said["id"])) == sound.tobytes()


def test_markers(server):
    module = (
        RECORD
        + """
    const { session_id: id } = await recorded();
    const marker = await client.markers.add(id, { label: "One", position_seconds: 0.5 });
    await client.markers.add(id, { label: "Two", position_seconds: 1 });
    await client.markers.update(id, marker.marker_id, { label: "First" });
    const labels = [];
    for await (const { label } of client.markers.list(id)) labels.push(label);
    await client.markers.delete(id, marker.marker_id);
    for await (const { label } of client.markers.list(id)) labels.push(label);
    says({ labels });
    """
    )
    assert run(module, server=server.url, sound=encoded(speech(2))) == [{"labels": ["First", "Two", "Two"]}]


def test_events_are_heard_again_after_the_network_was_away(server, rest):
    """What happened meanwhile is told too, and nothing twice."""
    module = """
    const client = new Client({ server: given.server });
    const stop = new AbortController();
    for await (const event of client.events({ signal: stop.signal })) {
      if (event.type === "session.opened") says(event.data.session_id);
      if (event.type === "session.deleted") stop.abort();
    }
    """

    def create():
        return rest.http.post("/api/audio/sessions", json={}).json()["session_id"]

    with gate(server.url) as network:
        process = start(module, server=network.url)
        eventually(lambda: re.search(r"event_listeners(\{.*\})? 1", rest.http.get("/metrics").text))
        first = create()
        assert json.loads(process.stdout.readline()) == first
        network.close()
        missed = [create(), create()]
        network.open()
        rest.http.delete(f"/api/audio/sessions/{first}")
        assert finish(process) == missed


def test_a_server_must_be_named_outside_of_a_browser():
    module = "try { new Client(); } catch ({ code }) { says(code); }"
    assert run(module) == ["invalid_parameter"]


def test_a_server_that_is_away_is_an_error_with_a_code():
    module = """
    const client = new Client({ server: "http://127.0.0.1:1" });
    says(await client.sessions.get("x").catch(({ code, retryable }) => [code, retryable]));
    """
    assert run(module) == [["network_error", True]]
