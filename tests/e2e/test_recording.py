"""A browser records its microphone: each kind, a second recorder in the session, a server that dies meanwhile."""

import numpy as np
import pytest

from tests.containers import has_index, hashes
from tests.e2e.sound import SOUND_HZ, correlations
from tests.sound import decoded

SECONDS = 2
# How much sound the microphone gives at a time.
MICROPHONE_MS = 10
# What the page asks of MediaRecorder: the type, and the length of a slice in milliseconds.
KINDS = {
    "webm-opus": ("audio/webm;codecs=opus", 100),
    "mp4-opus": ("audio/mp4;codecs=opus", 250),
    "webm-pcm": ("audio/webm;codecs=pcm", 100),
}


def begin(studio, audio_format):
    studio.call("open", {"format": audio_format})


def record(studio, kind, *meanwhile):
    """Records with a new MediaRecorder, and does something when it has begun; returns its messages as one stream."""
    before, (mime_type, slice_ms) = len(studio.messages()), KINDS[kind]
    studio.call("record", mime_type, slice_ms)
    studio.wait_for_messages(before + 3)
    for act in meanwhile:
        act()
    studio.wait_for_messages(before + SECONDS * 1000 // slice_ms)
    studio.call("stop")
    return b"".join(studio.messages()[before:])


def close(studio, rest, path):
    """Closes the session and saves its recording; returns the session as the page was told it."""
    session = studio.call("close")
    path.write_bytes(rest.download(session["session_id"]))
    return session


def assert_heard(path):
    recording = np.frombuffer(decoded(path, rate=SOUND_HZ), "<i2").reshape(-1, 2)
    found = correlations(recording)
    assert len(found) >= 2 * SECONDS - 1
    assert min(found) > 0.99, found


def assert_plays(studio, session):
    """The browser knows the length, begins in the middle, and comes to the end."""
    seconds = session["recording"]["duration_seconds"]
    played = studio.call("play", session["recording"]["url"])
    assert played == pytest.approx({"duration": seconds, "middle": seconds / 2, "end": seconds}, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slices_of_a_media_recorder(studio, rest, tmp_path, kind):
    audio_format = kind.split("-")[0]
    path, source = tmp_path / f"recording.{audio_format}", tmp_path / f"source.{audio_format}"
    begin(studio, audio_format)
    source.write_bytes(record(studio, kind))
    session = close(studio, rest, path)
    assert hashes(path) == hashes(source)
    assert has_index(path)
    assert_heard(path)
    assert_plays(studio, session)


def test_samples_without_a_media_recorder(studio, rest, tmp_path):
    begin(studio, "wav")
    studio.call("recordSamples")
    studio.wait_for_messages(SECONDS * 1000 // MICROPHONE_MS)
    studio.call("stop")
    path = tmp_path / "recording.wav"
    session = close(studio, rest, path)
    assert decoded(path) == b"".join(studio.messages())
    assert_heard(path)
    assert_plays(studio, session)


@pytest.mark.parametrize("kind", ["webm-opus", "mp4-opus"])
def test_a_new_media_recorder_after_a_lost_connection(studio, rest, tmp_path, kind):
    audio_format = kind.split("-")[0]
    path, sources = tmp_path / f"recording.{audio_format}", []
    begin(studio, audio_format)
    for number in range(2):
        sources.append(tmp_path / f"source-{number}.{audio_format}")
        sources[-1].write_bytes(record(studio, kind))
        if not number:
            studio.call("drop")
    session = close(studio, rest, path)
    assert hashes(path) == hashes(*sources)
    assert session["recording"]["duration_seconds"] > 2 * SECONDS - 0.5
    assert_plays(studio, session)


def test_the_server_dies_and_comes_back(studio, server, rest, tmp_path):
    def kill_and_restart():
        server.kill_all()
        server.restart()

    path, source = tmp_path / "recording.webm", tmp_path / "source.webm"
    begin(studio, "webm")
    source.write_bytes(record(studio, "webm-opus", kill_and_restart))
    session = close(studio, rest, path)
    assert hashes(path) == hashes(source)
    assert_heard(path)
    assert_plays(studio, session)
