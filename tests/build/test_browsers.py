"""What Chromium really recorded, through a real server: slices as they come, a reconnect, a missing first slice."""

import sys

import pytest

from tests.client import Rest, recorder
from tests.containers import duration_seconds, has_index, hashes, vector
from tests.server import Server
from tests.sound import encoded_live, speech


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("browsers") / "data", DISCONNECT_GRACE_SECONDS="600") as running:
        yield running
        sys.stdout.write(running.read_log())


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


def slices(kind: str) -> list[bytes]:
    if kind != "webm-pcm":
        return vector(kind)
    source = encoded_live(speech(1, 48000, 2), 48000, "matroska", "-c:a", "pcm_f32le", "-live", "1")
    return [source[at : at + 50000] for at in range(0, len(source), 50000)]


@pytest.mark.parametrize("kind", ["webm-opus", "mp4-opus", "webm-pcm"])
async def test_two_recorders_in_one_session(server, rest, tmp_path, kind):
    audio_format, messages = kind.split("-")[0], slices(kind)
    parameters = {"format": audio_format, "sample_rate": 48000, "channels": 2, "source": "microphone"}
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


@pytest.mark.parametrize("kind", ["webm-opus", "mp4-opus"])
async def test_without_the_first_slice_nothing_is_acknowledged(server, rest, kind):
    audio_format, messages = kind.split("-")[0], slices(kind)
    parameters = {"format": audio_format, "sample_rate": 48000, "channels": 2}
    async with recorder(server.ws_url, **parameters) as client:
        late = [message for message in messages[1:] if message]
        await client.send(*late)
        answers = await client.answers(len(late))
        assert {answer["code"] for answer in answers} == {"missing_header"}
        assert rest.session(client.session_id)["total_chunks"] == 0
        # The client that begins again, with the header, is heard.
        assert await client.store(*messages[:2]) == [1, 2]
