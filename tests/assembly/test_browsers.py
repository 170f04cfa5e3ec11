"""What Chromium really recorded, through a real server: slices as they come, a reconnect, a missing first slice."""

from pathlib import Path

import numpy as np
import pytest

from tests.client import Rest, recorder
from tests.containers import VECTORS, duration_seconds, has_index, hashes, recorders_of, timeline_seconds, vector
from tests.sound import decoded


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server(DISCONNECT_GRACE_SECONDS="600")


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


# Each vector: the session's rate, and the seconds that each of its MediaRecorders recorded.
RECORDED = {
    "webm-opus": (48000, [3.0]),
    "webm-opus-100ms": (48000, [2.0]),
    "webm-opus-mono": (48000, [1.45]),
    "webm-opus-paused": (48000, [1.55]),
    "webm-opus-reconnect": (48000, [1.2, 1.2]),
    "webm-opus-whole": (48000, [1.5]),
    "webm-pcm": (44100, [0.5]),
    "mp4-opus": (48000, [4.1]),
    "mp4-opus-reconnect": (48000, [1.15, 1.1]),
}


def parameters_of(kind):
    channels = 1 if kind.endswith("mono") else 2
    return {"format": kind.split("-")[0], "sample_rate": RECORDED[kind][0], "channels": channels}


def sources_of(folder: Path, *kinds: str) -> list[Path]:
    """What each MediaRecorder of these vectors recorded, as a file of its own."""
    paths = []
    for kind in kinds:
        for messages in recorders_of(kind):
            paths.append(folder / f"source-{len(paths)}.{kind.split('-')[0]}")
            paths[-1].write_bytes(b"".join(messages))
    return paths


def mixed(path: Path, channels: int) -> np.ndarray:
    """What a file sounds like on one loudspeaker, at 48 kHz."""
    return np.frombuffer(decoded(path, rate=48000), "<i2").reshape(-1, channels).mean(axis=1)


def test_the_table_has_every_vector():
    assert {path.name for path in VECTORS.iterdir() if path.is_dir()} == set(RECORDED)


@pytest.mark.parametrize("kind", RECORDED)
async def test_each_media_recorder_on_a_connection_of_its_own(server, rest, tmp_path, kind):
    parameters, stored, session_id = parameters_of(kind) | {"source": "microphone"}, 0, None
    for messages in recorders_of(kind):
        async with recorder(server.ws_url, session_id, **parameters) as client:
            counts = [stored := stored + bool(message) for message in messages]
            assert await client.store(*messages) == counts
            session_id = client.session_id
    rest.http.post(f"/api/audio/sessions/{session_id}/close")
    path = tmp_path / f"recording.{parameters['format']}"
    path.write_bytes(rest.download(session_id))
    assert hashes(path) == hashes(*sources_of(tmp_path, kind))
    assert has_index(path)
    # Chrome says 21 ms of the last packet in MP4, which has 60; followed by another recorder's it is heard as a whole.
    seconds = sum(RECORDED[kind][1]) + (0.039 if kind == "mp4-opus-reconnect" else 0.0)
    assert rest.session(session_id)["recording"]["duration_seconds"] == pytest.approx(seconds, abs=0.05)
    assert duration_seconds(path) == pytest.approx(seconds, abs=0.05)
    assert timeline_seconds(path) == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize("kind", ["webm-opus", "mp4-opus", "webm-pcm"])
async def test_two_recorders_in_one_session(server, rest, tmp_path, kind):
    audio_format, messages = kind.split("-")[0], vector(kind)
    parameters = parameters_of(kind) | {"source": "microphone"}
    stored = sum(1 for message in messages if message)
    async with recorder(server.ws_url, **parameters) as client:
        assert (await client.store(*messages))[-1] == stored
        session_id = client.session_id
    async with recorder(server.ws_url, session_id, source="microphone") as client:
        assert client.greeting["source_chunk_count"] == stored
        assert (await client.store(*messages))[-1] == 2 * stored
        await client.close_session()
    path, source = tmp_path / f"recording.{audio_format}", tmp_path / f"source.{audio_format}"
    path.write_bytes(rest.download(session_id))
    source.write_bytes(b"".join(messages))
    assert hashes(path) == 2 * hashes(source)
    assert has_index(path)
    told = rest.session(session_id)["recording"]["duration_seconds"]
    assert told == pytest.approx(duration_seconds(path), abs=0.03)


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [(["webm-opus-mono", "webm-opus"], 2), (["webm-opus", "webm-opus-mono"], 1), (["webm-opus-100ms", "webm-pcm"], 2)],
)
async def test_recorders_that_differ_are_decoded_and_encoded_once(server, rest, tmp_path, kinds, channels):
    async with recorder(server.ws_url, format="webm", sample_rate=48000, channels=channels) as client:
        for kind in kinds:
            await client.store(*vector(kind))
        await client.close_session()
    path = tmp_path / "recording.webm"
    path.write_bytes(rest.download(client.session_id))
    heard = mixed(path, channels)
    sources = sources_of(tmp_path, *kinds)
    apart = np.concatenate(
        [mixed(source, 1 if "mono" in kind else 2) for source, kind in zip(sources, kinds, strict=True)]
    )
    assert len(heard) == pytest.approx(len(apart), abs=48)
    assert duration_seconds(path) == pytest.approx(len(apart) / 48000, abs=0.03)
    length = min(len(heard), len(apart))
    assert np.corrcoef(heard[:length], apart[:length])[0, 1] > 0.95


@pytest.mark.parametrize("kind", [kind for kind in RECORDED if len(vector(kind)) > 1])
async def test_without_the_first_slice_nothing_is_acknowledged(server, rest, kind):
    messages = recorders_of(kind)[0]
    async with recorder(server.ws_url, **parameters_of(kind)) as client:
        late = [message for message in messages[1:] if message]
        await client.send(*late)
        answers = await client.answers(len(late))
        assert {answer["code"] for answer in answers} == {"missing_header"}
        assert rest.session(client.session_id)["total_chunks"] == 0
        # The client that begins again, with the header, is heard.
        assert await client.store(*messages[:2]) == [1, 2]
