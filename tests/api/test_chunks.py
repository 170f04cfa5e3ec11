"""One chunk over HTTP: the bytes that were acknowledged, whatever became of the recording."""

import pytest
from django.test import Client

from audio.models import AudioChunk, Recording
from tests.stored import Stored

pytestmark = [pytest.mark.database, pytest.mark.django_db]

PAYLOADS = [b"first", bytes(range(256)) * 20, b"last"]


@pytest.fixture
def stored(settings, tmp_path):
    settings.AUDIO_STORAGE_PATH = tmp_path
    stored = Stored(tmp_path, format="flac", chunk_mode="files")
    stored.add(PAYLOADS)
    yield stored
    stored.release()


def fetch(stored, sequence):
    return Client().get(f"/api/audio/sessions/{stored.session.pk}/chunks/{sequence}")


def test_a_chunk_of_a_failed_recording_is_there_as_it_came(stored):
    assert stored.made().state == "failed"
    for sequence, payload in enumerate(PAYLOADS, start=1):
        answer = fetch(stored, sequence)
        assert (answer.status_code, answer.content) == (200, payload)
        assert answer["Content-Type"] == "application/octet-stream"
        assert answer["Content-Disposition"] == f'attachment; filename="{stored.session.pk}-{sequence}.bin"'
    assert fetch(stored, "2/").content == PAYLOADS[1]
    assert Recording.objects.get(pk=stored.session.pk).state == "failed"


@pytest.mark.parametrize(
    ("sequence", "status", "code"),
    [
        ("0", 404, "chunk_not_found"),
        ("4", 404, "chunk_not_found"),
        ("9" * 18, 404, "chunk_not_found"),
        ("9" * 19, 400, "invalid_parameter"),
        ("-1", 400, "invalid_parameter"),
        ("two", 400, "invalid_parameter"),
        ("²", 400, "invalid_parameter"),
    ],
)
def test_a_chunk_that_is_not_there(stored, sequence, status, code):
    answer = fetch(stored, sequence)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_damaged_chunk_is_not_given_out(stored):
    chunk = AudioChunk.objects.select_related("journal").get(session=stored.session, sequence=2)
    with (stored.root / chunk.journal.name).open("r+b") as file:
        file.seek(chunk.offset + 64 + 10)
        file.write(b"x")
    answer = fetch(stored, 2)
    assert (answer.status_code, answer.json()["code"], answer.json()["sequence"]) == (500, "chunk_damaged", 2)
