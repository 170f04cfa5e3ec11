"""The units in `deploy/systemd`: systemd accepts them, they start what the page says, and readiness is told."""

import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debian import FOLDER, program
from tests.deploy.proxies import DEPLOY
from tests.docs.text import fenced
from tests.server import DEADLINE_SECONDS, migrated
from tests.services import REPOSITORY, free_port

UNITS = sorted((DEPLOY / "systemd").iterdir())
PAGE = REPOSITORY / "docs" / "operations.md"


def value(unit: Path, name: str) -> str:
    """The one value of a name in a unit."""
    (found,) = [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]
    return found


def command(unit: Path) -> list[str]:
    """What a unit starts, as systemd passes it on, by our own interpreter."""
    words = [word.replace("%%", "%") for word in shlex.split(value(unit, "ExecStart"))]
    program = words[0].removeprefix("/opt/sercuescribe/.venv/bin/")
    return [sys.executable, *(["-m", program] if program != "python" else []), *words[1:]]


def test_systemd_accepts_the_units(tmp_path):
    found = program("systemd-analyze")
    # An unpacked one brings the units of the system that ours refer to.
    shipped = list(FOLDER.glob("systemd-analyze/**/lib/systemd/system"))
    environment = found.environment | {"SYSTEMD_UNIT_PATH": "".join(f"{each}:" for each in shipped) or ":"}
    (tmp_path / "installation").symlink_to(REPOSITORY)
    for unit in UNITS:
        text = unit.read_text().replace("/opt/sercuescribe/.venv/bin/", f"{Path(sys.executable).parent}/")
        (tmp_path / unit.name).write_text(text.replace("/opt/sercuescribe", str(tmp_path / "installation")))
    paths = [tmp_path / unit.name for unit in UNITS]
    done = subprocess.run([found.path, "verify", *paths], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_units_start_what_the_page_says():
    (block,) = [block for block in fenced(PAGE, "sh") if "-m sercuescribe.server --host" in block]
    written = {line.removeprefix(".venv/bin/").strip() for line in block.splitlines()}
    started = {
        " ".join(shlex.split(value(unit, "ExecStart"))).removeprefix("/opt/sercuescribe/.venv/bin/").replace("%%", "%")
        for unit in UNITS
        if unit.suffix == ".service" and "serve" not in unit.stem.split("-")
    }
    only_checks = {"python manage.py check --database default"}
    assert started == written - only_checks


def test_each_stops_in_its_own_way():
    def stop(name: str) -> tuple[str, str]:
        unit = DEPLOY / "systemd" / f"sercuescribe-{name}.service"
        return value(unit, "KillMode"), value(unit, "TimeoutStopSec")

    assert {name: stop(name) for name in ("web", "worker", "jobs")} == {
        "web": ("mixed", "20s"),
        "worker": ("mixed", "60s"),
        "jobs": ("mixed", "20s"),
    }
    assert value(DEPLOY / "systemd" / "sercuescribe-jobs.service", "KillSignal") == "SIGQUIT"


@pytest.mark.parametrize("name", ["web", "worker", "jobs", "serve"])
@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_unit_that_notifies_is_told_when_it_is_ready(name, is_abstract, tmp_path):
    unit = DEPLOY / "systemd" / f"sercuescribe-{name}.service"
    assert value(unit, "Type") == "notify"
    if is_abstract and name != "web":
        return
    address = f"@{tmp_path.name}-{free_port()}" if is_abstract else str(tmp_path / "notify")
    environment = migrated(tmp_path / "data", NOTIFY_SOCKET=address, PORT="0")
    words = ["0" if word == "8000" else word for word in command(unit)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{address[1:]}" if is_abstract else address)
        listener.settimeout(DEADLINE_SECONDS)
        with subprocess.Popen(words, cwd=REPOSITORY, env=environment) as process:
            try:
                assert listener.recv(64) == b"READY=1"
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(DEADLINE_SECONDS)
