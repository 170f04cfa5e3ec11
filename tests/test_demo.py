"""`manage.py demo`: what it says, what it rejects, and that it finds a single wrong sample."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from django.core.management.base import CommandError

from audio.management.commands import demo
from audio.media.samples import PcmFormat
from tests.server import DEADLINE_SECONDS, eventually, is_running
from tests.services import REPOSITORY, product_variables
from tests.sound import decoded, encoded, speech, wav_bytes

KINDS = {
    "8 bits": (16000, 1, "pcm_u8"),
    "24 kHz": (24000, 1, "pcm_s16le"),
    "16 bits": (8000, 2, "pcm_s16le"),
    "24 bits": (44100, 2, "pcm_s24le"),
    "32 bits": (96000, 1, "pcm_s32le"),
    "float": (48000, 2, "pcm_f32le"),
    "mu-law": (8000, 1, "pcm_mulaw"),
}


@pytest.fixture(scope="module")
def server(run_module_server):
    return run_module_server()


@pytest.fixture
def temporary():
    """An empty folder for temporary files whose name is short enough for the socket of a Redis in it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


@pytest.fixture
def start_demo(tmp_path, temporary):
    """Starts `manage.py demo` in `tmp_path`."""
    foreign = product_variables()
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    places = {"DATA_DIR": str(tmp_path / "var"), "TMPDIR": str(temporary)}
    started = []

    def start(*arguments: str, **more: str) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [sys.executable, str(REPOSITORY / "manage.py"), "demo", *arguments],
                cwd=tmp_path,
                env=environment | places | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wav(folder: Path, rate: int = 16000, channels: int = 1, codec: str = "pcm_s16le") -> Path:
    path = folder / f"source-{codec}-{rate}.wav"
    encoded(speech(1.23, rate, channels), rate, path, "-c:a", codec)
    return path


