"""Markers are where their chunks end, whatever the windows were, and however the stream says its times."""

import json
import random
import uuid
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from audio import ingest
from audio.assembly.concatenate import concatenate
from audio.assembly.pcm import PcmAssembler
from audio.assembly.rebuild import rebuild
from audio.models import Marker
from tests.sound import encoded_live, speech, wav_bytes

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

VECTORS = Path(__file__).parent.parent / "vectors"
PCM = {"format": "wav", "sample_rate": 16000, "channels": 1, "encoding": "s16le"}


def positions(session_id: uuid.UUID) -> list[float | None]:
    """The positions, in the order in which the markers were added."""
    return list(Marker.objects.filter(session=session_id).values_list("position_seconds", flat=True))


def record(recorded, payloads, is_live=lambda number: False, **parameters) -> uuid.UUID:
    """Records chunks with a marker before each and behind the last one; windows run where `is_live` says so."""
    producer = recorded.open(**parameters)
    for number, payload in enumerate(payloads):
        ingest.add_marker(producer.session_id, f"before {number + 1}", producer=producer)
        recorded.store(producer, payload)
        if is_live(number):
            concatenate(producer.session_id)
    ingest.add_marker(producer.session_id, "end", producer=producer)
    recorded.close(producer)
    return producer.session_id


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_pcm_is_exact_to_the_byte(recorded, every):
    noise = random.Random(1)
    payloads = [noise.randbytes(2 * noise.randrange(100, 3000)) for _ in range(12)]
    session_id = record(recorded, payloads, lambda number: number % every == every - 1, **PCM)
    expected = [size / 2 / 16000 for size in accumulate(map(len, payloads), initial=0)]
    assert positions(session_id) == pytest.approx(expected, abs=1e-9)
    assert positions(session_id)[-1] == pytest.approx(recorded.recording(session_id).duration_seconds)
    sequences = Marker.objects.filter(session=session_id).values_list("after_sequence", flat=True)
    assert list(sequences) == list(range(13))


def test_samples_of_another_rate_are_at_their_time(recorded):
    """A WAV file of 8 kHz in a session of 16 kHz."""
    data = wav_bytes(speech(1.0, rate=8000), 8000)
    session_id = record(recorded, [data[:44], data[44 : 44 + 8000], data[44 + 8000 :]], **PCM)
    assert positions(session_id) == pytest.approx([0.0, 0.0, 0.5, 1.0], abs=0.001)


@pytest.mark.parametrize("audio_format", ["mp3", "aac", "flac"])
def test_a_counted_stream_is_exact_to_the_frame(recorded, audio_format):
    data = encoded_live(speech(6.0), 16000, "adts" if audio_format == "aac" else audio_format)
    payloads = [data[start : start + 4000] for start in range(0, len(data), 4000)]
    live = record(recorded, payloads, lambda number: number % 2 == 0, format=audio_format)
    at_once = record(recorded, payloads, format=audio_format)
    assert positions(live) == positions(at_once)
    _check_even(recorded, live, payloads, 0.35)


def test_a_container_is_exact_to_the_packet(recorded):
    """Slices of a browser of 100 ms each, which are cut inside elements."""
    payloads = [path.read_bytes() for path in sorted((VECTORS / "webm-opus-100ms").glob("*.bin"))]
    session_id = record(recorded, payloads, lambda number: number % 3 == 0, format="webm")
    found = positions(session_id)
    _check_even(recorded, session_id, payloads, 0.13)
    steps = [after - before for before, after in pairwise(found)]
    assert sorted(found) == found
    assert max(steps[1:-1]) <= 0.121


@pytest.mark.parametrize(("audio_format", "folder"), [("mp4", "mp4-opus"), ("webm", "webm-opus-reconnect")])
def test_other_containers(recorded, audio_format, folder):
    payloads = [path.read_bytes() for path in sorted((VECTORS / folder).glob("*.bin"))]
    session_id = record(recorded, payloads, format=audio_format)
    found = positions(session_id)
    assert sorted(found) == found
    assert found[0] == 0.0
    assert found[-1] == pytest.approx(recorded.recording(session_id).duration_seconds, abs=0.07)


def _check_even(recorded, session_id, payloads, tolerance: float) -> None:
    """Each marker is about where its share of the bytes is."""
    duration = recorded.recording(session_id).duration_seconds
    total = sum(map(len, payloads))
    expected = [duration * size / total for size in accumulate(map(len, payloads), initial=0)]
    assert positions(session_id) == pytest.approx(expected, abs=tolerance)


def test_files_are_marked_between_them(recorded):
    payloads = [encoded_live(speech(0.5, seed=seed), 16000, "mp3") for seed in range(3)]
    session_id = record(recorded, payloads, format="mp3", chunks="files")
    duration = recorded.recording(session_id).duration_seconds
    assert positions(session_id) == pytest.approx([duration * number / 3 for number in range(4)], abs=0.001)


def test_a_rebuild_finds_them_at_the_same_place(recorded):
    payloads = [bytes(2 * 1000)] * 4
    session_id = record(recorded, payloads, **PCM)
    before = positions(session_id)
    Marker.objects.filter(session=session_id).update(position_seconds=None)
    rebuild(session_id)
    concatenate(session_id)
    assert positions(session_id) == before


