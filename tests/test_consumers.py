"""The contract with WebSocket clients, against a real server."""

import asyncio
import contextlib
import itertools
import json
import uuid
from typing import Any

import httpx
import pytest
import redis
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from audio import events
from tests.client import Rest, recorder
from tests.server import Server, eventually
from tests.sound import cut, encoded, speech, wav_bytes

LIMIT_BYTES = 65536


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server(MAX_MESSAGE_SIZE_BYTES=str(LIMIT_BYTES), DISCONNECT_GRACE_SECONDS="600")


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.url)


async def test_a_session_from_the_greeting_to_1000(server, rest):
    async with recorder(server.ws_url) as client:
        greeting = client.greeting
        assert list(greeting)[:4] == ["message", "session_id", "chunk_count", "status"]
        assert greeting["message"] == "Audio session created"
        assert (greeting["chunk_count"], greeting["byte_count"], greeting["status"]) == (0, 0, "active")
        assert (greeting["sample_rate"], greeting["channels"], greeting["format"]) == (44100, 1, "wav")
        assert greeting["undecided"] == ["format", "sample_rate", "channels"]
        assert greeting["max_message_size_bytes"] == LIMIT_BYTES
        assert greeting["connection_timeout_seconds"] == 300
        assert await client.store(b"\1\0" * 100) == [1]
        assert await client.store(b"\2\0" * 100, b"\3\0" * 100) == [2, 3]
        answer = await client.close_session()
        assert (answer["message"], answer["status"]) == ("Session closed successfully", "completed")
    detail = rest.session(client.session_id)
    assert (detail["status"], detail["total_chunks"], detail["byte_count"]) == ("completed", 3, 600)


async def test_a_new_session_gets_the_name_and_metadata_of_the_query(server, rest):
    query: dict[str, Any] = {"name": "Interview 1", "metadata.room": "4", "metadata.note": "a=b&c"}
    async with recorder(server.ws_url, **query) as client:
        assert await client.store(b"\1\0" * 100) == [1]
    detail = rest.session(client.session_id)
    assert (detail["name"], detail["metadata"]) == ("Interview 1", {"room": "4", "note": "a=b&c"})
    answer = rest.http.patch(f"/api/audio/sessions/{client.session_id}", json={"name": "Interview 2"})
    assert answer.json()["name"] == "Interview 2"
    # A client reconnects with the address that it has, or without what it has said before.
    for again in (query, {}):
        async with recorder(server.ws_url, client.session_id, **again) as client:
            assert client.greeting["message"] == "Audio session resumed"
    assert rest.session(client.session_id)["name"] == "Interview 2"


async def test_wrong_metadata_in_the_query(server):
    query: dict[str, Any] = {f"metadata.{number}": "" for number in range(51)}
    async with recorder(server.ws_url, **query) as client:
        assert (client.greeting["code"], client.greeting["limit"]) == ("invalid_parameter", 50)
        assert await client.close_code() == 1008


async def test_a_marker_is_behind_what_was_sent_before_it(server, rest):
    query: dict[str, Any] = {"sample_rate": 16000, "channels": 1, "format": "wav"}
    async with recorder(server.ws_url, **query) as client:
        # Nobody waits for an answer.
        await client.send(bytes(32000), bytes(16000))
        await client.socket.send(json.dumps({"type": "marker", "label": "Frage 1"}))
        await client.send(bytes(8000))
        answers = await client.answers(4)
        assert [answer["message"] for answer in answers] == [
            *["Chunk processed successfully"] * 2, "Marker stored", "Chunk processed successfully",
        ]  # fmt: skip
        marked = answers[2]
        assert list(marked) == ["message", "session_id", "chunk_count", "status", "marker_id", "sequence"]
        assert (marked["chunk_count"], marked["sequence"]) == (2, 2)
        await client.close_session()
    rest.finished(client.session_id)
    (marker,) = rest.http.get(f"/api/audio/sessions/{client.session_id}/markers").json()["results"]
    assert (marker["marker_id"], marker["label"], marker["sequence"]) == (marked["marker_id"], "Frage 1", 2)
    assert marker["position_seconds"] == 1.5


@pytest.mark.parametrize("label", [None, "", 7, ["a"], "a\nb", "x" * 256])
async def test_a_marker_without_a_proper_label(server, label):
    async with recorder(server.ws_url) as client:
        await client.socket.send(json.dumps({"type": "marker", "label": label}))
        answer = await client.answer()
        assert (answer["code"], answer["limit"]) == ("invalid_marker", 255)
        assert await client.store(b"ab") == [1]


