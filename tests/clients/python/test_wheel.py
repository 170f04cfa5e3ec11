"""The wheel: built without the network, installed into a fresh environment, and used from there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from sercuescribe_client import Client, __version__

from tests.clients.python.conftest import CLIENT
from tests.server import DEADLINE_SECONDS
from tests.sound import samples_of, speech, wav_bytes

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command: str | Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel. It is built from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(CLIENT, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist", source)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel, which sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    variables = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", variables))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*PIP, "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder


def test_the_wheel_has_the_package_with_its_types_and_nothing_else(wheel):
    assert wheel.name == f"sercuescribe_client-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith("/METADATA")]
    assert "sercuescribe_client/py.typed" in names and "sercuescribe_client/cli/app.py" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"sercuescribe_client", f"sercuescribe_client-{__version__}.dist-info"}
    for line in ("Requires-Python: >=3.11", "Requires-Dist: typer>=0.19; extra == 'cli'", "License-Expression: MIT"):
        assert line in metadata


def test_the_installed_command_and_library_record(environment, server, key, tmp_path):
    sound = speech(1)
    (tmp_path / "talk.wav").write_bytes(wav_bytes(sound, 16000))
    variables = {"SERCUESCRIBE_URL": server.url, "SERCUESCRIBE_API_KEY": key}
    assert run(environment / "bin" / "scribe", "--version") == __version__
    session_id = run(environment / "bin" / "scribe", "record", tmp_path / "talk.wav", **variables)
    where = "import sercuescribe_client; print(sercuescribe_client.__file__)"
    assert Path(run(environment / "bin" / "python", "-c", where)).is_relative_to(environment)
    with Client(server.url, key) as client:
        client.sessions.wait_until_ready(session_id)
        assert samples_of(b"".join(client.sessions.read(session_id))) == sound.tobytes()


def test_the_command_says_what_it_needs_where_the_extra_is_missing(environment):
    code = "import sys; sys.modules['typer'] = None; from sercuescribe_client.cli import main; main()"
    command = [environment / "bin" / "python", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 1
    assert done.stderr == "scribe needs the package typer. Install it with: pip install 'sercuescribe-client[cli]'\n"