def test_a_marker_at_the_end_of_what_is_there_already(recorded):
    producer = recorded.open(**PCM)
    recorded.store(producer, bytes(32000))
    concatenate(producer.session_id)
    ingest.add_marker(producer.session_id, "live")
    assert positions(producer.session_id) == [None]
    recorded.store(producer, bytes(32000))
    concatenate(producer.session_id)
    assert positions(producer.session_id) == [1.0]
    recorded.close(producer)
    ingest.add_marker(producer.session_id, "end")
    assert positions(producer.session_id) == [1.0, 2.0]


def test_a_marker_that_comes_while_the_recording_is_finished(recorded, monkeypatch):
    producer = recorded.open(**PCM)
    recorded.store(producer, bytes(32000))
    ingest.close_session(producer.session_id)
    real = PcmAssembler.finish

    def late(*arguments):
        ingest.add_marker(producer.session_id, "late")
        return real(*arguments)

    monkeypatch.setattr(PcmAssembler, "finish", late)
    concatenate(producer.session_id)
    assert positions(producer.session_id) == [1.0]


# Over HTTP


def call(client, method, path, **fields):
    return client.generic(method, path, json.dumps(fields), content_type="application/json")


def test_markers_over_http(recorded, client):
    session_id = recorded.session(bytes(32000), **PCM)
    markers = f"/api/audio/sessions/{session_id}/markers"
    first = call(client, "POST", markers, label="Frage 1", position_seconds=0.25)
    assert first.status_code == 201
    shown = first.json()
    assert list(shown) == ["marker_id", "label", "position_seconds", "sequence", "created_at"]
    assert (shown["label"], shown["position_seconds"], shown["sequence"]) == ("Frage 1", 0.25, None)
    second = call(client, "POST", markers, label="end").json()
    assert (second["position_seconds"], second["sequence"]) == (1.0, 1)
    listed = client.get(markers).json()["results"]
    assert [each["marker_id"] for each in listed] == [shown["marker_id"], second["marker_id"]]
    one = f"{markers}/{shown['marker_id']}"
    assert call(client, "PATCH", one, label="Question 1").json()["position_seconds"] == 0.25
    moved = call(client, "PATCH", one, position_seconds=None).json()
    assert (moved["label"], moved["position_seconds"], moved["sequence"]) == ("Question 1", 1.0, 1)
    assert call(client, "PATCH", one, position_seconds=0).json()["position_seconds"] == 0.0
    assert client.delete(one).status_code == 204
    for method in ("PATCH", "DELETE"):
        answer = call(client, method, one)
        assert (answer.status_code, answer.json()["code"]) == (404, "marker_not_found")


@pytest.mark.parametrize(
    ("fields", "parameter", "limit"),
    [
        ({"label": "x", "position_seconds": -1}, "position_seconds", 31622400),
        ({"label": "x", "position_seconds": "now"}, "position_seconds", 31622400),
        ({"label": "x", "position_seconds": True}, "position_seconds", 31622400),
        ({"label": "x", "position_seconds": [1]}, "position_seconds", 31622400),
        ({"label": "x", "position_seconds": 10**400}, "position_seconds", 31622400),
        ({"label": "x", "position_seconds": 1.5}, "position_seconds", 1.0),
        ({"label": "x" * 256}, "label", 255),
        ({"label": "a\nb"}, "label", 255),
        ({"label": ""}, "label", None),
        ({"label": None}, "label", None),
        ({}, "label", None),
        ({"label": "x", "colour": "red"}, "colour", None),
    ],
)
def test_wrong_markers(recorded, client, fields, parameter, limit):
    session_id = recorded.session(bytes(32000), **PCM)
    answer = call(client, "POST", f"/api/audio/sessions/{session_id}/markers", **fields)
    assert answer.status_code == 400, answer.json()
    error = answer.json()
    assert (error["code"], error["parameter"], error.get("limit")) == ("invalid_parameter", parameter, limit)
    assert not Marker.objects.exists()


def test_a_session_has_so_many_markers_and_no_more(recorded, client, monkeypatch):
    monkeypatch.setattr("audio.ingest.markers.MAX_MARKERS_PER_SESSION", 2)
    session_id = recorded.session(bytes(320), **PCM)
    markers = f"/api/audio/sessions/{session_id}/markers"
    answers = [call(client, "POST", markers, label=str(number)) for number in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert (answers[2].json()["code"], answers[2].json()["limit"]) == ("too_many_markers", 2)


@pytest.mark.parametrize("marker_id", ["nonsense", "123e4567-e89b-42d3-a456-426614174000"])
def test_a_marker_that_is_not_there(recorded, client, marker_id):
    session_id = recorded.session(bytes(320), **PCM)
    answer = client.delete(f"/api/audio/sessions/{session_id}/markers/{marker_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "marker_not_found")


def test_the_marker_of_another_session_is_not_there(recorded, client):
    one, two = (recorded.session(bytes(320), **PCM) for _ in range(2))
    marker = ingest.add_marker(one, "x")
    assert client.delete(f"/api/audio/sessions/{two}/markers/{marker.pk}").status_code == 404