async def test_a_marker_while_the_session_is_paused(server):
    async with recorder(server.ws_url) as client:
        assert await client.store(b"ab") == [1]
        await client.control("pause")
        await client.socket.send(json.dumps({"type": "marker", "label": "break"}))
        answer = await client.answer()
        assert (answer["message"], answer["sequence"], answer["status"]) == ("Marker stored", 1, "paused")


async def test_every_message_is_answered_in_order(server):
    async with recorder(server.ws_url) as client:
        await client.send(b"ab")
        await client.socket.send("{nonsense")
        await client.send(b"", b"cd")
        await client.socket.send('{"type": "who"}')
        await client.socket.send('{"type": "control", "action": "ping"}')
        answers = await client.answers(6)
        assert [a.get("code") or a["message"] for a in answers] == [
            "Chunk processed successfully",
            "invalid_json",
            "Chunk processed successfully",
            "Chunk processed successfully",
            "unknown_message_type",
            "pong",
        ]
        assert [a["chunk_count"] for a in answers] == [1, 1, 1, 2, 2, 2]


async def test_a_client_that_reads_nothing_until_it_has_sent_a_minute(server):
    async with recorder(server.ws_url) as client:
        for _ in range(3000):
            await client.send(b"\1\2" * 320)
        assert [a["chunk_count"] for a in await client.answers(3000)] == list(range(1, 3001))


async def test_a_client_that_never_waits_for_an_acknowledgement(server, rest):
    async with recorder(server.ws_url) as client:
        await client.send(*[b"\1\2" * 320] * 500)
        await client.socket.send('{"type": "control", "action": "close_session"}')
        assert await client.close_code() == 1000
    assert rest.session(client.session_id)["total_chunks"] == 500


async def test_pausing_rejects_chunks_until_it_resumes(server, rest):
    async with recorder(server.ws_url) as client:
        await client.send(b"ab")
        await client.socket.send('{"type": "control", "action": "pause"}')
        await client.send(b"cd")
        await client.socket.send('{"type": "control", "action": "resume"}')
        await client.send(b"ef")
        stored, paused, rejected, resumed, again = await client.answers(5)
        assert (stored["chunk_count"], paused["status"], rejected["code"]) == (1, "paused", "session_paused")
        assert (resumed["status"], again["chunk_count"]) == ("active", 2)
    assert rest.session(client.session_id)["byte_count"] == 4


@pytest.mark.parametrize(
    ("query", "code", "key"),
    [
        ({"sample_rate": 12345}, "invalid_parameter", "valid_values"),
        ({"format": "opus"}, "invalid_parameter", "valid_values"),
        ({"nonsense": 1}, "invalid_parameter", "valid_values"),
        ({"user_id": "x" * 300}, "invalid_parameter", "limit"),
    ],
)
async def test_wrong_parameters_get_an_error_that_says_what_is_right_then_1008(server, query, code, key):
    async with recorder(server.ws_url, **query) as client:
        assert client.greeting["code"] == code
        assert client.greeting["error"]
        assert client.greeting["retryable"] is False
        assert client.greeting[key]
        assert await client.close_code() == 1008


async def test_an_unknown_session_is_rejected(server):
    async with recorder(server.ws_url, str(uuid.uuid4())) as client:
        assert client.greeting["code"] == "session_not_found"
        assert await client.close_code() == 1008
    async with recorder(server.ws_url, "not-a-uuid") as client:
        assert client.greeting["code"] == "invalid_session_id"
        assert await client.close_code() == 1008


async def test_a_closed_session_is_rejected(server):
    async with recorder(server.ws_url) as client:
        await client.close_session()
    async with recorder(server.ws_url, client.session_id) as late:
        assert (late.greeting["code"], late.greeting["status"]) == ("session_closed", "completed")
        assert "source_chunk_count" not in late.greeting
        assert await late.close_code() == 1008


async def test_the_rejection_of_a_closed_session_counts_the_chunks_of_the_source(server):
    """A client may have missed the last acknowledgements, and must not send their chunks to another session."""
    async with recorder(server.ws_url, format="wav", source="one") as client:
        await client.store(b"\1\0", b"\2\0")
        async with recorder(server.ws_url, client.session_id, source="two") as other:
            await other.store(b"\3\0")
        await client.close_session()
    for source, count in (("one", 2), ("two", 1), ("three", 0)):
        async with recorder(server.ws_url, client.session_id, source=source) as late:
            assert (late.greeting["code"], late.greeting["source_chunk_count"]) == ("session_closed", count)


