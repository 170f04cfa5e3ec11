"""Downloads of WAV files with the markers of their session as cue points."""

import hashlib
import json
import struct
from typing import Any

import pytest

from audio import ingest
from audio.assembly.concatenate import concatenate
from audio.models import Marker
from tests.api.asgi import fetch
from tests.recorded import Recorded

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

PCM: dict[str, Any] = {"format": "wav", "sample_rate": 16000, "channels": 1, "encoding": "s16le"}
LABELS = {0.25: "Frage 1: ü", 0.5: "b", 1.0: "end"}


def riff_chunks(file: bytes) -> dict[bytes, bytes]:
    """The chunks of a WAV file whose sizes add up."""
    assert file[:4] == b"RIFF"
    assert struct.unpack_from("<I", file, 4)[0] == len(file) - 8
    found, at = {}, 12
    while at < len(file):
        name, size = struct.unpack_from("<4sI", file, at)
        found[name] = file[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(file)
    return found


def cues_in(file: bytes) -> dict[int, str]:
    chunks = riff_chunks(file)
    (count,) = struct.unpack_from("<I", chunks[b"cue "])
    points = list(struct.iter_unpack("<II4sIII", chunks[b"cue "][4:]))
    assert len(points) == count
    frames = {number: frame for number, _, name, _, _, frame in points if name == b"data"}
    assert chunks[b"LIST"][:4] == b"adtl"
    labels, at = {}, 4
    while at < len(chunks[b"LIST"]):
        name, size, number = struct.unpack_from("<4sII", chunks[b"LIST"], at)
        assert name == b"labl"
        labels[number] = chunks[b"LIST"][at + 12 : at + 8 + size].removesuffix(b"\0").decode()
        at += 8 + size + size % 2
    return {frames[number]: label for number, label in labels.items()}


@pytest.fixture
def marked(recorded: Recorded):
    session_id = recorded.session(bytes(range(250)) * 128, **PCM)
    for seconds, label in reversed(LABELS.items()):
        ingest.add_marker(session_id, label, seconds)
    return str(session_id)


def test_a_recording_has_its_markers_as_cue_points(marked, client):
    plain, cued = fetch(marked), fetch(marked, "?markers=true")
    assert cued.status_code == 200
    assert cues_in(cued.body) == {round(seconds * 16000): label for seconds, label in LABELS.items()}
    assert riff_chunks(cued.body)[b"data"] == riff_chunks(plain.body)[b"data"] == bytes(range(250)) * 128
    assert int(cued["Content-Length"]) == len(cued.body)
    # The file itself is as it was.
    assert fetch(marked).body == plain.body
    shown = client.get(f"/api/audio/sessions/{marked}").json()
    assert shown["recording"]["sha256"] == hashlib.sha256(plain.body).hexdigest()
    assert fetch(marked, "?markers=false").body == plain.body


def test_any_range_is_a_part_of_the_whole(marked):
    whole = fetch(marked, "?markers=1").body
    size = len(fetch(marked).body)
    for first, last in ((0, 3), (0, 99), (40, 79), (79, 80), (80, 200), (size - 5, size + 5), (size, size + 9)):
        part = fetch(marked, "?markers=1", Range=f"bytes={first}-{last}")
        assert (part.status_code, part.body) == (206, whole[first : last + 1])
    assert fetch(marked, "?markers=1", Range="bytes=-7").body == whole[-7:]
    assert fetch(marked, "?markers=1", Range=f"bytes=0-{10**9}").body == whole
    assert fetch(marked, "?markers=1", method="HEAD")["Content-Length"] == str(len(whole))


def test_the_etag_changes_with_the_markers(marked, client):
    before = fetch(marked, "?markers=1")
    assert before["ETag"] != fetch(marked)["ETag"]
    assert fetch(marked, "?markers=1", If_None_Match=before["ETag"]).status_code == 304
    marker = Marker.objects.get(label="b")
    path = f"/api/audio/sessions/{marked}/markers/{marker.pk}"
    client.patch(path, json.dumps({"label": "c"}), content_type="application/json")
    after = fetch(marked, "?markers=1", If_None_Match=before["ETag"])
    assert after.status_code == 200
    assert "c" in cues_in(after.body).values()


def test_a_session_without_markers(recorded):
    session_id = str(recorded.session(bytes(32000), **PCM))
    assert fetch(session_id, "?markers=1").body == fetch(session_id).body


def test_an_odd_number_of_bytes(recorded):
    """Mu-law samples have one byte, and become 16 bits in the recording; 24 bits stay, with a pad byte."""
    session_id = recorded.session(bytes(3 * 333), **PCM | {"encoding": "s24le"})
    ingest.add_marker(session_id, "x", 0.01)
    assert cues_in(fetch(str(session_id), "?markers=1").body) == {160: "x"}


@pytest.mark.parametrize(
    ("query", "parameter"), [("?markers=perhaps", "markers"), ("?markers=true&format=aac", "format")]
)
def test_what_can_not_have_markers(marked, query, parameter):
    answer = fetch(marked, query)
    error = json.loads(answer.body)
    assert (answer.status_code, error["code"], error["parameter"]) == (400, "invalid_parameter", parameter)


def test_a_recording_that_still_grows(recorded):
    producer = recorded.open(**PCM)
    recorded.store(producer, bytes(32000))
    concatenate(producer.session_id)
    answer = fetch(str(producer.session_id), "?markers=true")
    assert (answer.status_code, json.loads(answer.body)["code"]) == (409, "recording_not_ready")
