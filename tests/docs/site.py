"""The documentation site, as `make guide` builds it."""

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.services import REPOSITORY
from tests.test_makefile import INSTALLED

SITE = REPOSITORY / "site" / "guide"


def build() -> None:
    """Build the site if it is not up to date. `make test` has built it before."""
    with (Path(sys.prefix) / ".guide-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", *INSTALLED, "guide"], cwd=REPOSITORY, check=True)