async def test_other_parameters_than_the_session_s_are_rejected(server):
    async with recorder(server.ws_url, sample_rate=8000) as client:
        async with recorder(server.ws_url, client.session_id, sample_rate=44100) as other:
            assert (other.greeting["code"], other.greeting["valid_values"]) == ("parameter_conflict", [8000])
            assert await other.close_code() == 1008
        async with recorder(server.ws_url, client.session_id, sample_rate=8000) as same:
            assert same.greeting["message"] == "Audio session resumed"


async def test_the_label_of_another_user_is_rejected(server):
    async with (
        recorder(server.ws_url, user_id="one") as client,
        recorder(server.ws_url, client.session_id, user_id="two") as other,
    ):
        assert (other.greeting["code"], other.greeting["parameter"]) == ("parameter_conflict", "user_id")
        assert await other.close_code() == 1008


async def test_another_path_is_rejected_at_the_handshake(server):
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"{server.ws_url}/api/ws/video")
    assert caught.value.response.status_code == 403


async def test_another_host_is_rejected_at_the_handshake(server):
    with pytest.raises(InvalidStatus) as caught:
        await connect(
            f"ws://evil.example:{server.url.rsplit(':', 1)[1]}/api/ws/audio",
            host="127.0.0.1",
        )
    assert caught.value.response.status_code == 403


async def test_pages_of_other_origins_are_rejected_and_programs_are_not(tmp_path):
    with Server(tmp_path / "data", ALLOWED_ORIGINS="https://clinic.example") as strict:
        url = f"{strict.ws_url}/api/ws/audio"
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, origin=Origin("https://evil.example"))
        assert caught.value.response.status_code == 403
        for origin in (Origin("https://clinic.example"), None):
            async with connect(url, origin=origin) as socket:
                assert json.loads(await socket.recv())["message"] == "Audio session created"


@pytest.mark.parametrize("allowed", ["https://scribe.example.org", "*"])
async def test_an_origin_that_is_none_is_rejected_and_logged_once(run_server, allowed):
    server = run_server(ALLOWED_ORIGINS=allowed)
    origins = ["http://[", "https://scribe.example.org:99999", "https://scribe.example.org:abc"]
    for origin in [*origins, *origins]:
        with pytest.raises(InvalidStatus) as rejection:
            await connect(f"{server.ws_url}/api/ws/audio", additional_headers={"Origin": origin})
        assert rejection.value.response.status_code == 403
    log = server.read_log()
    assert "Traceback" not in log
    assert log.count("handshake_rejected") == len(origins)
    assert "ALLOWED_ORIGINS" in log
    found = (await asyncio.to_thread(httpx.get, f"{server.url}/metrics")).text
    assert 'sercuescribe_handshakes_rejected_total{reason="origin"} 6.0' in found


async def test_a_trailing_slash_changes_nothing(server):
    async with connect(f"{server.ws_url}/api/ws/audio/") as socket:
        assert json.loads(await socket.recv())["message"] == "Audio session created"


async def test_a_message_over_the_limit_gets_1009_and_what_was_stored_stays(server, rest):
    async with recorder(server.ws_url) as client:
        assert await client.store(b"x" * LIMIT_BYTES) == [1]
        await client.send(b"x" * (LIMIT_BYTES + 1))
        assert await client.close_code() == 1009
    assert rest.session(client.session_id)["byte_count"] == LIMIT_BYTES


async def test_the_greeting_of_a_second_connection_tells_where_the_session_stands(server):
    async with recorder(server.ws_url, user_id="clinic-7") as first:
        await first.store(b"ab", b"cdef")
    async with recorder(server.ws_url, first.session_id) as second:
        assert second.greeting["message"] == "Audio session resumed"
        assert (second.greeting["chunk_count"], second.greeting["byte_count"]) == (2, 6)
        assert second.greeting["user_id"] == "clinic-7"
        assert await second.store(b"gh") == [3]


