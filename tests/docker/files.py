"""Reads docker-compose.yml and docker/Dockerfile as their engines would, as far as the two go."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.services import REPOSITORY

COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
CADDYFILE = REPOSITORY / "docker" / "Caddyfile"
EXAMPLE = REPOSITORY / ".env.example"
OUR_IMAGE = "sercuescribe"
# A default may be made of other variables.
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::\?([^}]*)|:-((?:[^{}]|\$\{[^}]*\})*))?\})")


class MissingVariableError(Exception):
    """A variable that the Compose file requires is not set or empty."""


@dataclass(frozen=True)
class Service:
    """One service: its command and health check as lists of words, an empty one for none."""

    name: str
    command: list[str]
    health_check: list[str]
    environment: dict[str, str]
    depends_on: dict[str, str]
    stop_signal: str
    stop_grace_seconds: float


def example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def services(variables: Mapping[str, str], profile: str = "") -> dict[str, Service]:
    """Return the services that `docker compose up` starts with these variables in `.env`.

    Raises:
        MissingVariableError: A required variable is not set.
    """
    content = _interpolated(yaml.safe_load(COMPOSE.read_text()), variables)
    return {
        name: _service(name, fields, variables)
        for name, fields in content["services"].items()
        if profile in fields.get("profiles", [profile])
    }


def _service(name: str, fields: dict[str, Any], variables: Mapping[str, str]) -> Service:
    is_ours = fields["image"] == OUR_IMAGE
    image = dockerfile() if is_ours else {"ENV": {}, "CMD": [], "HEALTHCHECK": []}
    health = fields.get("healthcheck", {})
    disabled = health.get("disable", False)
    return Service(
        name=name,
        command=fields.get("command", image["CMD"]),
        health_check=[] if disabled else _words(health["test"]) if "test" in health else image["HEALTHCHECK"],
        environment={**image["ENV"], **(variables if "env_file" in fields else {}), **fields.get("environment", {})},
        depends_on={other: how["condition"] for other, how in fields.get("depends_on", {}).items()},
        stop_signal=fields.get("stop_signal", "SIGTERM"),
        stop_grace_seconds=float(str(fields.get("stop_grace_period", "10s")).removesuffix("s")),
    )


def _words(test: list[str]) -> list[str]:
    kind, *words = test
    return ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each, variables) for each in value]
    return _VARIABLE.sub(lambda match: _substitute(match, variables), value) if isinstance(value, str) else value


def _substitute(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, complaint, default = match.groups()
    if name is None:
        return "$"
    found = variables.get(name, "")
    if not found and complaint is not None:
        raise MissingVariableError(f"{name}: {complaint}")
    return found or str(_interpolated(default or "", variables))


def dockerfile() -> dict[str, Any]:
    """What the last stage of the Dockerfile says: `ENV`, `CMD` and `HEALTHCHECK`."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :].splitlines()
    (environment,) = [line.removeprefix("ENV ") for line in stage if line.startswith("ENV ")]
    (command,) = [line.removeprefix("CMD ") for line in stage if line.startswith("CMD ")]
    (health,) = [line.partition(" CMD ")[2] for line in stage if line.startswith("HEALTHCHECK ")]
    variables = dict(word.split("=", 1) for word in shlex.split(environment))
    # That of the image's programs; here they are elsewhere.
    del variables["PATH"]
    return {"ENV": variables, "CMD": json.loads(command), "HEALTHCHECK": json.loads(health)}
