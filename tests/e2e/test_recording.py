"""A browser records its microphone: each kind, a second recorder in the session, a server that dies meanwhile."""

import pytest

from tests.containers import has_index, hashes, timeline_seconds
from tests.e2e.sound import clear_windows
from tests.sound import decoded

# A recorder goes on until so many half-seconds were heard clearly: a busy machine's browser loses some of the sound.
CLEAR_WINDOWS = 3
LEAST_SECONDS, MOST_SECONDS = 2, 40
# What the page asks of MediaRecorder: the type, and the length of a slice in milliseconds.
KINDS = {
    "webm-opus": ("audio/webm;codecs=opus", 100),
    "mp4-opus": ("audio/mp4;codecs=opus", 250),
    "webm-pcm": ("audio/webm;codecs=pcm", 100),
}
# The microphone's own samples come every 10 ms.
MICROPHONE_MS = 10
MICROPHONE = ("-f", "s16le", "-ar", "44100", "-ac", "2")


def begin(studio, audio_format):
    studio.call("open", {"format": audio_format})


def stop_when_heard(studio, source, before, message_ms, *input_options):
    """Stops the recorder when the sound was heard; `source` is then what came after the first `before` messages."""
    for seconds in range(LEAST_SECONDS, MOST_SECONDS):
        studio.wait_for_messages(before + seconds * 1000 // message_ms)
        source.write_bytes(b"".join(studio.messages()[before:]))
        if clear_windows(source, *input_options) >= CLEAR_WINDOWS:
            break
    studio.call("stop")
    source.write_bytes(b"".join(studio.messages()[before:]))
    assert clear_windows(source, *input_options) >= CLEAR_WINDOWS


def record(studio, kind, source, meanwhile=None):
    """Records with a new MediaRecorder; what it gave is then in `source`. `meanwhile` is called when it has begun."""
    before, (mime_type, slice_ms) = len(studio.messages()), KINDS[kind]
    studio.call("record", mime_type, slice_ms)
    studio.wait_for_messages(before + 3)
    if meanwhile:
        meanwhile()
    stop_when_heard(studio, source, before, slice_ms)


def close(studio, rest, path):
    """Closes the session and saves its recording; returns the session as the page was told it."""
    session = studio.call("close")
    path.write_bytes(rest.download(session["session_id"]))
    return session


def assert_heard(path):
    """Its half-seconds may begin some milliseconds elsewhere than those of what was sent."""
    assert clear_windows(path) >= CLEAR_WINDOWS - 1


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
    record(studio, kind, source)
    session = close(studio, rest, path)
    assert hashes(path) == hashes(source)
    assert has_index(path)
    assert_heard(path)
    assert_plays(studio, session)


def test_samples_without_a_media_recorder(studio, rest, tmp_path):
    begin(studio, "wav")
    studio.call("recordSamples")
    path, source = tmp_path / "recording.wav", tmp_path / "source.pcm"
    stop_when_heard(studio, source, 0, MICROPHONE_MS, *MICROPHONE)
    session = close(studio, rest, path)
    assert decoded(path) == source.read_bytes()
    assert_heard(path)
    assert_plays(studio, session)


@pytest.mark.parametrize("kind", ["webm-opus", "mp4-opus"])
def test_a_new_media_recorder_after_a_lost_connection(studio, rest, tmp_path, kind):
    audio_format = kind.split("-")[0]
    path, sources = tmp_path / f"recording.{audio_format}", []
    begin(studio, audio_format)
    for number in range(2):
        sources.append(tmp_path / f"source-{number}.{audio_format}")
        record(studio, kind, sources[-1])
        if not number:
            studio.call("drop")
    session = close(studio, rest, path)
    assert hashes(path) == hashes(*sources)
    assert session["recording"]["duration_seconds"] == pytest.approx(sum(map(timeline_seconds, sources)), abs=0.1)
    assert_plays(studio, session)


def test_the_server_dies_and_comes_back(studio, server, rest, tmp_path):
    def kill_and_restart():
        server.kill_all()
        server.restart()

    path, source = tmp_path / "recording.webm", tmp_path / "source.webm"
    begin(studio, "webm")
    record(studio, "webm-opus", source, kill_and_restart)
    session = close(studio, rest, path)
    assert hashes(path) == hashes(source)
    assert_heard(path)
    assert_plays(studio, session)