async def test_five_may_write_at_once_and_the_sixth_is_rejected(server, rest):
    async with recorder(server.ws_url) as first:
        others = [recorder(server.ws_url, first.session_id) for _ in range(4)]
        clients = [first, *[await other.__aenter__() for other in others]]
        counts = [count for client in clients for count in await client.store(b"ab", b"cd")]
        assert counts == list(range(1, 11))
        assert rest.session(first.session_id)["connections"] == 5
        async with recorder(server.ws_url, first.session_id) as sixth:
            assert (sixth.greeting["code"], sixth.greeting["limit"]) == ("too_many_connections", 5)
            assert await sixth.close_code() == 1008
        await others[0].__aexit__(None, None, None)
        eventually(lambda: rest.session(first.session_id)["connections"] == 4)
        async with recorder(server.ws_url, first.session_id) as again:
            assert await again.store(b"ef") == [11]
        for other in others[1:]:
            await other.__aexit__(None, None, None)


async def test_chunks_of_five_at_once_each_get_a_place_of_their_own(server):
    async def write(client):
        return [count for _ in range(50) for count in await client.store(b"abcd")]

    async with (
        recorder(server.ws_url) as first,
        recorder(server.ws_url, first.session_id) as second,
        recorder(server.ws_url, first.session_id) as third,
    ):
        counts = await asyncio.gather(write(first), write(second), write(third))
    assert all(own == sorted(own) for own in counts)
    assert sorted(itertools.chain(*counts)) == list(range(1, 151))


async def test_a_named_source_is_taken_over_and_goes_on_exactly(server, rest):
    async with recorder(server.ws_url, source="mic") as old:
        assert (old.greeting["source"], old.greeting["source_chunk_count"]) == ("mic", 0)
        await old.store(b"1_", b"2_")
        async with recorder(server.ws_url, old.session_id, source="mic") as new:
            assert new.greeting["source_chunk_count"] == 2
            assert await new.store(b"3_") == [3]
            assert await old.close_code() == 4409
            assert await new.store(b"4_") == [4]
            assert rest.session(old.session_id)["connections"] == 1


async def test_an_older_connection_of_a_source_can_commit_nothing_more(server, rest):
    async with recorder(server.ws_url, source="mic") as old:
        await old.store(b"1_")
        async with recorder(server.ws_url, old.session_id, source="mic") as new:
            codes = []
            with contextlib.suppress(ConnectionClosed):
                await old.send(b"xx")
            with contextlib.suppress(ConnectionClosed):
                while True:
                    codes.append((await old.answer())["code"])
            assert codes in (["superseded"], ["superseded", "superseded"])
            assert old.socket.close_code == 4409
            assert await new.store(b"2_") == [2]
    assert rest.session(old.session_id)["total_chunks"] == 2


async def test_sources_with_other_names_leave_each_other_alone(server):
    async with recorder(server.ws_url, source="left") as left:
        async with recorder(server.ws_url, left.session_id, source="right") as right:
            assert await left.store(b"1_") == [1]
            assert await right.store(b"2_") == [2]
        async with recorder(server.ws_url, left.session_id, source="right") as again:
            assert (again.greeting["chunk_count"], again.greeting["source_chunk_count"]) == (2, 1)


async def test_a_second_producer_of_one_compressed_stream_is_rejected(server):
    async with recorder(server.ws_url, format="mp3") as first, recorder(server.ws_url, first.session_id) as second:
        assert second.greeting["code"] == "one_source_only"
        assert await second.close_code() == 1008
    async with recorder(server.ws_url, format="mp3", chunks="files") as files:
        await _resumes(server, files.session_id)


async def _resumes(server, session_id):
    async with recorder(server.ws_url, session_id) as client:
        assert client.greeting["message"] == "Audio session resumed"


async def test_content_that_contradicts_the_format_is_rejected_and_not_stored(server, rest):
    flac = b"fLaC\0\0\0\x22" + bytes(34)
    async with recorder(server.ws_url, format="wav") as client:
        await client.send(flac)
        answer = await client.answer()
        assert (answer["code"], answer["received"], answer["valid_values"]) == ("format_mismatch", "flac", ["wav"])
        assert "format=flac" in answer["error"]
        await client.send(b"ab")
        assert (await client.answer())["code"] == "format_mismatch"
        assert await client.store(wav_bytes(speech(0.1), 16000)) == [1]
    assert rest.session(client.session_id)["total_chunks"] == 1


