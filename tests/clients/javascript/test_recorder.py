"""The recorder in Node, against a server: what is sent is recorded once, whatever happens to the network."""

import asyncio
import base64

import pytest

from tests.client import Rest
from tests.clients.gate import gate
from tests.clients.javascript.node import finish, run, start
from tests.docs.proxy import cutting_proxy
from tests.server import eventually, free_port
from tests.sound import samples_of, speech

SAMPLE_RATE_HZ = 16000
CHUNK_BYTES = 3200
# Send `given.sound` in chunks at a pace, and say what the session is like at the end.
SEND = """
const sound = Buffer.from(given.sound, "base64");
const parameters = { sample_rate: 16000, channels: 1, encoding: "s16le", format: "wav", ...given.parameters };
const recorder = new Recorder({ server: given.server, parameters, ...given.options });
recorder.addEventListener("warning", ({ detail }) => says({ warning: detail.code }));
recorder.addEventListener("error", ({ detail }) => says({ error: detail.code }));
recorder.addEventListener("state", ({ detail }) => says({ state: detail.state }));
const feed = async (from = 0, to = sound.length) => {
  for (let at = from; at < to; at += 3200) {
    await recorder.send(sound.subarray(at, Math.min(to, at + 3200)));
    await sleep(given.pace ?? 0.01);
  }
};
"""
WHOLE = SEND + "await feed(); says({ session: await recorder.close(), sessions: recorder.sessionIds });"


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


def encoded(sound):
    return base64.b64encode(sound.tobytes()).decode()


def sessions(rest):
    return rest.http.get("/api/audio/sessions").json()["results"]


def states(said):
    return [each["state"] for each in said if "state" in each]


def session_of(said):
    (session,) = [each["session"] for each in said if "session" in each]
    return session


def recorded(rest, session):
    return samples_of(rest.download(session["session_id"]))


def test_what_is_sent_is_recorded(server, rest):
    sound = speech(3)
    said = run(WHOLE, server=server.url, sound=encoded(sound), parameters={"name": "Talk", "metadata": {"room": "4"}})
    session = session_of(said)
    assert recorded(rest, session) == sound.tobytes()
    assert (session["name"], session["metadata"]) == ("Talk", {"room": "4"})
    assert session["recording"]["state"] == "ready"
    assert states(said) == ["recording", "closing", "completed"]


@pytest.mark.parametrize("cuts", [[20_000, 0, 1, 30_000], [700, 5000]])
async def test_a_network_that_breaks_loses_and_repeats_nothing(server, rest, cuts):
    sound = speech(4)
    async with cutting_proxy(server.url, cuts) as proxy:
        said = await asyncio.to_thread(run, WHOLE, server=f"http://{proxy.address}", sound=encoded(sound))
        assert proxy.connections > len(cuts)
    session = session_of(said)
    assert recorded(rest, session) == sound.tobytes()
    assert session["total_chunks"] == len(sound.tobytes()) // CHUNK_BYTES
    assert states(said)[:2] in (["recording", "offline"], ["offline", "recording"])


def test_it_outlives_the_server(make_server):
    server = make_server(PORT=str(free_port()))
    server.start()
    rest = Rest(server.url)
    sound = speech(6)
    process = start(WHOLE, server=server.url, sound=encoded(sound), pace=0.05)
    eventually(lambda: any(each["total_chunks"] > 5 for each in sessions(rest)))
    server.kill_all()
    server.restart()
    session = session_of(finish(process))
    assert recorded(rest, session) == sound.tobytes()


def test_a_session_that_was_closed_during_an_outage_is_continued_in_a_new_one(run_server):
    """Waiting chunks begin the new session. Chunks that were stored without an acknowledgement are not in both."""
    server = run_server(DISCONNECT_GRACE_SECONDS="0.5")
    rest = Rest(server.url)
    sound = speech(8)
    with gate(server.url) as network:
        process = start(WHOLE, server=network.url, sound=encoded(sound), pace=0.05)
        first = eventually(lambda: next((each for each in sessions(rest) if each["total_chunks"] > 5), None))
        network.lose_answers()
        eventually(lambda: rest.session(first["session_id"])["total_chunks"] > first["total_chunks"] + 3)
        network.close()
        rest.finished(first["session_id"])
        network.open()
        said = finish(process)
    assert {"warning": "session_continued"} in said
    first_id, second_id = next(each["sessions"] for each in said if "sessions" in each)
    assert first_id == first["session_id"]
    assert samples_of(rest.download(first_id)) + samples_of(rest.download(second_id)) == sound.tobytes()
    assert rest.session(second_id)["metadata"] == {"continues": first_id}


def test_a_connection_that_died_silently_is_noticed(server, rest):
    sound = speech(40)
    with gate(server.url) as network:
        process = start(WHOLE, server=network.url, sound=encoded(sound), pace=0.05, parameters={"name": "Silent"})
        eventually(lambda: any(each["name"] == "Silent" and each["total_chunks"] > 5 for each in sessions(rest)))
        network.silence()
        lines = iter(process.stdout.readline, "")
        assert any("offline" in line for line in lines)
        network.open()
        session = session_of(finish(process))
    assert recorded(rest, session) == sound.tobytes()


def test_a_session_of_the_application_is_not_left(server, rest):
    session_id = rest.http.post("/api/audio/sessions", json={}).json()["session_id"]
    rest.http.post(f"/api/audio/sessions/{session_id}/close")
    module = SEND + "await feed(0, 3200); await recorder.close().catch((error) => says({ code: error.code }));"
    said = run(module, server=server.url, sound=encoded(speech(1)), options={"sessionId": session_id})
    assert {"code": "session_closed"} in said
    assert states(said)[-1] == "failed"


