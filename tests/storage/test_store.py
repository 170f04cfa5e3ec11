"""What can be served of a recording in each of its states, and the removal of its files."""

import io
import re
import uuid
import wave

import pytest

from audio.assembly.concatenate import concatenate
from audio.errors import RecordingBuildingError, RecordingEmptyError, RecordingFailedError
from audio.models import AudioSession, Recording
from audio.storage.downloads import Servable, servable
from audio.storage.lock import session_lock
from audio.storage.paths import delete_files, folder
from tests.sound import cut, encoded, speech


def content(found: Servable) -> bytes:
    data = found.path.read_bytes()[: found.size_bytes]
    return found.head + data[len(found.head) :]


def test_a_live_snapshot_is_a_wav_file_of_what_is_committed(stored):
    samples = speech(2).tobytes()
    session = stored(format="wav")
    session.add(cut(samples[:32000], 3200))
    concatenate(session.session.pk)
    first = servable(session.session, session.recording)
    # A window that is being written lies behind the committed length and is not served.
    with first.path.open("ab") as file:
        file.write(b"torn")
    with wave.open(io.BytesIO(content(first))) as file:
        assert file.readframes(file.getnframes()) == samples[:32000]
        assert file.getparams()[:4] == (1, 2, 16000, 16000)
    session.add(cut(samples[32000:], 3200))
    concatenate(session.session.pk)
    second = servable(session.session, session.recording)
    with wave.open(io.BytesIO(content(second))) as file:
        assert file.readframes(file.getnframes()) == samples
    assert first.etag != second.etag
    assert first.etag.startswith('"') and first.etag.endswith('"')
    assert (first.content_type, first.download_name) == ("audio/wav", f"{session.session.pk}-live.wav")


def test_a_live_stream_serves_its_bytes(stored, tmp_path):
    source = encoded(speech(2), 16000, tmp_path / "a.mp3")
    session = stored(format="mp3")
    session.add(cut(source, 500)[:5])
    concatenate(session.session.pk)
    found = servable(session.session, session.recording)
    assert content(found) == source[:2500]
    assert found.content_type == "audio/mpeg"


def test_a_ready_recording(stored):
    session = stored(format="wav")
    session.add(cut(speech(1).tobytes(), 3200))
    recording = session.made()
    found = servable(session.session, recording)
    assert content(found) == session.path.read_bytes()
    assert (found.size_bytes, found.head) == (recording.size_bytes, b"")
    assert found.download_name == f"{session.session.pk}.wav"
    assert found.modified_at == recording.ready_at
    assert found.etag == servable(session.session, session.recording).etag


@pytest.mark.parametrize(
    ("state", "error"),
    [("empty", RecordingEmptyError), ("building", RecordingBuildingError), ("failed", RecordingFailedError)],
)
def test_states_with_nothing_to_serve(stored, state, error):
    session = stored(format="wav")
    recording = Recording(session=session.session, state=state, error_detail="Chunk 3.", error_code="undecodable_chunk")
    with pytest.raises(error):
        servable(session.session, recording)


def test_delete_removes_the_sessions_folder_and_no_other(stored):
    first, second = stored(format="wav"), stored(format="wav")
    for session in (first, second):
        session.add([bytes(3200)])
        session.made()
    delete_files(first.session.pk)
    delete_files(first.session.pk)
    assert not folder(first.session.pk).exists()
    assert second.path.exists()


def test_names_are_relative_and_in_the_sessions_folder(stored):
    session = stored(format="wav")
    session.add([bytes(3200)])
    name = session.made().file_name
    place = f"sessions/{session.session.pk.hex[:2]}/{session.session.pk}"
    assert re.fullmatch(rf"{place}/master-[0-9a-f-]{{36}}\.wav", name)
    assert uuid.UUID(name.split("/")[2]) == session.session.pk


def test_what_is_written_after_the_deletion_of_a_session_goes_with_the_lock(stored):
    session = stored(format="wav")
    place = folder(session.session.pk)
    with session_lock(session.session.pk) as is_ours:
        assert is_ours
        AudioSession.objects.filter(pk=session.session.pk).delete()
        delete_files(session.session.pk)
        place.mkdir()
        (place / "recording.peaks").write_bytes(b"late")
    assert not place.exists()
