"""The files for people who join: templates, the workflow, the hooks before a commit, and the version of a release."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

import sercuescribe
from audio.api import asyncapi
from tests.services import REPOSITORY

BIN = Path(sys.executable).parent
GITHUB = REPOSITORY / ".github"
WORKFLOW = GITHUB / "workflows" / "test.yml"
SCHEMAS = {
    WORKFLOW: "github-workflows",
    GITHUB / "ISSUE_TEMPLATE" / "config.yml": "github-issue-config",
    GITHUB / "ISSUE_TEMPLATE" / "bug.yml": "github-issue-forms",
    GITHUB / "ISSUE_TEMPLATE" / "idea.yml": "github-issue-forms",
}
HOOKS = REPOSITORY / ".pre-commit-config.yaml"
RELEASE = re.compile(r"^## \[([^\]]+)\]", re.MULTILINE)


def succeeds(*command: str | Path, **variables: str) -> None:
    environment = os.environ | variables
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_file_for_github_follows_its_schema(path):
    succeeds(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[path]}", path)


def test_every_file_for_github_has_a_schema():
    assert set(SCHEMAS) == set(GITHUB.rglob("*.yml"))


def test_the_workflow_runs_the_commands_of_the_project_on_every_python_and_machine():
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    makefile = (REPOSITORY / "Makefile").read_text()
    (versions,) = re.findall(r"^VERSIONS := (.*)$", makefile, re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == versions.split()
    assert len(job["strategy"]["matrix"]["machine"]) == 2
    commands = [step.get("run") for step in job["steps"]]
    assert "make lint" in commands and commands[-1] == "make test"


def test_the_makefile_takes_the_interpreter_that_the_workflow_names(tmp_path):
    """The first that works counts, so a name that no machine has tells which is tried first."""
    wanted = tmp_path / "python-of-the-workflow"
    wanted.symlink_to(sys.executable)
    printed = subprocess.run(
        ["make", f"VENV={tmp_path / 'venv'}", f"INTERPRETER={wanted}", f"{tmp_path / 'venv'}/bin/python"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0, printed.stderr
    assert f"with {wanted}" in printed.stderr


def test_the_hooks_are_valid_and_run_what_the_project_has(tmp_path):
    succeeds(sys.executable, "-m", "pre_commit", "validate-config", HOOKS, PRE_COMMIT_HOME=str(tmp_path))
    (repository,) = yaml.safe_load(HOOKS.read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = hook["entry"].split()[0]
        assert program == "make" or (BIN / Path(program).name).exists(), hook["entry"]


def test_the_version_is_in_one_place(client: Client, db: None):
    version = sercuescribe.__version__
    assert RELEASE.findall((REPOSITORY / "CHANGELOG.md").read_text())[0] == version
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sercuescribe.__version__"}
    assert client.get("/health").json()["version"] == version
    assert SchemaGenerator().get_schema(request=None, public=True)["info"]["version"] == version
    assert asyncapi.document("ws", "localhost")["info"]["version"] == version
    dockerfile = (REPOSITORY / "docker" / "Dockerfile").read_text()
    assert "\nCOPY sercuescribe sercuescribe\n" in dockerfile and version not in dockerfile
