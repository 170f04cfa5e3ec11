"""`make chaos`, for some seconds: it says what it does, and verifies."""

import os
import re
import subprocess
import sys

from tests.services import REPOSITORY


def test_it_strikes_and_verifies():
    command = [sys.executable, "-m", "tests.cluster.chaos", "--minutes", "0.05", "--seed", "5"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^ +\d+\.\d s  (kill -9|stop|freeze|cut off) \S+, for \d\.\d s$", run.stdout, re.MULTILINE)
    right = re.search(r"^right: (\d+) recordings of (\d+) acknowledged chunks", run.stdout, re.MULTILINE)
    assert right
    assert int(right[1]) >= 12