def test_markers_and_pauses_are_in_their_place(server, rest):
    sound = speech(3)
    module = (
        SEND
        + """
    await feed(0, 32000);
    await recorder.marker("Question 1");
    recorder.pause();
    while (recorder.pendingChunks) await sleep(0.01);
    says({ state: recorder.state });
    while ((await recorder.client.sessions.get(recorder.sessionId)).status !== "paused") await sleep(0.02);
    recorder.resume();
    await feed(32000);
    const session = await recorder.close();
    const markers = [];
    for await (const marker of recorder.client.markers.list(session.session_id)) markers.push(marker);
    says({ session, markers });
    """
    )
    said = run(module, server=server.url, sound=encoded(sound))
    assert recorded(rest, session_of(said)) == sound.tobytes()
    (marker,) = said[-1]["markers"]
    assert (marker["label"], marker["sequence"], marker["position_seconds"]) == ("Question 1", 10, 1.0)
    assert "paused" in states(said)


def test_a_pause_by_somebody_else_is_told_and_can_be_ended(server, rest):
    sound = speech(2)
    module = (
        SEND
        + """
    await feed(0, 16000);
    await recorder.flush();
    const other = new Recorder({ server: given.server, sessionId: recorder.sessionId });
    while (!other.isConnected) await sleep(0.01);
    other.pause();
    while ((await recorder.client.sessions.get(recorder.sessionId)).status !== "paused") await sleep(0.02);
    other.abort();
    await feed(16000, 32000);
    while (recorder.state !== "paused") await sleep(0.01);
    recorder.resume();
    await feed(32000);
    says({ session: await recorder.close() });
    """
    )
    said = run(module, server=server.url, sound=encoded(sound))
    assert {"warning": "session_paused"} in said
    assert recorded(rest, session_of(said)) == sound.tobytes()


def test_a_bad_marker_is_a_warning(server, rest):
    sound = speech(1)
    module = (
        SEND
        + "await feed(0, 6400); await recorder.marker(''); await feed(6400); says({session: await recorder.close()});"
    )
    said = run(module, server=server.url, sound=encoded(sound))
    assert {"warning": "invalid_marker"} in said
    assert recorded(rest, session_of(said)) == sound.tobytes()


def test_content_that_the_server_rejects_ends_it_with_the_reason(server):
    said = run(
        SEND + "await recorder.send(new TextEncoder().encode('fLaC' + 'x'.repeat(60000)));"
        "await recorder.close().catch((error) => says({ code: error.code }));",
        server=server.url,
        sound="",
        parameters={"format": "mp3", "encoding": None, "sample_rate": None},
    )
    assert said[-1] == {"code": "format_mismatch"}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"sessionId": "123e4567-e89b-42d3-a456-426614174000"}, "session_not_found"),
        ({"source": "x" * 300}, "invalid_parameter"),
    ],
)
def test_a_connection_that_the_server_rejects_ends_it_with_the_reason(server, options, code):
    module = SEND + "await recorder.close().catch((error) => says({ code: error.code }));"
    said = run(module, server=server.url, sound="", options=options)
    assert said[-1] == {"code": code}


def test_a_server_that_cannot_be_reached_is_told_and_waited_for(make_server):
    port = free_port()
    process = start(WHOLE, server=f"http://127.0.0.1:{port}", sound=encoded(speech(1)))
    lines = iter(process.stdout.readline, "")
    assert any("unreachable" in line for line in lines)
    server = make_server(PORT=str(port))
    server.start()
    assert session_of(finish(process))["total_chunks"] == 10


def test_a_token_is_asked_for_at_each_connection(run_server):
    server = run_server(REQUIRE_AUTH="true")
    key = server.manage("apikey", "create", "app", "--scope", "record", "--scope", "read").strip()
    module = (
        "let asked = 0; const tokens = ['wrong', given.key, given.key];\n"
        "given.options = { token: () => tokens[Math.min(asked++, 2)] };\n" + WHOLE + "says({ asked });"
    )
    said = run(module, server=server.url, sound=encoded(speech(1)), key=key)
    assert session_of(said)["total_chunks"] == 10
    said = run(
        "given.options = { token: 'wrong' };" + SEND + "await recorder.close().catch(({ code }) => says({ code }));",
        server=server.url,
        sound="",
    )
    assert said[-1] == {"code": "not_authenticated"}


def test_a_file_is_streamed_and_told_how_far_it_is(server, rest):
    sound = speech(20)
    module = """
    const progress = [];
    const file = new File([Buffer.from(given.sound, "base64")], "talk.pcm");
    const options = { server: given.server, chunkSizeBytes: 50000, onProgress: (part) => progress.push(part) };
    const parameters = { sample_rate: 16000, channels: 1, encoding: "s16le" };
    says({ session: await upload(file, { ...options, parameters }), progress });
    """
    (said,) = run(module, server=server.url, sound=encoded(sound))
    assert recorded(rest, said["session"]) == sound.tobytes()
    assert said["session"]["name"] == "talk.pcm"
    assert said["progress"] == sorted(said["progress"]) and said["progress"][-1] == 1
    assert len(set(said["progress"])) > 3


def test_what_is_in_flight_is_bounded(server, rest):
    """A browser would otherwise copy hours of sound into its socket."""
    module = """
    const buffered = [];
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (data) { send.call(this, data); buffered.push(this.bufferedAmount); };
    const file = new Blob([new Uint8Array(20_000_000)]);
    const parameters = { sample_rate: 48000, channels: 1, encoding: "s16le" };
    const session = await upload(file, { server: given.server, parameters });
    says({ bytes: session.byte_count, most: Math.max(...buffered) });
    """
    (said,) = run(module, server=server.url)
    assert said["bytes"] == 20_000_000
    assert said["most"] <= 1024 * 1024 + 65536
