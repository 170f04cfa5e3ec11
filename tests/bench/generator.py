"""The load generator: `load.c`, built when it is needed, or the one in Python if there is no C compiler."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.services import REPOSITORY

SOURCE = Path(__file__).with_name("load.c")
PYTHON = (sys.executable, "-m", "tests.bench.load")


@cache
def built(folder: Path) -> tuple[str, ...]:
    """Return the command of the generator, which is built into a folder."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return PYTHON
    program = folder / "load"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(SOURCE)], check=True)
    return (str(program),)


def drive(command: tuple[str, ...], port: int, path: str, **options: float | str) -> dict[str, Any]:
    """Run the generator.

    Args:
        command: The command, from `built`.
        port: The port of the server on this machine.
        path: The path of its WebSocket, with the query.
        options: The generator's other options, such as `connections`.

    Returns:
        Its figures. `sent` and the times count from the end of the warm-up.
    """
    named = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    ran = subprocess.run(
        [*command, "--port", str(port), "--path", path, *named],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: dict[str, Any] = json.loads(ran.stdout)
    return figures
