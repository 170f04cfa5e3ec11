"""What holds for every file of the repository, and no linter looks at. import-linter and ruff hold the rest.

An exemption is written down here with its reason; one that nothing needs any more fails too.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.services import REPOSITORY

FUNCTION_MAX_LINES = 40
FOLDERS = ("sercuescribe", "audio", "tasks", "clients/python")
MODULES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))
PRODUCT = [*(path for path in MODULES if "migrations" not in path.parts), REPOSITORY / "manage.py"]

# Where the environment is touched outside of sercuescribe/settings.py, how often, and why.
SETTINGS_MODULE = "names the settings before Django can be asked for them"
ENVIRONMENT = {
    "manage.py": (1, SETTINGS_MODULE),
    "sercuescribe/asgi.py": (1, SETTINGS_MODULE),
    "sercuescribe/celery.py": (1, SETTINGS_MODULE),
    "sercuescribe/server.py": (2, f"{SETTINGS_MODULE}; tells Prometheus' client where processes share their numbers"),
    "audio/management/fork.py": (2, "replaces it by that of the fork"),
    "audio/management/supervisor.py": (1, "passes it on to forks"),
    "audio/management/commands/demo.py": (1, "passes it on to the server that it starts"),
    "audio/management/commands/serve.py": (2, "passes it on to its children, with the folder of the product in it"),
    "clients/python/sercuescribe_client/server.py": (2, "programs that use the client name their server and key there"),
}
LONG_FUNCTIONS: dict[str, str] = {}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def environment_uses(tree: ast.Module) -> Iterator[int]:
    """Gives the lines that reach for the process's environment, by whatever name it was imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb", "putenv"):
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (
                node.lineno for alias in node.names if alias.name in ("environ", "environb", "getenv", "putenv")
            )
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (node.lineno for module in modules if module.split(".")[0] in ("environ", "dotenv", "decouple"))


def test_only_the_settings_read_the_environment():
    found = {name_of(path): len(list(environment_uses(parsed(path)))) for path in PRODUCT}
    assert found.pop("sercuescribe/settings.py")
    assert {name: count for name, count in found.items() if count} == {
        n: count for n, (count, _) in ENVIRONMENT.items()
    }


@pytest.mark.parametrize(
    "code",
    ["import os\nos.getenv('A')", "from os import environ as e\ne['A']", "import os as o\no.environ", "import environ"],
)
def test_a_use_of_the_environment_is_seen(code):
    assert list(environment_uses(ast.parse(code)))


def test_every_module_says_what_it_is_for():
    silent = [name_of(path) for path in PRODUCT if path.stat().st_size and not ast.get_docstring(parsed(path))]
    assert silent == []


def broad_excepts(tree: ast.Module) -> Iterator[int]:
    """Gives the lines where anything at all is caught, unless it is raised again at the end."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {kind and ast.unparse(kind).rpartition(".")[2] for kind in caught}
            if names & {None, "Exception", "BaseException"}:
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            names = {ast.unparse(kind) for kind in node.args}
            yield from [node.lineno] if names & {"Exception", "BaseException"} else []


def test_nothing_is_caught_but_what_can_be_handled():
    found = [f"{name_of(path)}:{line}" for path in PRODUCT for line in broad_excepts(parsed(path))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "try: ...\nexcept: ...",
        "try: ...\nexcept (OSError, Exception) as e: ...",
        "with contextlib.suppress(Exception): ...",
    ],
)
def test_a_broad_except_is_seen(code):
    assert list(broad_excepts(ast.parse(code)))


def test_functions_are_short():
    long = {
        f"{name_of(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in PRODUCT
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for name, lines in long.items() if lines > FUNCTION_MAX_LINES} == set(LONG_FUNCTIONS)


# Every file, of whatever kind


def tracked_texts() -> dict[str, str]:
    """Returns the text files that git knows, or where there is no git all that lie here; binary ones are left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        hidden = re.compile(r"(^|/)(\.|var/|node_modules/|__pycache__/)")
        files = (path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.rglob("*") if path.is_file())
        names = [name for name in files if not hidden.search(name)]
    texts = {}
    for name in names:
        path = REPOSITORY / name
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content:
            texts[name] = content.decode()
    return texts


# Put together here, so that this file is not one of those that it finds.
FORBIDDEN = {
    "what is left to do": rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'XX' + 'X'})\b",
    "a path of one machine": r"(?<![\w./~<-])/(home|root|Users|work|mnt)/\w",
    "an address inside a network": r"(?<![\d.])(10\.\d+|192\.168|172\.(1[6-9]|2\d|3[01]))\.\d+\.\d+(?![\d.])",
    "a registry's host": r"(--(extra-)?index-url|--trusted[-]host|pypi\.org/simple|pythonhosted\.org|registry\.npmjs)",
    "a secret": r"(-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36})",
}
# Names of files that may hold such a thing, and why.
ALLOWED = {
    ("a path of one machine", "docker/"): "paths inside of an image are the same on every machine",
    ("an address inside a network", "tests/"): "made-up addresses, to see that answers don't tell them",
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_file_holds(kind):
    pattern = re.compile(FORBIDDEN[kind])
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        if not any(name.startswith(prefix) for allowed, prefix in ALLOWED if allowed == kind)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("what is left to do", "# TO" + "DO: later"),
        ("a path of one machine", "open('/ho" + "me/me/x')"),
        ("an address inside a network", "http://10.1" + ".2.3/"),
        ("a registry's host", "--index" + "-url http://x"),
        ("a secret", "-----BEGIN RSA PRIV" + "ATE KEY-----"),
    ],
)
def test_the_patterns_find_what_they_are_for(kind, text):
    assert re.search(FORBIDDEN[kind], text)
