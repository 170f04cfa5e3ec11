"""The verbs of the Makefile that run for long: signals reach what they start. The rest of it runs the tests."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tests.server import DEADLINE_SECONDS, READY, eventually, is_running
from tests.services import REPOSITORY, product_variables
from tests.sound import speech, wav_bytes

# The environment that runs the tests stands for the one that make would install.
INSTALLED = [
    *("--old-file", ".venv/.base-installed", "--old-file", ".venv/.guide-installed"),
    f"PYTHON={sys.executable}",
]
# `make test` has built the documentation. Two builds at once would disturb each other.
BUILT = [*INSTALLED, "--old-file", "site/guide/index.html"]


@pytest.fixture
def make_run(tmp_path):
    foreign = {*product_variables(), "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    make = subprocess.Popen(
        ["make", *BUILT, "run"],
        cwd=REPOSITORY,
        env=environment | {"DATA_DIR": str(tmp_path / "data"), "PORT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert make.stdout is not None
    yield make
    if make.poll() is None:
        os.killpg(make.pid, signal.SIGKILL)
        make.wait()
    make.stdout.close()


def interrupt_on_the_terminal(make):
    os.killpg(make.pid, signal.SIGINT)


def terminate_the_process_group(make):
    os.killpg(make.pid, signal.SIGTERM)


def terminate_make_alone(make):
    make.terminate()


@pytest.mark.parametrize("stop", [interrupt_on_the_terminal, terminate_the_process_group, terminate_make_alone])
def test_make_run_stops_on_signals_and_leaves_no_process(make_run, stop):
    assert make_run.stdout.readline().startswith(READY)
    processes = psutil.Process(make_run.pid).children(recursive=True)
    assert len(processes) >= 5
    stop(make_run)
    make_run.wait(DEADLINE_SECONDS)
    eventually(lambda: not any(is_running(process) for process in processes))
    assert make_run.stdout.read() == ""


def test_a_machine_without_python_is_told_so(tmp_path):
    for tool in ("sh", "make", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    run = subprocess.run(
        ["make", f"VENV={tmp_path / 'venv'}", "run"],
        cwd=REPOSITORY,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "SercueScribe needs Python 3.11 or later" in run.stderr


def test_pip_shows_how_far_it_is_on_a_terminal_alone(tmp_path):
    command = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", "run"]
    reader, terminal = os.openpty()
    try:
        shown = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=terminal, text=True).stdout
        quiet = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    finally:
        os.close(reader)
        os.close(terminal)
    assert "pip install" in shown and "--quiet" not in shown
    assert "pip install --quiet" in quiet


def test_make_demo_records_the_named_file(tmp_path):
    foreign = {*product_variables(), "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    (tmp_path / "sound.wav").write_bytes(wav_bytes(speech(1), 16000))
    done = subprocess.run(
        ["make", *INSTALLED, "demo", f"FILE={tmp_path / 'sound.wav'}"],
        cwd=REPOSITORY,
        env=environment | {"DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Compared 16000 samples: the recording equals the source." in done.stdout