def test_it_records_a_sound_of_its_own_and_tells_what_it_did(start_demo, tmp_path, temporary):
    # The caller's own database must not be touched: this one could not even be reached.
    demo_run = start_demo(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", ALLOWED_HOSTS="example.org")
    said, errors = demo_run.communicate(timeout=DEADLINE_SECONDS)
    assert demo_run.returncode == 0, errors
    assert "The server is ready: http://127.0.0.1:" in said
    assert "101 chunks of 100 ms sent and acknowledged in" in said
    assert "10.00 s long, was ready" in said
    assert "Compared 160000 samples: the recording equals the source." in said
    (recording,) = (tmp_path / "var" / "demo").iterdir()
    assert f"The recording is {recording}" in said
    assert hashlib.sha256(recording.read_bytes()).hexdigest() in said
    assert list(temporary.iterdir()) == []


def test_it_records_the_users_own_file_and_keeps_the_data_if_told_so(start_demo, tmp_path, temporary):
    source = wav(tmp_path, 44100, 2, "pcm_s24le")
    demo_run = start_demo("--file", source.name, "--keep")
    said, errors = demo_run.communicate(timeout=DEADLINE_SECONDS)
    assert demo_run.returncode == 0, errors
    (recording,) = (tmp_path / "var" / "demo").iterdir()
    assert decoded(recording, "s24le") == decoded(source, "s24le")
    (kept,) = temporary.iterdir()
    assert f"The log and the data of the server are in {kept}" in said
    assert list(kept.glob("data/audio/journals/*/*.journal"))


def test_it_leaves_nothing_when_it_is_interrupted(start_demo, temporary):
    demo_run = start_demo()
    assert demo_run.stdout.readline().startswith("The server is ready")
    processes = psutil.Process(demo_run.pid).children(recursive=True)
    assert len(processes) >= 5
    demo_run.send_signal(signal.SIGTERM)
    _, errors = demo_run.communicate(timeout=DEADLINE_SECONDS)
    # Python may tell of a coroutine that was interrupted before its first step.
    assert (demo_run.returncode, "CommandError: Interrupted." in errors.splitlines()) == (130, True)
    eventually(lambda: not any(is_running(process) for process in processes))
    assert list(temporary.iterdir()) == []


INTERRUPTED_BETWEEN_TWO_STEPS = """
import asyncio, os, signal, sys
from audio.management.commands import demo

demo._interrupt_on(signal.SIGTERM)

async def wait():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_later(0.1, done.set_result, None)
    sys.setprofile(strike)
    await done
    await asyncio.sleep(3600)

def strike(frame, event, argument):
    if frame.f_code is asyncio.Handle._run.__code__ and "Task" in repr(frame.f_locals["self"]):
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGTERM)

try:
    asyncio.run(wait())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_between_two_steps_of_the_event_loop_ends_it():
    """The step that is due is the one which goes on with the task."""
    command = [sys.executable, "-c", INTERRUPTED_BETWEEN_TWO_STEPS]
    path = str(REPOSITORY / "clients" / "python")
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "sercuescribe.settings", "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_wav_is_recorded_exactly(server, tmp_path, settings, kind):
    settings.DATA_DIR = tmp_path
    source = demo._inspected(wav(tmp_path, *KINDS[kind]))
    sent = asyncio.run(demo._send(server.url, source))
    assert demo._wait_until_ready(server.url, sent.session_id) == pytest.approx(1.23, abs=1e-3)
    recording = demo._download(server.url, sent.session_id)
    rate, channels, _ = KINDS[kind]
    assert demo._compared(source.path, recording) == round(1.23 * rate) * channels


def test_one_wrong_sample_is_found(tmp_path):
    samples = speech(10, 48000, 2)
    wrong = samples.copy()
    wrong[400_000, 1] += 1
    for name, content in (("source", samples), ("same", samples), ("wrong", wrong), ("short", samples[:-1])):
        (tmp_path / f"{name}.wav").write_bytes(wav_bytes(content, 48000))
    source = tmp_path / "source.wav"
    assert demo._compared(source, tmp_path / "same.wav") == 960_000
    with pytest.raises(CommandError, match=r"wrong.wav differs from .*source.wav at sample 800001"):
        demo._compared(source, tmp_path / "wrong.wav")
    with pytest.raises(CommandError, match="at sample 959998"):
        demo._compared(source, tmp_path / "short.wav")


def rejected(path: Path) -> str:
    with pytest.raises(CommandError) as caught:
        demo._inspected(path)
    return str(caught.value)


def test_what_cannot_be_recorded_is_rejected_in_one_sentence(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no sound at all")
    short = tmp_path / "short.wav"
    short.write_bytes(wav_bytes(speech(0.1), 16000)[:30])
    assert rejected(text) == f"{text} is not a WAV file."
    assert rejected(tmp_path / "none.wav") == f"{tmp_path / 'none.wav'} can't be read: No such file or directory."
    assert rejected(tmp_path) == f"{tmp_path} can't be read: Is a directory."
    assert rejected(short) == f"{short} ends before the format of its samples."
    odd_rate = wav(tmp_path, 37800)
    assert rejected(odd_rate).startswith(f"{odd_rate} has a sample rate of 37800. Sessions allow 8000, 11025, ")
    many = wav(tmp_path, 8000, 3)
    assert rejected(many) == f"{many} has a number of channels of 3. Sessions allow 1, 2."
    assert "64-bit samples" in rejected(wav(tmp_path, codec="pcm_f64le"))
    adpcm = wav(tmp_path, codec="adpcm_ms")
    assert rejected(adpcm).startswith(f"{adpcm} can't be recorded: ")


def test_a_folder_that_cannot_be_written_is_noticed_before_the_recording(start_demo, tmp_path):
    (tmp_path / "file").touch()
    demo_run = start_demo(DATA_DIR=str(tmp_path / "file"))
    said, errors = demo_run.communicate(timeout=DEADLINE_SECONDS)
    assert (demo_run.returncode, said) == (1, "")
    folder = tmp_path / "file" / "demo"
    assert errors == f"CommandError: The folder {folder} can't be written: Not a directory. Set DATA_DIR.\n"


def test_a_wav_without_samples_is_no_proof(tmp_path):
    empty = tmp_path / "empty.wav"
    empty.write_bytes(wav_bytes(np.zeros((0, 1), "<i2"), 16000))
    with pytest.raises(CommandError, match="has no samples"):
        demo._compared(empty, empty)


def test_a_rejected_session_ends_the_demo_with_the_reason(server, tmp_path):
    source = demo._inspected(wav(tmp_path))
    wrong = demo.Source(source.path, PcmFormat("s16le", 12345, 1))
    with pytest.raises(
        CommandError, match=r"The server rejected it: sample_rate must be one of .* \(invalid_parameter\)"
    ):
        asyncio.run(demo._send(server.url, wrong))