@pytest.mark.parametrize("is_pipelined", [False, True])
async def test_nothing_of_a_stream_of_another_format_is_stored(server, rest, tmp_path, is_pipelined):
    webm = cut(encoded(speech(2), 16000, tmp_path / "a.webm"), 1000)
    async with recorder(server.ws_url, format="wav") as client:
        if is_pipelined:
            await client.send(*webm)
            codes = [answer["code"] for answer in await client.answers(len(webm))]
        else:
            codes = [(await client.answered(piece))["code"] for piece in webm]
        assert set(codes) == {"format_mismatch"}
        await client.close_session()
    assert rest.session(client.session_id)["total_chunks"] == 0


@pytest.mark.parametrize("suffix", ["webm", "m4a", "ogg", "flac", "mp3", "aac", "wav"])
async def test_a_session_that_names_nothing_is_what_its_first_bytes_are(server, rest, tmp_path, suffix):
    data = encoded(speech(1, 24000), 24000, tmp_path / f"a.{suffix}", *(("-c:a", "libopus") if suffix == "ogg" else ()))
    async with recorder(server.ws_url) as client:
        assert await client.store(*cut(data, 1, 3, 700)) == list(range(1, 3 + -(-(len(data) - 4) // 700)))
        decided = {"m4a": "mp4"}.get(suffix, suffix)
        assert rest.session(client.session_id)["format"] == decided
        async with recorder(server.ws_url, client.session_id, format="flac" if suffix != "flac" else "wav") as other:
            assert (other.greeting["code"], other.greeting["valid_values"]) == ("parameter_conflict", [decided])
        await client.close_session()


async def test_raw_samples_of_a_session_that_names_nothing_are_wav(server, rest):
    async with recorder(server.ws_url) as client:
        await client.store(b"\1\0" * 1600)
        async with recorder(server.ws_url, client.session_id, format="wav") as other:
            assert other.greeting["message"] == "Audio session resumed"
            assert "format" not in other.greeting["undecided"]
        async with recorder(server.ws_url, client.session_id, format="webm") as other:
            assert other.greeting["code"] == "parameter_conflict"


async def test_first_bytes_over_two_connections_decide_together(server, rest, tmp_path):
    data = encoded(speech(1, 48000), 48000, tmp_path / "a.webm")
    async with recorder(server.ws_url, source="page") as first:
        await first.store(data[:1])
    async with recorder(server.ws_url, first.session_id, source="page") as second:
        assert (second.greeting["source_chunk_count"], second.greeting["undecided"][0]) == (1, "format")
        await second.store(data[1:4000], data[4000:])
    assert rest.session(first.session_id)["format"] == "webm"


async def test_of_two_that_begin_at_once_one_decides(server, rest, tmp_path):
    webm, flac = (encoded(speech(1, 48000), 48000, tmp_path / name) for name in ("a.webm", "a.flac"))
    async with recorder(server.ws_url) as first, recorder(server.ws_url, first.session_id) as second:
        await asyncio.gather(first.send(webm[:4000]), second.send(flac[:4000]))
        answers = [await first.answer(), await second.answer()]
        assert sorted(answer.get("code", "stored") for answer in answers) == ["one_source_only", "stored"]
        decided = "webm" if "code" not in answers[0] else "flac"
    assert rest.session(first.session_id)["format"] == decided


async def test_a_parameter_that_is_undecided_may_be_named_later(server, rest):
    async with recorder(server.ws_url) as first:
        async with recorder(server.ws_url, first.session_id, sample_rate=24000) as second:
            assert (second.greeting["sample_rate"], second.greeting["undecided"]) == (24000, ["format", "channels"])
        async with recorder(server.ws_url, first.session_id, sample_rate=48000) as third:
            assert (third.greeting["code"], third.greeting["valid_values"]) == ("parameter_conflict", [24000])
    assert rest.session(first.session_id)["sample_rate"] == 24000


async def test_a_named_source_whose_content_was_rejected_connects_again(server, rest):
    async with recorder(server.ws_url, source="mic", format="wav") as client:
        await client.store(b"1_")
        await client.send(b"fLaC\0\0\0\x22" + bytes(34), wav_bytes(speech(0.1), 16000), b"2_")
        assert {answer["code"] for answer in await client.answers(3)} == {"format_mismatch"}
    async with recorder(server.ws_url, client.session_id, source="mic") as again:
        assert again.greeting["source_chunk_count"] == 1
        assert await again.store(b"2_") == [2]


async def test_what_a_named_source_sends_behind_a_pause_is_a_prefix(server, rest):
    async with (
        recorder(server.ws_url, source="mic") as mic,
        recorder(server.ws_url, mic.session_id, source="remote control") as control,
    ):
        await mic.store(b"1_")
        await control.control("pause")
        assert (await mic.answered(b"2_"))["code"] == "session_paused"
        await control.control("resume")
        assert (await mic.answered(b"3_"))["code"] == "session_paused"
        assert (await mic.control("close_session"))["code"] == "session_paused"
        await mic.control("resume")
        assert await mic.store(b"2_", b"3_") == [2, 3]
    async with recorder(server.ws_url, mic.session_id, source="mic") as mic:
        assert mic.greeting["source_chunk_count"] == 3
        assert (await mic.close_session())["chunk_count"] == 3


async def test_a_named_source_that_paused_by_itself_may_close(server):
    async with recorder(server.ws_url, source="mic") as mic:
        await mic.control("pause")
        await mic.send(b"1_")
        assert (await mic.answer())["code"] == "session_paused"
        assert (await mic.close_session())["status"] == "completed"


async def test_what_can_not_be_decoded_is_said_to_the_connections_of_its_session(tmp_path):
    with Server(tmp_path / "data", REDIS_URL=django_settings.REDIS_URL) as server:
        async with recorder(server.ws_url) as client, recorder(server.ws_url) as bystander:
            await client.store(b"ab")
            warning = {"code": "undecodable_chunk", "detail": "why", "first_sequence": 1, "last_sequence": 1}
            event = {"type": events.WARNED, "session_id": client.session_id, "warning": warning}
            with redis.Redis.from_url(django_settings.REDIS_URL) as layer:
                await asyncio.to_thread(eventually, lambda: layer.zcard(f"sercuescribe:group:{events.GROUP}"))
            await get_channel_layer().group_send(events.GROUP, event)
            notice = await client.answer()
            assert list(notice)[:4] == ["message", "session_id", "chunk_count", "status"]
            assert notice | warning | {"event": "error"} == notice
            assert "error" not in notice
            assert await client.store(b"cd") == [2]
            assert (await bystander.close_session())["status"] == "completed"


async def test_a_bad_file_is_said_while_the_session_goes_on(server, rest):
    good = wav_bytes(speech(1), 16000)
    adpcm = good[:20] + b"\x02\0" + good[22:]
    async with recorder(server.ws_url, format="wav", chunks="files") as client:
        assert await client.store(good, adpcm, good) == [1, 2, 3]
        notice = await client.answer()
        assert (notice["event"], notice["code"]) == ("error", "unsupported_media")
        assert (notice["first_sequence"], notice["last_sequence"]) == (2, 2)
        assert await client.store(good) == [4]
        await client.close_session()
    recording = rest.finished(client.session_id)["recording"]
    # The others are recorded, and can be downloaded as a part.
    assert (recording["state"], recording["duration_seconds"]) == ("failed", 3.0)
    assert [warning["code"] for warning in recording["warnings"]] == ["unsupported_media"]


async def test_a_stream_without_its_header_is_rejected(server):
    async with recorder(server.ws_url, format="webm") as client:
        await client.send(b"\xa3\x80middle of a cluster")
        assert (await client.answer())["code"] == "missing_header"


async def test_a_close_over_rest_reaches_the_connection(server, rest):
    async with recorder(server.ws_url) as client:
        await client.store(b"ab")
        closed = await asyncio.to_thread(rest.http.post, f"/api/audio/sessions/{client.session_id}/close")
        assert closed.json()["success"] is True
        answer = await client.answer()
        assert (answer["message"], answer["status"]) == ("Session closed successfully", "completed")
        assert await client.close_code() == 1000
    again = rest.http.post(f"/api/audio/sessions/{client.session_id}/close/")
    assert again.status_code == 200


async def test_a_ticket_opens_its_session_once(server, rest):
    created = rest.http.post("/api/audio/sessions", json={"sample_rate": 8000}).json()
    url = created["websocket_url"]
    assert url.startswith(server.ws_url)
    async with connect(url) as socket:
        greeting = json.loads(await socket.recv())
        assert (greeting["session_id"], greeting["sample_rate"]) == (created["session_id"], 8000)
    async with connect(url) as socket:
        assert json.loads(await socket.recv())["code"] == "not_allowed"
    other = rest.http.post("/api/audio/sessions", json={}).json()
    stolen = other["websocket_url"].replace(other["session_id"], created["session_id"])
    async with connect(stolen) as socket:
        assert json.loads(await socket.recv())["code"] == "not_allowed"
